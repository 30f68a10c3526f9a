"""A coarse pass over a volume: an expert scans one slab of slices after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import Candidate, Expert, Verdict, checked
from medeyes_monai.geometry import Box
from medeyes_monai.navigator.state import is_same_place
from medeyes_monai.navigator.tiles import in_whole
from medeyes_monai.scenes import Scene
from medeyes_monai.seeding import seed_of

__all__ = ["KeepSlab", "SlabExpert", "joined", "slabs_of"]

KeepSlab = Callable[[torch.Tensor, Sequence[int]], bool]
"""Tells by the voxels of a slab ``(1, 1, X, Y, n)`` and its first voxel ``(x, y, z)`` whether it is scanned:
``filter_fn`` of ``monai.inferers.SlidingWindowSplitter``, a slab being its patch."""

SURROUNDINGS = 2.0
"""Each side of a region is multiplied by this where it is read to be judged. Chosen."""
SAME_OUTLINE = 0.3
"""Two candidates are cut from one thing only if, seen along z, their boxes have this IoU. Chosen."""
UP = 2
"""The axis along which slabs lie."""


class SlabExpert:
    """Lets an expert scan a volume slab by slab, and a picture as a whole; drills are the expert's own.

    Slabs overlap, so that what is small is whole in one of them; what is larger is cut, and joined again
    (:func:`joined`). With one slab in memory at a time, this is also how a study is searched that is larger
    than memory. Scans are remembered, since a search scans again after each look.

    **Confidence** is that of the expert in the slab; of what was joined, the largest.

    Args:
        expert: Who scans and drills.
        slab_mm: Thickness of a slab. A volume that is not thicker is scanned as a whole; of one that is not
            in memory, all of it is then read at once.
        overlap: Share of a slab that the next one repeats, in [0, 1).
        filter_fn: Tells which slabs are scanned, by their voxels and place; None: all.
        stop: Asked before each slab but the first; True leaves out the rest.

    Raises:
        ConfigError: If slabs have no thickness or overlap wholly.

    Example:
        >>> import numpy as np
        >>> from medeyes_monai.experts import BlobExpert
        >>> from medeyes_monai.scenes import VolumeScene
        >>> image = np.zeros((1, 48, 48, 90), np.uint8)
        >>> image[:, 20:28, 20:28, 70:78] = 255
        >>> expert = SlabExpert(BlobExpert(min_extent=8), slab_mm=40)
        >>> best = expert.scan(VolumeScene(image, key="a"), "where?")[0]
        >>> best.box.contains((24, 24, 74))
        True
    """

    def __init__(
        self,
        expert: Expert,
        *,
        slab_mm: float = 80.0,
        overlap: float = 0.25,
        filter_fn: KeepSlab | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Check the settings; see the class."""
        if not slab_mm > 0 or not 0 <= overlap < 1:
            raise ConfigError(
                f"a slab is thicker than 0 mm and overlaps by a share in [0, 1), got {slab_mm} and {overlap}"
            )
        self.expert, self.slab_mm, self.overlap = expert, slab_mm, overlap
        self.filter_fn, self.stop = filter_fn, stop
        self.reads_key = bool(getattr(expert, "reads_key", False))
        self.axes = getattr(expert, "axes", (2, 3))
        self._scans: dict[tuple[int, str], tuple[Scene, tuple[Candidate, ...]]] = {}

    @property
    def name(self) -> str:
        """``slabs-`` and a digest of the expert's name and the settings."""
        return f"slabs-{seed_of(self.expert.name, repr(self.slab_mm), repr(self.overlap)):016x}"

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Return what the expert proposes in the slabs that are kept, best first.

        Raises:
            ConfigError: If a volume of several slabs has no method ``part``, or ``filter_fn`` no voxels.
            ExpertError: If the expert breaks its contract.
        """
        asked = (id(scene), query)
        if asked not in self._scans:
            self._scans[asked] = (scene, self._scan(scene, query))  # the scene is kept, and so is its id
        return self._scans[asked][1]

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Judge one region as the expert does; of a volume that is not in memory, on the part around it."""
        if not _is_streamed(scene):
            return checked.drill(self.expert, scene, box, query)
        around = box.expand(scene.shape, factor=SURROUNDINGS)
        there = box.moved([-a for a in around.start])
        return checked.drill(self.expert, _part(scene, around), there, query)

    def _scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        if len(scene.shape) == 2:
            return checked.scan(self.expert, scene, query)
        slabs = slabs_of(scene.shape, _slice_mm(scene), self.slab_mm, self.overlap)
        found: list[tuple[Box, Candidate]] = []
        for number, slab in enumerate(slabs):
            if number and self.stop():
                break
            part = scene if len(slabs) == 1 and not _is_streamed(scene) else _part(scene, slab)
            if self._is_kept(part, slab):
                scanned = checked.scan(self.expert, part, query)
                found += [(slab, replace(one, box=in_whole(one.box, slab))) for one in scanned]
        return joined(found)

    def _is_kept(self, part: Scene, slab: Box) -> bool:
        if self.filter_fn is None:
            return True
        image: Any = getattr(part, "image", None)
        if image is None:
            raise ConfigError(
                f"filter_fn tells by the voxels of a slab whether it is scanned, and {type(part).__name__} "
                "shows none; leave it out, or take a VolumeScene"
            )
        return bool(self.filter_fn(image.as_tensor()[None], slab.start))


def slabs_of(shape: Sequence[int], slice_mm: float, slab_mm: float, overlap: float) -> tuple[Box, ...]:
    """Return slabs of equal thickness that cover a volume from the first slice to the last.

    Args:
        shape: Extent of the volume. Unit: voxels.
        slice_mm: Distance of two slices.
        slab_mm: Wanted thickness, rounded to slices; at least one, and at most all of them.
        overlap: Share of a slab that the next one repeats; rounded, and more where they would not come out.

    Example:
        >>> [(slab.start[2], slab.stop[2]) for slab in slabs_of((9, 9, 100), 1.0, 40.0, 0.25)]
        [(0, 40), (30, 70), (60, 100)]
    """
    x, y, slices = (int(n) for n in shape)
    thick = min(slices, max(1, round(slab_mm / slice_mm)))
    step = max(1, thick - round(thick * overlap))
    starts = [*range(0, slices - thick, step), slices - thick]
    return tuple(Box((0, 0, start), (x, y, start + thick)) for start in starts)


def joined(found: Sequence[tuple[Box, Candidate]]) -> tuple[Candidate, ...]:
    """Return the candidates of all slabs, best first: of one place the best, and of one thing the whole.

    Two candidates of neighbouring slabs are cut from one thing where one of them ends at its slab's face,
    they meet there, and seen along z they have about the same outline. The whole is the box about both,
    without a mask. Two things that lie so are taken for one.

    Args:
        found: Slab and candidate, both in voxels of the volume.

    Example:
        >>> slabs = Box((0, 0, 0), (9, 9, 20)), Box((0, 0, 15), (9, 9, 35))
        >>> cut = Candidate(Box((2, 2, 8), (6, 6, 20)), 0.5), Candidate(Box((2, 2, 15), (6, 6, 31)), 0.4)
        >>> [(c.box.corners, c.confidence) for c in joined(list(zip(slabs, cut)))]
        [((2, 2, 8, 6, 6, 31), 0.5)]
    """
    groups: list[list[tuple[Box, Candidate]]] = []
    for slab, candidate in sorted(found, key=lambda one: one[0].start):
        belongs = [group for group in groups if any(_is_cut(slab, candidate, *one) for one in group)]
        groups = [group for group in groups if group not in belongs]
        groups.append([*(one for group in belongs for one in group), (slab, candidate)])
    wholes = sorted((_whole(group) for group in groups), key=lambda c: (-c.confidence, c.box.corners))
    kept: list[Candidate] = []
    for candidate in wholes:
        if not is_same_place(candidate.box, [other.box for other in kept]):
            kept.append(candidate)
    return tuple(kept)


def _is_cut(slab: Box, one: Candidate, other_slab: Box, other: Candidate) -> bool:
    """Tell whether two candidates are cut from one thing, by the slabs that they were found in."""
    found = sorted(((slab, one.box), (other_slab, other.box)), key=lambda pair: pair[0].start[UP])
    (lower, below), (upper, above) = found
    if lower.start[UP] == upper.start[UP] or lower.stop[UP] < upper.start[UP]:
        return False
    apart = above.start[UP] > below.stop[UP] or below.start[UP] > above.stop[UP]
    whole = below.stop[UP] < lower.stop[UP] and above.start[UP] > upper.start[UP]
    return not apart and not whole and _outline(below).iou(_outline(above)) >= SAME_OUTLINE


def _outline(box: Box) -> Box:
    """Return a box as it is seen along the slices."""
    return Box(box.start[:UP], box.stop[:UP])


def _whole(group: Sequence[tuple[Box, Candidate]]) -> Candidate:
    candidates = [candidate for _, candidate in group]
    best = max(candidates, key=lambda c: c.confidence)
    boxes = [candidate.box for candidate in candidates]
    if all(box == best.box for box in boxes):
        return best
    start = tuple(min(corner) for corner in zip(*(box.start for box in boxes), strict=True))
    stop = tuple(max(corner) for corner in zip(*(box.stop for box in boxes), strict=True))
    return replace(best, box=Box(start, stop), mask=None)


def _is_streamed(scene: Scene) -> bool:
    """Tell whether the voxels of a scene come part by part."""
    return hasattr(scene, "part") and not hasattr(scene, "image")


def _part(scene: Scene, box: Box) -> Scene:
    if not hasattr(scene, "part"):
        raise ConfigError(f"{type(scene).__name__} has no parts, which are scanned; take a VolumeScene")
    part: Scene = scene.part(box)
    return part


def _slice_mm(scene: Scene) -> float:
    """Return the distance of two slices: how far the far face of a voxel column one slice high moves."""
    lower, upper = (scene.to_world(Box((0, 0, 0), (1, 1, height)))[1] for height in (1, 2))
    return math.dist(lower, upper)
