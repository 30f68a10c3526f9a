"""The search itself: an expert asked for one region after another until enough is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import Candidate, Expert, Reader, Reading, Verdict, checked
from medeyes_monai.experts.queries import QueryTemplates
from medeyes_monai.geometry import Box
from medeyes_monai.navigator.decisions import Decision, Reason, Search
from medeyes_monai.navigator.state import (
    DELTA,
    MAX_REGIONS,
    MIN_EXTENT,
    Mode,
    NavigatorState,
    after_drill,
    after_scan,
    relative_gain,
    switch,
    worth_a_look,
)
from medeyes_monai.navigator.tiles import scan_around, scan_parts
from medeyes_monai.scenes import Scene
from medeyes_monai.trajectory import Fixation, Trajectory

__all__ = ["Choose", "Navigator", "conclusion"]

XI = 0.85  # method, section 2: local confidence at which the search stops
MAX_STEPS = 4  # method, section 2: T_max
OPEN = "open"
"""Stands in a thought for an answer that the findings do not give yet."""

Choose = Callable[[Sequence[Box], Sequence[float]], int]
"""Picks one of some regions by their confidences: the place where a sampler comes in."""
Stop = Callable[[], bool]
"""Says whether a search has to end here."""


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
        finer: How often a scan that brings up no new place is repeated on a finer scale: the image in 2, 4,
            ... overlapping parts along each axis, each scanned by itself. 0, the default, is what the
            benchmark's figures were measured with; 1 costs up to four more scans of a picture.
        rescans: How often what is around each candidate is scanned again, each time wider, before one is
            chosen (see :func:`~.tiles.scan_around`). 0, the default: the first scan is believed. Each costs a
            scan more for every candidate. Two or three may do harm, since each scan makes up things of its
            own; 8 is what was measured (``scripts/measure_focus.py``).
        queries: What the expert is asked in place of the question; the question itself if not given.
        conclude: After each look, the reasoning says what it found and also the answer that all findings so
            far support (see :func:`conclusion`), so that no later thought has to go through all of them
            again. Without a reader nobody knows that answer, and nothing is added.

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
        finer: int = 0,
        rescans: int = 0,
        queries: QueryTemplates | None = None,
        conclude: bool = False,
    ) -> None:
        """Check the settings; see the class."""
        if min(max_steps, max_regions, min_extent) < 1:
            raise ConfigError(
                "max_steps, max_regions and min_extent must be at least 1, "
                f"got {max_steps}, {max_regions} and {min_extent}"
            )
        if min(finer, rescans) < 0:
            raise ConfigError(f"finer and rescans must not be negative, got {finer} and {rescans}")
        if mode not in ("both", "scan", "drill"):
            raise ConfigError(f"mode is 'both', 'scan' or 'drill', got {mode!r}")
        self.expert, self.reader, self.mode = expert, reader, mode
        self.delta, self.xi = delta, xi
        self.max_steps, self.max_regions, self.min_extent = max_steps, max_regions, min_extent
        self.finer, self.rescans, self.queries = finer, rescans, queries or QueryTemplates()
        self.conclude = conclude and reader is not None

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
        return self.search(scene, query, choose).trajectory

    def search(self, scene: Scene, query: str, choose: Choose, stop: Stop = lambda: False) -> Search:
        """Search once and return the path with what was decided on it; see :meth:`navigate`.

        Args:
            scene: The image.
            query: The question, in words.
            choose: Picks the region to look at next.
            stop: Asked before each look; True ends the search there (reason ``budget``).
        """
        asked = self.queries.fill(query, scene)
        found = _Findings(checked.scan(self.expert, scene, asked.scan))
        reading, state, decisions = self._read(query, found), NavigatorState(), []
        scales = _Scales(self, scene, asked.scan, stop)
        thought = _summary(found.candidates)
        if _certainty(reading) >= self.xi:
            decisions.append(_without_a_look("decisive"))
        else:
            state, found = self._scanned(state, found, found.candidates, scales)
            thought = _summary(found.proposed)
            if not state.regions or stop():
                decisions.append(_without_a_look("budget" if state.regions else "nothing"))
                state = NavigatorState()
        while state.regions:
            index = state.focus if state.focus is not None else choose(state.regions, state.confidences)
            region, before, mode = state.regions[index], state.confidences[index], state.mode
            verdict = checked.drill(self.expert, scene, region, asked.drill)
            found = found.extended(Fixation(thought, region, mode, verdict.confidence), verdict)
            reading = self._read(query, found)
            thought = conclusion(verdict.finding, reading) if self.conclude else verdict.finding
            state, found, decision, reason = self._next(state, index, found, reading, scales)
            gain = relative_gain(before, verdict.confidence)
            step = len(found.looks)
            decisions.append(Decision(step, mode, region, before, verdict.confidence, gain, decision, reason))
        path = Trajectory(found.looks, thought, _answer(reading, found.verdicts))
        return Search(path, tuple(decisions))

    def _read(self, query: str, found: _Findings) -> Reading:
        if self.reader is None:
            return Reading(answer=None, decisive=False)
        findings = [verdict.finding for verdict in found.verdicts]
        return self.reader.read(query, findings, found.candidates)

    def _next(
        self,
        state: NavigatorState,
        index: int,
        found: _Findings,
        reading: Reading,
        scales: _Scales,
    ) -> tuple[NavigatorState, _Findings, Literal["drill", "scan", "stop"], Reason]:
        """Apply equation 3, or an ablation in its place, and scan again where that is the result."""
        confidence = found.verdicts[-1].confidence
        if (end := self._reason_to_stop(found, confidence, reading, scales.stop)) is not None:
            return NavigatorState(), found, "stop", end
        wanted, reason = self._wanted(state.confidences[index], confidence)
        state = after_drill(state, index, confidence, wanted, self.min_extent)
        if state.mode == "drill":
            return state, found, "drill", reason
        reason = "smallest" if wanted == "drill" else reason
        if self.mode == "drill":
            return NavigatorState(), found, "stop", reason
        whole = checked.scan(self.expert, scales.scene, scales.query)
        state, found = self._scanned(state, found, whole, scales)
        if not state.regions:
            return state, found, "stop", "nothing_new"
        if scales.stop():
            return NavigatorState(), found, "stop", "budget"
        return state, found, "scan", reason

    def _reason_to_stop(
        self, found: _Findings, confidence: float, reading: Reading, stop: Stop
    ) -> Reason | None:
        if confidence >= self.xi:
            return "xi"
        if _certainty(reading) >= self.xi:
            return "decisive"
        if len(found.looks) >= self.max_steps:
            return "max_steps"
        return "budget" if stop() else None

    def _wanted(self, before: float, after: float) -> tuple[Mode, Reason]:
        if self.mode != "both":
            return self.mode, "mode"
        mode = switch(before, after, self.delta)
        return mode, "gain" if mode == "drill" else "no_gain"

    def _scanned(
        self,
        state: NavigatorState,
        found: _Findings,
        whole: tuple[Candidate, ...],
        scales: _Scales,
    ) -> tuple[NavigatorState, _Findings]:
        """Return the state after a scan, going to finer scales only while nothing new comes up.

        Where none of them holds what is believed after all, what the scan of the whole proposed is looked at.
        """
        for level in range(self.finer + 1):
            proposed = scales.proposed(level, whole)
            after = after_scan(state, proposed, self.max_regions)
            if after.regions:
                return after, replace(found, proposed=proposed)
        return after_scan(state, whole, self.max_regions), replace(found, proposed=whole)


def conclusion(finding: str, reading: Reading) -> str:
    """Return the thought after a look: what it found, and the answer that is supported so far.

    Example:
        >>> conclusion("left large solid", Reading("1", decisive=False))
        'left large solid; 1'
        >>> conclusion("ring", Reading(None, decisive=False))
        'ring; open'
    """
    return f"{finding}; {OPEN if reading.answer is None else reading.answer}"


@dataclass(frozen=True, slots=True)
class _Findings:
    """What is known so far: the scan of the whole, the looks, and the latest verdict on each place.

    ``proposed`` is what the latest scan proposed, the whole's or that of parts.
    """

    candidates: tuple[Candidate, ...]
    proposed: tuple[Candidate, ...] = ()
    looks: tuple[Fixation, ...] = ()
    verdicts: tuple[Verdict, ...] = ()

    def extended(self, look: Fixation, verdict: Verdict) -> _Findings:
        """Add a look; a closer look replaces what the place was taken for, so that it isn't counted twice."""
        before = self.verdicts[:-1] if look.mode == "drill" else self.verdicts
        proposed = (c.disagreement for c in self.proposed if c.box == look.box)
        look = replace(look, disagreement=max(verdict.disagreement, *proposed, 0.0))
        return replace(self, looks=(*self.looks, look), verdicts=(*before, verdict))


@dataclass(frozen=True, slots=True)
class _Scales:
    """What the scans of one search propose, scale by scale; what takes many calls of the expert, once."""

    navigator: Navigator
    scene: Scene
    query: str
    stop: Stop
    known: dict[int, tuple[Candidate, ...]] = field(default_factory=dict)

    def proposed(self, level: int, whole: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        """Return what is proposed in the whole, or in 2 to the level parts along each axis."""
        if not level and not self.navigator.rescans:
            return whole
        if level not in self.known:
            self.known[level] = self._scanned(level, whole)
        return self.known[level]

    def _scanned(self, level: int, found: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        by = self.navigator
        if level:
            found = scan_parts(by.expert, self.scene, self.query, 2**level, by.min_extent)
        if by.rescans:
            found = scan_around(by.expert, self.scene, self.query, found, by.rescans, self.stop)
        return found


def _without_a_look(reason: Reason) -> Decision:
    return Decision(0, "scan", None, None, None, None, "stop", reason)


def _summary(candidates: Sequence[Candidate]) -> str:
    count = len(worth_a_look(candidates))
    return f"{count} candidate{'' if count == 1 else 's'}"


def _certainty(reading: Reading) -> float:
    return 1.0 if reading.decisive and reading.answer is not None else 0.0


def _answer(reading: Reading, verdicts: Sequence[Verdict]) -> str | None:
    if reading.answer is not None:
        return reading.answer
    return verdicts[-1].answer if verdicts else None
