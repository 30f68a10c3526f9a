"""What a policy found in a series: the one form in which writers, service and operators know it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import Box, carry_box, spacing_of, to_world
from medeyes_monai.geometry.affine import Affine
from medeyes_monai.metrics.confidence import answer_confidence
from medeyes_monai.trajectory import Episode, Picture

__all__ = ["SURE", "FocusResult", "Grid", "Look", "result_of"]

SURE = 0.5
"""Where looks are graded, those surer than this are the focus."""


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
        mode: ``"scan"`` or ``"drill"`` where a navigator made the look, else None.
        confidence: How sure an expert was of the region, from 0 to 1; None where none was asked.
    """

    box: Box
    reasoning: str = ""
    mode: str | None = None
    confidence: float | None = None

    @property
    def weight(self) -> float:
        """How surely the region was looked at: the confidence, 1 for a look to which no expert gave any."""
        return 1.0 if self.confidence is None else self.confidence

    @property
    def is_planar(self) -> bool:
        """Whether the region lies in one slice."""
        return self.box.extent[2] == 1

    @property
    def outline(self) -> npt.NDArray[np.float64]:
        """The corners within a slice, closed, ``(5, 2)``: column and row of the voxels' outer edges."""
        (x1, y1, _), (x2, y2, _) = self.box.start, self.box.stop
        return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]], dtype=np.float64)

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
        name: Short name of the question; slices of one question share it.
        question: What was asked.
        answer: What was answered; None where the policy gave no answer.
        confidence: Probability that the policy gave the answer's own words, from 0 to 1. Not calibrated.
        grid: The series as it is stored: columns, rows, and slices in order along their normal.
        looks: The regions, in order.
        reasoning: What was written before the answer.
        defect: Why the policy's text is no complete episode, or None.
        slice_index: The slice that was asked about; None where it was the volume.
        graded: Whether an expert was there to say how sure looks are, see :attr:`focused`.
        pictures: The overview and what each look showed.
    """

    name: str
    question: str
    answer: str | None
    confidence: float
    grid: Grid
    looks: tuple[Look, ...] = ()
    reasoning: str = ""
    defect: str | None = None
    slice_index: int | None = None
    graded: bool = False
    pictures: tuple[Picture, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        """Refuse what does not lie in the series.

        Raises:
            GeometryError: If a look or the slice is not in the grid.
        """
        outside = [look.box.corners for look in self.looks if not look.box.is_inside(self.grid.shape)]
        if outside:
            raise GeometryError(f"look {outside[0]} is not inside a series of {self.grid.shape} voxels")
        if self.slice_index is not None and not 0 <= self.slice_index < self.grid.shape[2]:
            raise GeometryError(f"slice {self.slice_index} is not one of {self.grid.shape[2]}")

    @property
    def focused(self) -> tuple[Box, ...]:
        """Boxes that make the final focus together: of graded looks those surer than one half, else the last.

        Example:
            >>> boxes = [Box((0, 0, 0), (n, n, 1)) for n in (4, 1)]
            >>> looks = (Look(boxes[0], confidence=0.9), Look(boxes[1], confidence=0.4))
            >>> grid = Grid((8, 8, 1), np.eye(4))
            >>> results = [FocusResult("a", "?", "yes", 1.0, grid, looks, graded=g) for g in (False, True)]
            >>> [[box.extent for box in result.focused] for result in results]
            [[(1, 1, 1)], [(4, 4, 1)]]
        """
        if self.graded:
            return tuple(look.box for look in self.looks if look.weight > SURE)
        return tuple(look.box for look in self.looks[-1:])

    def focus_map(self) -> npt.NDArray[np.float32]:
        """Return how surely each voxel was looked at, ``(columns, rows, slices)``, made on demand.

        It is the largest weight of the looks that hold a voxel, and 0 where none does.
        """
        values = np.zeros(self.grid.shape, np.float32)
        for look in self.looks:
            region = values[look.box.slices]
            np.maximum(region, look.weight, out=region)
        return values


def result_of(
    episode: Episode,
    *,
    name: str,
    question: str,
    grid: Grid,
    decode: Callable[[Sequence[int]], str],
    scene_affine: Affine | None = None,
    slice_index: int | None = None,
    graded: bool = False,
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
        graded: Whether an expert was there to say how sure looks are.

    Raises:
        GeometryError: If the scene does not show the voxels of the series.
    """
    path = episode.trajectory
    looks = tuple(
        Look(_on_grid(look.box, grid, scene_affine, slice_index), look.reasoning, look.mode, look.confidence)
        for look in path.fixations
    )
    return FocusResult(
        name=name,
        question=question,
        answer=path.answer,
        confidence=answer_confidence(episode, decode),
        grid=grid,
        looks=looks,
        reasoning=path.reasoning,
        defect=episode.defect,
        slice_index=slice_index,
        graded=graded,
        pictures=episode.pictures,
    )


def _on_grid(box: Box, grid: Grid, scene_affine: Affine | None, slice_index: int | None) -> Box:
    if slice_index is not None:
        return Box((*box.start, slice_index), (*box.stop, slice_index + 1))
    if scene_affine is None:
        raise GeometryError("a look needs the affine of its volume, or the slice that was shown")
    return carry_box(box, scene_affine, grid.affine)
