"""A scan on a finer scale: the same expert, one part of the image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import Candidate, Expert, checked
from medeyes_monai.geometry import Box
from medeyes_monai.navigator.state import is_same_place
from medeyes_monai.scenes import Scene

__all__ = ["in_whole", "parts_of", "scan_parts"]

OVERLAP = 1.25  # chosen: parts overlap, so that what lies on a border is whole in one of them


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
    if not hasattr(scene, "part"):
        raise ConfigError(f"{type(scene).__name__} has no parts, which a finer scan looks at; set finer=0")
    found: list[Candidate] = []
    for box in parts_of(scene.shape, number, least):
        for candidate in checked.scan(expert, scene.part(box), query):
            found.append(replace(candidate, box=in_whole(candidate.box, box)))
    kept: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (-c.confidence, c.box.corners)):
        if not is_same_place(candidate.box, [other.box for other in kept]):
            kept.append(candidate)
    return tuple(kept)


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
