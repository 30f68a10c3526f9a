"""What a navigator knows, and how a scan and a drill change it (method, equations 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medeyes_monai.experts import Candidate
from medeyes_monai.geometry import Box

__all__ = [
    "Mode",
    "NavigatorState",
    "after_drill",
    "after_scan",
    "closer",
    "is_same_place",
    "relative_gain",
    "switch",
    "worth_a_look",
]

DELTA = 0.15  # method, equation 3: relative gain of confidence from which drilling goes on
EPS = 1e-6  # method, equation 3
MAX_REGIONS = 5  # method, section 2
SAME_PLACE_IOU = 0.5  # method, section 4: from this IoU on, two looks count as one place (r_div)
MIN_EXTENT = 64  # voxels; chosen: the smallest region that a candidate shows, shown at its own resolution

Mode = Literal["scan", "drill"]
"""``F_t`` of equation 2: ``scan`` is global, ``drill`` is local."""


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
    new = [c for c in worth_a_look(candidates) if not is_same_place(c.box, state.looked)]
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


def worth_a_look(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that have any confidence: what a scan tells plainly is not looked at."""
    return [c for c in candidates if c.confidence > 0]


def is_same_place(box: Box, others: Sequence[Box]) -> bool:
    """Tell whether a region is, but for its outline, one of some others."""
    return any(box.iou(other) >= SAME_PLACE_IOU for other in others)
