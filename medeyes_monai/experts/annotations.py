"""An expert made of the data's own annotations, with as much error as is wanted."""

from __future__ import annotations

import numpy as np

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts.base import Candidate, Reader, Verdict
from medeyes_monai.experts.native import least_extent
from medeyes_monai.experts.random import random_box
from medeyes_monai.experts.relevance import NOTHING, relevance_of
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Finding, Scene
from medeyes_monai.seeding import numpy_generator, seed_of

__all__ = ["NOTHING", "AnnotationExpert"]

UNNAMED = "candidate"
"""What a scan says of a finding that only a close look can name, and of a false alarm."""

# Mean confidences. Chosen, not from the paper: scanning only leans towards the truth, a drill that settles
# the question lies above the stopping threshold xi = 0.85, and one that does not lies at or below what a
# scan of such a finding gives, so that equation (3) mostly goes back to scanning.
SCAN_DECISIVE, SCAN_SUPPORTING, SCAN_LOOKALIKE, SCAN_FALSE_ALARM = 0.65, 0.55, 0.45, 0.35
DRILL_DECISIVE, DRILL_SUPPORTING, DRILL_OTHER = 0.92, 0.55, 0.2

COARSE_FACTOR = 2
"""A region that a scan finds only roughly has this many times the side, and half of it is a close look."""
COARSE_SHARE = 0.7
"""A scan is this much as confident of such a region; chosen so that a blurred drill mostly gains delta."""
DRILL_BLURRED = 0.7
"""Mean confidence where a drill sees that something is there, but not what. Chosen below ``xi``."""

DRILL_NOISE_SHARE = 0.25
"""A drill's confidence is this much as noisy as a scan's: looking closely is more reliable."""

PLAIN = 0.0
"""A scan's confidence for a finding that the overview shows plainly: a closer look would gain nothing."""

_LEAST, _MOST = 0.01, 0.99
_LEVELS = ("decisive", "supporting", "other")
_FALSE_ALARM_TRIES = 16


class AnnotationExpert:
    """Reads ``scene.findings`` and errs in a controlled way.

    Every error is drawn by address (seed, image, query, box), so the same question about the same region
    always gets the same reply. A scan says where something is and leans towards what matters; a drill says
    what is there and is more reliable.

    Findings that are not ``subtle`` are never missed and carry their label in a scan, with confidence 0:
    the overview has said what there is to say, so a navigator does not look closer at them.

    **Confidence** is a chosen mean (``SCAN_DECISIVE`` and its neighbours) for how much the finding matters
    for the question, plus noise; it is not calibrated.

    Args:
        reader: The data set's rule of how findings answer a question. A finding matters more if it settles
            the question, less if it changes the answer or shares a word with the question, least if neither.
            Without a reader every annotated finding counts as settling and no answer is given.
        miss_rate: Probability that a scan overlooks a subtle finding.
        false_alarm_rate: Expected number of additional boxes in a scan where nothing is annotated.
        confidence_noise: Standard deviation of a scan's confidence; a drill's is a quarter of it.
        drill_error: Probability that a drill names something else: the label of another subtle finding of
            the image, or "normal".
        min_extent: Candidates are grown about the finding to at least this side, inside the scene; in a
            volume, the same in millimetres along axes with larger voxels. Unit: voxels.
        jitter: A candidate is moved by at most this far along each axis. Unit: voxels.
        coarse_rate: Probability that a scan finds a subtle finding only roughly, in a region of twice the
            side. Needs ``legible_extent``, else a rough region would be as good as another.
        legible_extent: Longest side of a region in which a drill can name a subtle finding; in a larger one
            it says that there is a candidate, with a confidence that asks for a closer look. None: any.
            Unit: voxels.
        seed: Everything is drawn by address from here.

    Raises:
        ConfigError: If a rate or probability is out of its range.

    Example:
        >>> AnnotationExpert(miss_rate=1.5)
        Traceback (most recent call last):
        medeyes_monai.errors.ConfigError: miss_rate is a probability in [0, 1], got 1.5
    """

    reads_key = True  # draws by the key of the scene

    def __init__(
        self,
        reader: Reader | None = None,
        *,
        miss_rate: float = 0.05,
        false_alarm_rate: float = 0.3,
        confidence_noise: float = 0.15,
        drill_error: float = 0.05,
        min_extent: int = 64,
        jitter: int = 0,
        coarse_rate: float = 0.0,
        legible_extent: int | None = None,
        seed: int = 0,
    ) -> None:
        """Check the settings; see the class."""
        for name, value in (
            ("miss_rate", miss_rate),
            ("drill_error", drill_error),
            ("coarse_rate", coarse_rate),
        ):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is a probability in [0, 1], got {value}")
        if min(false_alarm_rate, confidence_noise, jitter) < 0 or min_extent < 1:
            raise ConfigError(
                "false_alarm_rate, confidence_noise and jitter must not be negative and min_extent must be "
                f"at least 1, got {false_alarm_rate}, {confidence_noise}, {jitter} and {min_extent}"
            )
        if coarse_rate and legible_extent is None:
            raise ConfigError("coarse_rate needs legible_extent: what a drill can name only closer up")
        self.reader, self.seed = reader, seed
        self.miss_rate, self.false_alarm_rate = miss_rate, false_alarm_rate
        self.confidence_noise, self.drill_error = confidence_noise, drill_error
        self.min_extent, self.jitter = min_extent, jitter
        self.coarse_rate, self.legible_extent = coarse_rate, legible_extent

    @property
    def name(self) -> str:
        """``annotations-`` and a digest of the settings, so that memos of other settings stay apart."""
        rates = (self.miss_rate, self.false_alarm_rate, self.confidence_noise, self.drill_error)
        reader = type(self.reader).__qualname__
        detail = (repr(self.coarse_rate), repr(self.legible_extent))
        digest = seed_of(reader, *map(repr, rates), self.min_extent, self.jitter, *detail, self.seed)
        return f"annotations-{digest:016x}"

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Propose a region for each finding that is not missed, and some false alarms, best first."""
        least = least_extent(scene, self.min_extent)
        found = [self._candidate(scene, query, finding, least) for finding in scene.findings]
        candidates = [c for c in found if c is not None] + self._false_alarms(scene, query, least)
        return tuple(sorted(candidates, key=lambda c: (-c.confidence, c.box.corners)))

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Name the finding whose centre lies in the region; of several, a subtle one with the best IoU."""
        rng = numpy_generator(self.seed, "drill", scene.key, query, *box.corners)
        inside = [f for f in scene.findings if box.contains(f.box.centre)]
        blurred = self.legible_extent is not None and max(box.extent) > self.legible_extent
        if blurred and any(f.subtle for f in inside):
            return Verdict(self._confidence(rng, DRILL_BLURRED, DRILL_NOISE_SHARE), UNNAMED)
        label = max(inside, key=lambda f: (f.subtle, box.iou(f.box))).label if inside else NOTHING
        if rng.uniform() < self.drill_error:
            label = _another(rng, scene.findings, label)
        mean, answer = self._judge(query, label, (DRILL_DECISIVE, DRILL_SUPPORTING, DRILL_OTHER))
        return Verdict(self._confidence(rng, mean, DRILL_NOISE_SHARE), label, answer)

    def _candidate(
        self, scene: Scene, query: str, finding: Finding, least: tuple[int, ...]
    ) -> Candidate | None:
        region = finding.box.expand(scene.shape, minimum=least)
        if not finding.subtle:
            return Candidate(region, PLAIN, finding.label)
        rng = numpy_generator(self.seed, "scan", scene.key, query, *finding.box.corners)
        if rng.uniform() < self.miss_rate:
            return None
        means = (SCAN_DECISIVE, SCAN_SUPPORTING, SCAN_LOOKALIKE)
        confidence = self._confidence(rng, self._judge(query, finding.label, means)[0])
        if self.coarse_rate and rng.uniform() < self.coarse_rate:
            region = finding.box.expand(scene.shape, minimum=[COARSE_FACTOR * n for n in least])
            confidence *= COARSE_SHARE
        return Candidate(_moved(rng, region, scene.shape, self.jitter), confidence, UNNAMED)

    def _false_alarms(self, scene: Scene, query: str, least: tuple[int, ...]) -> list[Candidate]:
        rng = numpy_generator(self.seed, "false alarms", scene.key, query)
        alarms: list[Candidate] = []
        for _ in range(int(rng.poisson(self.false_alarm_rate))):
            draws = (random_box(rng, scene.shape, least, least) for _ in range(_FALSE_ALARM_TRIES))
            empty = (box for box in draws if not any(box.intersection(f.box) for f in scene.findings))
            if (box := next(empty, None)) is not None:
                alarms.append(Candidate(box, self._confidence(rng, SCAN_FALSE_ALARM), UNNAMED))
        return alarms

    def _judge(self, query: str, label: str, means: tuple[float, float, float]) -> tuple[float, str | None]:
        """Return the mean confidence that a label deserves for a query, and the answer that it supports."""
        relevance = relevance_of(self.reader, query, label)
        return dict(zip(_LEVELS, means, strict=True))[relevance.level], relevance.answer

    def _confidence(self, rng: np.random.Generator, mean: float, share: float = 1.0) -> float:
        value = rng.normal(mean, self.confidence_noise * share)
        return float(np.clip(value, _LEAST, _MOST))


def _moved(rng: np.random.Generator, box: Box, shape: tuple[int, ...], jitter: int) -> Box:
    """Move a box by at most ``jitter`` along each axis, inside the grid."""
    steps = rng.integers(-jitter, jitter, size=box.ndim, endpoint=True).tolist()
    return box.moved(steps).expand(shape)


def _another(rng: np.random.Generator, findings: tuple[Finding, ...], label: str) -> str:
    """Draw what a mistaken drill says instead of ``label``; the label itself if there is no other word."""
    others = sorted(({f.label for f in findings if f.subtle} | {NOTHING}) - {label})
    return others[int(rng.integers(len(others)))] if others else label
