"""Regions that looks and findings cover together, exactly, for pictures and volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import Box

__all__ = ["Mask", "Truth", "overlap_of_regions", "pieces", "size_of"]

Mask = npt.NDArray[np.bool_]
"""True where something is; one number per voxel, axes as those of a box."""
Truth = Mask | Sequence[Box]
"""Where something is: as a mask, or as boxes of which each is one thing."""


@dataclass(frozen=True, slots=True)
class _Grid:
    """The cells into which the edges of some boxes cut space."""

    edges: tuple[npt.NDArray[np.int64], ...]

    @classmethod
    def of(cls, boxes: Sequence[Box]) -> _Grid:
        corners = np.array([(box.start, box.stop) for box in boxes])
        return cls(tuple(np.unique(corners[..., axis]) for axis in range(corners.shape[-1])))

    def covered(self, boxes: Sequence[Box]) -> Mask:
        """Return which cells some boxes cover."""
        cells = np.zeros([len(edges) - 1 for edges in self.edges], dtype=bool)
        for box in boxes:
            ends = zip(self.edges, box.start, box.stop, strict=True)
            cells[tuple(slice(*np.searchsorted(edges, (a, b))) for edges, a, b in ends)] = True
        return cells

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return the number of voxels in each cell."""
        sizes: Any = 1
        for edges in self.edges:
            sizes = np.multiply.outer(sizes, np.diff(edges))
        return np.asarray(sizes)


def size_of(truth: Truth) -> int:
    """Return the number of voxels that a mask or the union of some boxes covers.

    Example:
        >>> size_of([Box((0, 0), (4, 4)), Box((2, 0), (6, 4))])
        24
    """
    if isinstance(truth, np.ndarray):
        return int(truth.sum())
    if not truth:
        return 0
    grid = _Grid.of(truth)
    return int(grid.sizes()[grid.covered(truth)].sum())


def overlap_of_regions(looks: Sequence[Box], truth: Truth) -> int:
    """Return the number of voxels that the union of some looks shares with a mask or a union of boxes.

    Raises:
        GeometryError: If their numbers of axes differ.

    Example:
        >>> looks = [Box((0, 0), (4, 4)), Box((2, 0), (6, 4))]
        >>> overlap_of_regions(looks, [Box((3, 2), (9, 9))])
        6
        >>> overlap_of_regions(looks, np.ones((3, 3), dtype=bool))
        9
    """
    if isinstance(truth, np.ndarray):
        return _overlap_with_mask(looks, truth)
    _check_axes([*looks, *truth])
    if not looks or not truth:
        return 0
    grid = _Grid.of([*looks, *truth])
    return int(grid.sizes()[grid.covered(looks) & grid.covered(truth)].sum())


def pieces(truth: Truth) -> Sequence[Truth]:
    """Return the things of a truth: each box for itself; a mask is one thing."""
    return [truth] if isinstance(truth, np.ndarray) else [[box] for box in truth]


def _overlap_with_mask(looks: Sequence[Box], mask: Mask) -> int:
    _check_axes(looks, mask.ndim)
    inside = [box.intersection(Box.whole(mask.shape)) for box in looks]
    parts = [box for box in inside if box is not None]
    if not parts:
        return 0
    grid = _Grid.of(parts)
    cut = mask[tuple(slice(int(edges[0]), int(edges[-1])) for edges in grid.edges)]
    for axis, edges in enumerate(grid.edges):
        cut = np.add.reduceat(cut, edges[:-1] - edges[0], axis=axis, dtype=np.int64)
    return int(cut[grid.covered(parts)].sum())


def _check_axes(boxes: Sequence[Box], ndim: int | None = None) -> None:
    axes = {box.ndim for box in boxes} | ({ndim} if ndim else set())
    if len(axes) > 1:
        raise GeometryError(f"looks and truth must have one number of axes, got {sorted(axes)}")
