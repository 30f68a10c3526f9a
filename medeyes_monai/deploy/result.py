"""What a policy found in a series: the one form in which writers, service and operators know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from monai.data import MetaTensor

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import Box, carry_box, spacing_of, to_world
from medeyes_monai.geometry.affine import Affine
from medeyes_monai.metrics.confidence import answer_confidence
from medeyes_monai.trajectory import Episode, Picture

__all__ = ["FocusResult", "Grid", "Look", "mask_of", "on_grid", "result_of"]

SURE = 0.5
"""Voxels of a focus map above this are the focus."""
WHOLE = 0.01
"""How far the axes of two grids may be from those of one another turned by right angles."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where the voxels of a series lie.

    Args:
        shape: Columns, rows and slices.
        affine: From voxel indices to RAS+ millimetres.
        placed: False for a picture that has no millimetres; lengths are then pixels and are not reported.
    """

    shape: tuple[int, int, int]
    affine: Affine
    placed: bool = True

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along each axis."""
        return spacing_of(self.affine)


@dataclass(frozen=True, slots=True)
class Look:
    """One region that was looked at.

    Args:
        box: Three axes, in voxels of the result's grid. A look at a picture is one slice thick.
        reasoning: What was written before the look.
    """

    box: Box
    reasoning: str = ""

    @property
    def is_planar(self) -> bool:
        """Whether the region lies in one slice."""
        return self.box.extent[2] == 1

    def extent_mm(self, grid: Grid) -> tuple[float, float, float]:
        """Return the lengths of the sides along columns, rows and slices.

        Example:
            >>> Look(Box((0, 0, 0), (10, 5, 1))).extent_mm(Grid((20, 20, 3), np.diag([0.5, 2.0, 3.0, 1.0])))
            (5.0, 10.0, 3.0)
        """
        x, y, z = (n * mm for n, mm in zip(self.box.extent, grid.spacing_mm, strict=True))
        return (x, y, z)

    def corners_mm(self, grid: Grid) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return two opposite outer corners in RAS+ millimetres."""
        return to_world(self.box.start, grid.affine), to_world(self.box.stop, grid.affine)


@dataclass(frozen=True, slots=True, eq=False)
class FocusResult:
    """The answer to one question about one series.

    Args:
        name: Short name of the question, unique in its run.
        question: What was asked.
        answer: What was answered; None where the policy gave no answer.
        confidence: Probability that the policy gave the answer's own words, from 0 to 1. Not calibrated.
        grid: The series as it is stored: columns, rows, and slices in order along their normal.
        looks: The regions, in order.
        reasoning: What was written before the answer.
        focus: Where the policy looked last, ``bool (columns, rows, slices)``; None where it did not look.
        defect: Why the policy's text is no complete episode, or None.
        slice_index: The slice that was asked about; None where it was the volume.
        pictures: The overview and what each look showed.
    """

    name: str
    question: str
    answer: str | None
    confidence: float
    grid: Grid
    looks: tuple[Look, ...] = ()
    reasoning: str = ""
    focus: npt.NDArray[np.bool_] | None = None
    defect: str | None = None
    slice_index: int | None = None
    pictures: tuple[Picture, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Refuse what does not lie in the series.

        Raises:
            GeometryError: If a look, the focus or the slice is not in the grid.
        """
        outside = [look.box.corners for look in self.looks if not look.box.is_inside(self.grid.shape)]
        if outside:
            raise GeometryError(f"look {outside[0]} is not inside a series of {self.grid.shape} voxels")
        if self.focus is not None and self.focus.shape != self.grid.shape:
            raise GeometryError(f"the focus has {self.focus.shape} voxels, the series {self.grid.shape}")
        if self.slice_index is not None and not 0 <= self.slice_index < self.grid.shape[2]:
            raise GeometryError(f"slice {self.slice_index} is not one of {self.grid.shape[2]}")


def result_of(
    episode: Episode,
    *,
    name: str,
    question: str,
    grid: Grid,
    decode: Callable[[Sequence[int]], str],
    scene_affine: Affine | None = None,
    slice_index: int | None = None,
    focus_map: MetaTensor | None = None,
) -> FocusResult:
    """Bring what a policy wrote about a scene onto the grid of the series.

    Args:
        episode: The episode; boxes in voxels of the scene.
        name: Name of the question.
        question: What was asked.
        grid: The series as it is stored.
        decode: The policy's ``decode``.
        scene_affine: Affine of a volume's scene, which shows the same voxels with other axes.
        slice_index: The slice, of a scene that is a picture with the columns and rows of the series.
        focus_map: How surely each voxel was looked at, ``(1, X, Y, Z)`` on any grid of the same voxels; the
            focus is where it is above one half. None: the focus is the box of the last look.

    Raises:
        GeometryError: If the scene does not show the voxels of the series.
    """
    path = episode.trajectory
    looks = tuple(
        Look(_on_grid(look.box, grid, scene_affine, slice_index), look.reasoning) for look in path.fixations
    )
    return FocusResult(
        name=name,
        question=question,
        answer=path.answer,
        confidence=answer_confidence(episode, decode),
        grid=grid,
        looks=looks,
        reasoning=path.reasoning,
        focus=_focus(looks, grid, focus_map),
        defect=episode.defect,
        slice_index=slice_index,
        pictures=episode.pictures,
    )


def _focus(looks: Sequence[Look], grid: Grid, focus_map: MetaTensor | None) -> npt.NDArray[np.bool_] | None:
    if focus_map is not None:
        affine = np.asarray(focus_map.affine, dtype=np.float64)
        return on_grid(focus_map.numpy()[0] > SURE, affine, grid)
    return mask_of(looks[-1].box, grid) if looks else None


def mask_of(box: Box, grid: Grid) -> npt.NDArray[np.bool_]:
    """Return the voxels of a box, ``bool (columns, rows, slices)``."""
    mask = np.zeros(grid.shape, np.bool_)
    mask[box.slices] = True
    return mask


def on_grid(voxels: npt.NDArray[np.bool_], affine: Affine, grid: Grid) -> npt.NDArray[np.bool_]:
    """Turn a mask by flips and permutations to the axes of the series.

    Args:
        voxels: ``(X, Y, Z)``.
        affine: Where they lie.
        grid: The series.

    Raises:
        GeometryError: If the mask does not hold the voxels of the series.

    Example:
        >>> flipped = np.diag([-1.0, 1, 1, 1])
        >>> flipped[0, 3] = 1
        >>> mask = np.array([True, False]).reshape(2, 1, 1)
        >>> on_grid(mask, flipped, Grid((2, 1, 1), np.eye(4))).ravel().tolist()
        [False, True]
    """
    turn = np.linalg.inv(grid.affine) @ affine
    signs = np.rint(turn[:3, :3])
    order = np.abs(signs).argmax(axis=1)
    if np.abs(turn[:3, :3] - signs).max() > WHOLE or sorted(order.tolist()) != [0, 1, 2]:
        raise GeometryError("the focus lies on another grid than the series")
    flips = tuple(slice(None, None, int(signs[axis, source])) for axis, source in enumerate(order))
    turned = voxels.transpose(order)[flips]
    first = [0 if flip.step == 1 else n - 1 for flip, n in zip(flips, turned.shape, strict=True)]
    if turned.shape != grid.shape or np.abs(turn[:3, 3] - first).max() > WHOLE * max(grid.shape):
        raise GeometryError("the focus lies on another grid than the series")
    return np.ascontiguousarray(turned)


def _on_grid(box: Box, grid: Grid, scene_affine: Affine | None, slice_index: int | None) -> Box:
    if slice_index is not None:
        return Box((*box.start, slice_index), (*box.stop, slice_index + 1))
    if scene_affine is None:
        raise GeometryError("a look needs the affine of its volume, or the slice that was shown")
    return carry_box(box, scene_affine, grid.affine)
