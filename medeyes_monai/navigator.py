"""GRN, the Gaze-guided Reasoning Navigator: turns a frozen expert into a search path (method, section 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import Candidate, Expert, Reader, Reading, Verdict, checked
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene
from medeyes_monai.trajectory import Fixation, Trajectory

__all__ = [
    "Choose",
    "Mode",
    "Navigator",
    "NavigatorState",
    "after_drill",
    "after_scan",
    "closer",
    "relative_gain",
    "switch",
]

DELTA = 0.15  # method, equation 3: relative gain of confidence from which drilling goes on
EPS = 1e-6  # method, equation 3
XI = 0.85  # method, section 2: local confidence at which the search stops
MAX_STEPS = 4  # method, section 2: T_max
MAX_REGIONS = 5  # method, section 2
SAME_PLACE_IOU = 0.5  # method, section 4: from this IoU on, two looks count as one place (r_div)
MIN_EXTENT = 64  # voxels; chosen: the smallest region that a candidate shows, shown at its own resolution

Mode = Literal["scan", "drill"]
"""``F_t`` of equation 2: ``scan`` is global, ``drill`` is local."""

Choose = Callable[[Sequence[Box], Sequence[float]], int]
"""Picks one of some regions by their confidences: the place where a sampler comes in."""


@dataclass(frozen=True, slots=True)
class NavigatorState:
    """``psi_t = (R_t, C_t, F_t)`` of equation 2, and what has been looked at.

    Args:
        regions: ``R_t``, the candidate regions. Unit: voxels of the scene.
        confidences: ``C_t``, a confidence in [0, 1] for each.
        mode: ``F_t``: ``scan`` if the next region is chosen among all, ``drill`` if it is :attr:`focus`.
        focus: Index of the region that is being drilled; None after a scan.
        looked: Every region that was looked at, in order; a re-scan leaves these places out.
    """

    regions: tuple[Box, ...] = ()
    confidences: tuple[float, ...] = ()
    mode: Mode = "scan"
    focus: int | None = None
    looked: tuple[Box, ...] = ()


def relative_gain(before: float, after: float, eps: float = EPS) -> float:
    """Return ``dc = (c_{t+1} - c_t) / (c_t + eps)`` of equation 3.

    Example:
        >>> round(relative_gain(0.4, 0.5), 5)
        0.25
    """
    return (after - before) / (before + eps)


def switch(before: float, after: float, delta: float = DELTA, eps: float = EPS) -> Mode:
    """Decide by equation 3 whether a closer look at the same region pays, or the search goes back to all.

    Example:
        >>> switch(0.4, 0.5), switch(0.4, 0.41)
        ('drill', 'scan')
    """
    return "drill" if relative_gain(before, after, eps) >= delta else "scan"


def after_scan(
    state: NavigatorState, candidates: Sequence[Candidate], max_regions: int = MAX_REGIONS
) -> NavigatorState:
    """Return the state after a scan: the best regions at places that were not looked at before.

    A candidate with confidence 0 has no probability and is no region to look at.

    Args:
        state: The state before.
        candidates: What the expert proposes, best first.
        max_regions: Largest number of regions that are kept.

    Example:
        >>> seen = NavigatorState(looked=(Box((0, 0), (4, 4)),))
        >>> proposed = [Candidate(Box((0, 0), (4, 4)), 0.9), Candidate(Box((5, 0), (9, 4)), 0.3)]
        >>> after_scan(seen, proposed).confidences
        (0.3,)
    """
    new = [c for c in _worth_a_look(candidates) if not _was_looked_at(c.box, state.looked)]
    kept = sorted(new, key=lambda c: -c.confidence)[:max_regions]
    return NavigatorState(
        regions=tuple(c.box for c in kept),
        confidences=tuple(float(c.confidence) for c in kept),
        mode="scan",
        looked=state.looked,
    )


def after_drill(
    state: NavigatorState, index: int, confidence: float, mode: Mode, min_extent: int = MIN_EXTENT
) -> NavigatorState:
    """Return the state after a drill into one region.

    Args:
        state: The state before.
        index: The region that was drilled.
        confidence: ``c_{t+1}(r_i)``, the refined confidence.
        mode: What :func:`switch` decided, or an ablation.
        min_extent: See :func:`closer`.

    Returns:
        In mode ``drill``, the state whose focus is a smaller region inside this one. Where the region
        cannot get smaller, or in mode ``scan``, it is settled: gone from the regions, and the next one
        is chosen among all.

    Example:
        >>> state = NavigatorState((Box((0, 0), (8, 8)),), (0.5,))
        >>> after_drill(state, 0, 0.7, "drill", min_extent=4).regions
        (Box(start=(2, 2), stop=(6, 6)),)
    """
    smaller = closer(state.regions[index], min_extent) if mode == "drill" else None
    regions, confidences = list(state.regions), list(state.confidences)
    looked = (*state.looked, regions[index])
    if smaller is None:
        del regions[index], confidences[index]
        return NavigatorState(tuple(regions), tuple(confidences), "scan", None, looked)
    regions[index], confidences[index] = smaller, confidence
    return NavigatorState(tuple(regions), tuple(confidences), "drill", index, looked)


def closer(box: Box, min_extent: int = MIN_EXTENT) -> Box | None:
    """Return the half of a region about its centre, or None where it cannot get smaller.

    Args:
        box: The region.
        min_extent: No side is made smaller than this. Unit: voxels.

    Example:
        >>> closer(Box((0, 0), (100, 40)), min_extent=64)
        Box(start=(18, 0), stop=(82, 40))
        >>> closer(Box((0, 0), (64, 40)), min_extent=64) is None
        True
    """
    sides = tuple(min(n, max(min_extent, -(-n // 2))) for n in box.extent)
    if sides == box.extent:
        return None
    start = tuple(a + (n - side) // 2 for a, n, side in zip(box.start, box.extent, sides, strict=True))
    return Box(start, tuple(a + side for a, side in zip(start, sides, strict=True)))


class Navigator:
    """Searches a scene with an expert, one region after another, until it knows enough.

    Scan, choose a region, drill into it; where the drill raised the confidence by ``delta`` (equation 3),
    look closer at the same region, else scan again for what is left. The search stops when a drill's
    confidence reaches ``xi``, after ``max_steps`` looks, or when no region is left. A reading that no
    further look can change counts as confidence 1, so a question that the scan alone decides is answered
    without a look, and ``xi`` above 1 switches both ways of stopping early off.

    Args:
        expert: Who scans and drills. Wrap it in a ``MemoExpert``: a path scans again and again.
        reader: The data set's rule of how findings answer a question. Without one, the answer is the last
            verdict's.
        delta: Relative gain of confidence from which drilling goes on.
        xi: Confidence at which the search stops.
        max_steps: Largest number of looks.
        max_regions: Largest number of regions to choose from.
        mode: ``both``; or, for the ablations, ``scan`` (never a closer look) or ``drill`` (one scan, then
            only closer looks at the region that was chosen from it).
        min_extent: Closer looks stop at regions of this side. Unit: voxels.

    Raises:
        ConfigError: If a limit leaves nothing to do, or ``mode`` is not one of the three.

    Example:
        >>> from types import SimpleNamespace
        >>> from medeyes_monai.experts import AnnotationExpert
        >>> from medeyes_monai.scenes import Finding
        >>> finding = Finding(Box((10, 10), (40, 40)), "ring")
        >>> scene = SimpleNamespace(key="a", shape=(200, 200), findings=(finding,))
        >>> exact = AnnotationExpert(miss_rate=0, false_alarm_rate=0, confidence_noise=0, drill_error=0)
        >>> path = Navigator(exact).navigate(scene, "what is it?", lambda regions, confidences: 0)
        >>> path.fixations[0].reasoning, path.boxes, path.reasoning
        ('1 candidate', (Box(start=(0, 0), stop=(64, 64)),), 'ring')
    """

    def __init__(
        self,
        expert: Expert,
        *,
        reader: Reader | None = None,
        delta: float = DELTA,
        xi: float = XI,
        max_steps: int = MAX_STEPS,
        max_regions: int = MAX_REGIONS,
        mode: Literal["both", "scan", "drill"] = "both",
        min_extent: int = MIN_EXTENT,
    ) -> None:
        """Check the settings; see the class."""
        if min(max_steps, max_regions, min_extent) < 1:
            raise ConfigError(
                "max_steps, max_regions and min_extent must be at least 1, "
                f"got {max_steps}, {max_regions} and {min_extent}"
            )
        if mode not in ("both", "scan", "drill"):
            raise ConfigError(f"mode is 'both', 'scan' or 'drill', got {mode!r}")
        self.expert, self.reader, self.mode = expert, reader, mode
        self.delta, self.xi = delta, xi
        self.max_steps, self.max_regions, self.min_extent = max_steps, max_regions, min_extent

    def navigate(self, scene: Scene, query: str, choose: Choose) -> Trajectory:
        """Search once and return the path.

        Args:
            scene: The image.
            query: The question, in words.
            choose: Picks the region to look at next whenever there is a choice.

        Returns:
            The path, boxes in voxels of the scene. The reasoning of the first turn says how many candidates
            the scan proposed to look at, that of each later turn what the look before it found. A fixation's
            ``mode`` is ``scan`` if the region was chosen among all and ``drill`` if it is a closer look; its
            ``confidence`` is the drill's, ``c_{t+1}``. The answer is None where nobody could give one.

        Raises:
            ExpertError: If the expert breaks its contract.
        """
        search = _Search(candidates=checked.scan(self.expert, scene, query))
        reading = self._read(query, search)
        thought, state = _summary(search.candidates), NavigatorState()
        if not self._is_over(search, _certainty(reading)):
            state = after_scan(state, search.candidates, self.max_regions)
        while state.regions:
            index = state.focus if state.focus is not None else choose(state.regions, state.confidences)
            verdict = checked.drill(self.expert, scene, state.regions[index], query)
            look = Fixation(thought, state.regions[index], state.mode, verdict.confidence)
            search = search.extended(look, verdict)
            reading = self._read(query, search)
            thought = verdict.finding
            if self._is_over(search, max(verdict.confidence, _certainty(reading))):
                break
            state = self._next(state, index, verdict.confidence, scene, query)
        return Trajectory(search.looks, thought, _answer(reading, search.verdicts))

    def _is_over(self, search: _Search, confidence: float) -> bool:
        return confidence >= self.xi or len(search.looks) >= self.max_steps

    def _read(self, query: str, search: _Search) -> Reading:
        if self.reader is None:
            return Reading(answer=None, decisive=False)
        findings = [verdict.finding for verdict in search.verdicts]
        return self.reader.read(query, findings, search.candidates)

    def _next(
        self, state: NavigatorState, index: int, confidence: float, scene: Scene, query: str
    ) -> NavigatorState:
        """Apply equation 3, or an ablation in its place, and scan again where that is the result."""
        wanted: Mode = (
            switch(state.confidences[index], confidence, self.delta) if self.mode == "both" else self.mode
        )
        state = after_drill(state, index, confidence, wanted, self.min_extent)
        if state.mode == "drill":
            return state
        if self.mode == "drill":
            return replace(state, regions=(), confidences=())
        return after_scan(state, checked.scan(self.expert, scene, query), self.max_regions)


@dataclass(frozen=True, slots=True)
class _Search:
    """What is known so far: the scan, the looks, and the latest verdict on each place."""

    candidates: tuple[Candidate, ...]
    looks: tuple[Fixation, ...] = ()
    verdicts: tuple[Verdict, ...] = ()

    def extended(self, look: Fixation, verdict: Verdict) -> _Search:
        """Add a look; a closer look replaces what the place was taken for, so that it isn't counted twice."""
        before = self.verdicts[:-1] if look.mode == "drill" else self.verdicts
        return _Search(self.candidates, (*self.looks, look), (*before, verdict))


def _worth_a_look(candidates: Sequence[Candidate]) -> list[Candidate]:
    return [c for c in candidates if c.confidence > 0]


def _was_looked_at(box: Box, looked: Sequence[Box]) -> bool:
    return any(box.iou(other) >= SAME_PLACE_IOU for other in looked)


def _summary(candidates: Sequence[Candidate]) -> str:
    count = len(_worth_a_look(candidates))
    return f"{count} candidate{'' if count == 1 else 's'}"


def _certainty(reading: Reading) -> float:
    return 1.0 if reading.decisive and reading.answer is not None else 0.0


def _answer(reading: Reading, verdicts: Sequence[Verdict]) -> str | None:
    if reading.answer is not None:
        return reading.answer
    return verdicts[-1].answer if verdicts else None
