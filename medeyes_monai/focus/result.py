"""The result of progressive focus on one image: answer, path, and every look in voxels and millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd

from medeyes_monai.geometry import Box, carry_box, spacing_of, to_world
from medeyes_monai.geometry.affine import Affine
from medeyes_monai.navigator import Decision
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode, Fixation, Trajectory

__all__ = ["Focus", "Grid", "Place", "painted"]

Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The voxels of an image as it was handed over.

    Args:
        shape: ``(X, Y)`` or ``(X, Y, Z)``. Unit: voxels.
        affine: 4x4, from voxel indices to millimetres of the RAS+ world.
        original_affine: That of the file, 4x4, where the image says it; of it, only the axes are read.
    """

    shape: tuple[int, ...]
    affine: Affine
    original_affine: Affine | None = None

    @classmethod
    def of(cls, image: Any) -> Grid:
        """Return the grid of a channel-first image; without an affine, voxels of 1 mm at the origin."""
        affine = getattr(image, "affine", None)
        original = getattr(image, "meta", {}).get("original_affine")
        return cls(
            tuple(int(n) for n in image.shape[1:]),
            np.eye(4) if affine is None else _solid(affine),
            None if original is None else _solid(original),
        )

    def as_stored(self) -> Grid:
        """Return the same voxels with the axes of the file; as they are where the file's are not known.

        Example:
            >>> turned = Grid((9, 8, 7), np.eye(4), original_affine=np.diag([-1.0, 1.0, 1.0, 1.0]))
            >>> turned.as_stored().affine[0].tolist()
            [-1.0, 0.0, 0.0, 8.0]
        """
        if self.original_affine is None or len(self.shape) == 2:
            return self
        axes = [nibabel.io_orientation(affine) for affine in (self.affine, self.original_affine)]
        turn = nibabel.orientations.ornt_transform(*axes)
        shape = tuple(self.shape[axis] for axis in np.argsort(turn[:, 0]))
        affine = self.affine @ nibabel.orientations.inv_ornt_aff(turn, self.shape)
        return replace(self, shape=shape, affine=affine)


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a look went.

    A picture counts as a volume one slice thick, whose slice lies at index 0 of the affine's third axis.

    Args:
        number: Number of the look, from 1.
        box: Unit: voxels of the image as it was handed over, with its axes.
        centre_mm: Middle of the box in the RAS+ world.
        size_mm: Lengths along the image's own three axes, which may be oblique.
        axes: Directions of these axes in the RAS+ world, one a column, 3x3.
        fixation: The look itself. Its box is in voxels of the scene.
        finding: What was thought after it.
    """

    number: int
    box: Box
    centre_mm: Point
    size_mm: Point
    axes: npt.NDArray[np.float64]
    fixation: Fixation
    finding: str

    @property
    def corners_mm(self) -> tuple[Point, Point]:
        """Two opposite outer corners in the RAS+ world, those of the first and of the last voxel."""
        half = self.axes @ (np.asarray(self.size_mm) / 2)
        first, last = (np.asarray(self.centre_mm) + sign * half for sign in (-1, 1))
        return tuple(first.tolist()), tuple(last.tolist())


@dataclass(frozen=True, slots=True, eq=False)
class Focus:
    """What was found about one question.

    Args:
        case: The question, with the scene in which the search took place.
        grid: The image as it was handed over.
        trajectory: The path. Boxes in voxels of the scene.
        ended: Why the search ended: ``answered``, the reason of the last decision, or a defect.
        seconds: How long it took.
        decisions: What the expert's search decided; empty where a policy searched alone.
        episode: The policy's episode; None where an expert searched alone.
    """

    case: Case
    grid: Grid
    trajectory: Trajectory
    ended: str
    seconds: float
    decisions: tuple[Decision, ...] = ()
    episode: Episode | None = None

    @property
    def answer(self) -> str | None:
        """The answer; None where none was given."""
        return self.trajectory.answer

    @property
    def boxes(self) -> tuple[Box, ...]:
        """Where the looks went, in order. Unit: voxels of the image as it was handed over."""
        return tuple(self._box(look.box) for look in self.trajectory.fixations)

    @property
    def places(self) -> tuple[Place, ...]:
        """The looks with their place in the world, in order."""
        looks = self.trajectory.fixations
        thoughts = [*(look.reasoning for look in looks[1:]), self.trajectory.reasoning]
        return tuple(
            _place(number, box, self.grid.affine, look, thought)
            for number, (box, look, thought) in enumerate(
                zip(self.boxes, looks, thoughts, strict=False), start=1
            )
        )

    def as_stored(self) -> Focus:
        """Return the same result with boxes and map on the grid of the file, see :meth:`Grid.as_stored`."""
        return replace(self, grid=self.grid.as_stored())

    def focus_map(self) -> MetaTensor:
        """Return how surely each voxel of the image was looked at closely, see :attr:`sureness`.

        It is made on demand: of a large study it is as large as the study.

        Returns:
            ``(1, X, Y[, Z])`` on the grid of the image as it was handed over, float32 in [0, 1]. Its ``meta``
            lets :func:`~medeyes_monai.io.as_stored` turn it to the axes of the file, where those are known.
        """
        values = torch.from_numpy(painted(Box.whole(self.grid.shape), self.sureness, np.float32))[None]
        original = self.grid.original_affine
        meta = {} if original is None else {"original_affine": original}
        return MetaTensor(values, affine=torch.as_tensor(self.grid.affine), meta=meta)

    @property
    def sureness(self) -> tuple[tuple[Box, float], ...]:
        """Where the looks went with their confidence, the surest last; 1 where no expert gave any."""
        sure = (
            1.0 if look.confidence is None else float(look.confidence) for look in self.trajectory.fixations
        )
        return tuple(sorted(zip(self.boxes, sure, strict=True), key=lambda one: one[1]))

    def _box(self, box: Box) -> Box:
        if box.ndim == 2:
            return box
        image: Any = self.case.scene
        source = np.asarray(image.image.affine if hasattr(image, "image") else image.affine, dtype=np.float64)
        return carry_box(box, source, self.grid.affine)


def painted(part: Box, regions: Sequence[tuple[Box, float]], dtype: type[np.number[Any]]) -> npt.NDArray[Any]:
    """Return a part of a grid in which some boxes have a value, later ones over earlier ones, the rest 0.

    Args:
        part: The part, of whose extent the array is.
        regions: Boxes and their values. Unit: voxels of the grid.
        dtype: Type of the array.

    Example:
        >>> painted(Box((2, 0), (5, 1)), [(Box((0, 0), (4, 4)), 1), (Box((3, 0), (4, 1)), 2)], np.int16).T
        array([[1, 2, 0]], dtype=int16)
    """
    values = np.zeros(part.extent, dtype)
    for box, value in regions:
        inside = box.intersection(part)
        if inside is not None:
            values[inside.moved([-n for n in part.start]).slices] = value
    return values


def _solid(affine: Any) -> Affine:
    """Return an affine of a picture or a volume as 4x4."""
    matrix: Affine = to_affine_nd(3, np.asarray(affine, dtype=np.float64))
    return matrix


def _place(number: int, box: Box, affine: Affine, look: Fixation, finding: str) -> Place:
    solid = box if box.ndim == 3 else Box((*box.start, 0), (*box.stop, 1))
    x, y, z = (n * mm for n, mm in zip(solid.extent, spacing_of(affine), strict=True))
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return Place(number, box, to_world(solid.centre, affine), (x, y, z), axes, look, finding)
