"""A scan on a finer scale: the same expert, one part of the image at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from statistics import fmean

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import Candidate, Expert, checked
from medeyes_monai.experts.consensus_rules import Vote, elected, fused_box, majority_mask, match, spread
from medeyes_monai.experts.native import voxel_mm
from medeyes_monai.geometry import Box
from medeyes_monai.navigator.state import is_same_place, worth_a_look
from medeyes_monai.scenes import Scene

__all__ = ["in_whole", "parts_of", "scan_around", "scan_parts", "surroundings"]

OVERLAP = 1.25  # chosen: parts overlap, so that what lies on a border is whole in one of them
WIDENED = 0.25  # chosen: how much wider the next surroundings of a region are, in its longest side
SAME_THING_IOU = 0.3  # chosen: two scans outline one thing less alike than SAME_PLACE_IOU asks
SEEN_AGAIN = 1 / 3  # chosen: share of the scans that show a thing whole from which on it is believed


def scan_parts(expert: Expert, scene: Scene, query: str, number: int, least: int) -> tuple[Candidate, ...]:
    """Scan an image part by part.

    Args:
        expert: Who scans.
        scene: The image.
        query: What the expert is asked.
        number: Parts along each axis.
        least: No part has a side below this, unless the image has. Unit: voxels.

    Returns:
        Candidates in voxels of the scene, best first; of those that are one place, the best. None where the
        image is too small to have parts.

    Raises:
        ConfigError: If the scene has no method ``part``.
        ExpertError: If the expert breaks its contract.
    """
    _check_parts(scene, "finer=0")
    parts = parts_of(scene.shape, number, least)
    found = [candidate for part in parts for candidate in _scan_part(expert, scene, part, query)]
    kept: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (-c.confidence, c.box.corners)):
        if not is_same_place(candidate.box, [other.box for other in kept]):
            kept.append(candidate)
    return tuple(kept)


def scan_around(
    expert: Expert,
    scene: Scene,
    query: str,
    proposed: Sequence[Candidate],
    rounds: int,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Candidate, ...]:
    """Scan what is around each candidate again and return what the scans agree on, best first.

    What a scan overlooks, cuts off or makes up, another one mostly does not: this helps as far as an
    expert's errors change with the part of the image that it is shown. Regions of several scans that overlap
    are one thing: its box is the mean of theirs, its confidence the mean of those scans that propose it, its
    disagreement twice their standard deviation. A region that a part cuts off does not count, and a thing
    that less than a third of the scans propose that show it whole is left out.

    Args:
        expert: Who scans.
        scene: The image.
        query: What the expert is asked.
        proposed: What the first scan proposed.
        rounds: How often the surroundings of what is believed so far are scanned, each time wider.
        stop: Asked before each scan; True leaves out the rest.

    Raises:
        ConfigError: If the scene has no method ``part``.
        ExpertError: If the expert breaks its contract.
    """
    _check_parts(scene, "rescans=0")
    whole, voxel = Box.whole(scene.shape), voxel_mm(scene)
    scans = {whole: tuple(proposed)}
    for number in range(1, rounds + 1):
        for candidate in worth_a_look(_agreed(scans)):
            part = surroundings(candidate.box, scene.shape, voxel, 1 + WIDENED * number)
            if part in scans:
                continue
            if stop():
                return _agreed(scans)
            scans[part] = tuple(
                c for c in _scan_part(expert, scene, part, query) if not _is_cut(c.box, part, whole)
            )
    return _agreed(scans)


def surroundings(box: Box, shape: Sequence[int], voxel_mm: Sequence[float], factor: float) -> Box:
    """Return what is around a region: its longest side times a factor along each axis, inside the grid.

    Args:
        box: The region. Unit: voxels.
        shape: Extent of the grid. Unit: voxels.
        voxel_mm: Size of a voxel along each axis.
        factor: How much longer each side is than the region's longest.

    Example:
        >>> surroundings(Box((40, 40, 9), (60, 50, 10)), (200, 200, 20), (1.0, 1.0, 5.0), 2.0)
        Box(start=(30, 25, 6), stop=(70, 65, 14))
    """
    longest = max(n * mm for n, mm in zip(box.extent, voxel_mm, strict=True))
    return box.expand(shape, minimum=[math.ceil(factor * longest / mm) for mm in voxel_mm])


def parts_of(shape: Sequence[int], number: int, least: int) -> tuple[Box, ...]:
    """Return overlapping parts that cover a grid; none where the grid is too small to be divided.

    Args:
        shape: Extent of the grid. Unit: voxels.
        number: Parts along each axis, fewer where they would be smaller than ``least``.
        least: Smallest side of a part. Unit: voxels.

    Example:
        >>> [part.corners for part in parts_of((100, 40), 2, least=40)]
        [(0, 0, 63, 40), (37, 0, 100, 40)]
        >>> parts_of((100, 40), 2, least=60)
        ()
    """
    counts = [max(1, min(number, n // least)) for n in shape]
    if max(counts) == 1:
        return ()
    parts = []
    for place in product(*map(range, counts)):
        start = tuple(n * i // c for n, i, c in zip(shape, place, counts, strict=True))
        stop = tuple(n * (i + 1) // c for n, i, c in zip(shape, place, counts, strict=True))
        parts.append(Box(start, stop).expand(shape, factor=OVERLAP))
    return tuple(parts)


def in_whole(box: Box, part: Box) -> Box:
    """Return a region of a part in voxels of the whole.

    Example:
        >>> in_whole(Box((0, 0), (2, 2)), Box((10, 5), (20, 20)))
        Box(start=(10, 5), stop=(12, 7))
    """
    start = tuple(a + o for a, o in zip(box.start, part.start, strict=True))
    return Box(start, tuple(a + n for a, n in zip(start, box.extent, strict=True)))


def _scan_part(expert: Expert, scene: Scene, part: Box, query: str) -> list[Candidate]:
    """Return what an expert proposes in a part of a scene, in voxels of the scene."""
    scanned = checked.scan(expert, scene.part(part), query)  # type: ignore[attr-defined]  # see _check_parts
    return [replace(candidate, box=in_whole(candidate.box, part)) for candidate in scanned]


def _check_parts(scene: Scene, way_out: str) -> None:
    if not hasattr(scene, "part"):
        raise ConfigError(f"{type(scene).__name__} has no parts, which a finer scan looks at; set {way_out}")


def _is_cut(box: Box, part: Box, whole: Box) -> bool:
    """Tell whether a region reaches a face of a part beyond which the whole goes on."""
    below = any(a == p > w for a, p, w in zip(box.start, part.start, whole.start, strict=True))
    return below or any(b == p < w for b, p, w in zip(box.stop, part.stop, whole.stop, strict=True))


def _agreed(scans: Mapping[Box, Sequence[Candidate]]) -> tuple[Candidate, ...]:
    """Return the things that some scans agree on, by the parts that they were of; best first."""
    votes = [Vote(n, 1.0, candidate) for n, found in enumerate(scans.values()) for candidate in found]
    things = []
    for group in match(votes, SAME_THING_IOU):
        box = fused_box(group)
        shown = sum(box.intersection(part) == box for part in scans)
        if len(group) >= SEEN_AGAIN * shown:
            things.append(_thing(group, box))
    return tuple(sorted(things, key=lambda c: (-c.confidence, c.box.corners)))


def _thing(group: Sequence[Vote], box: Box) -> Candidate:
    ones = [vote.weight for vote in group]
    confidences = [vote.candidate.confidence for vote in group]
    return Candidate(
        box=box,
        confidence=fmean(confidences),
        finding=elected([vote.candidate.finding for vote in group], ones, confidences),
        mask=majority_mask(group, box),
        disagreement=spread(confidences, ones),
    )
