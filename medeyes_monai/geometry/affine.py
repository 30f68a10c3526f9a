"""Affines between voxels and millimetres: checks, spacing, and boxes carried from one grid to another.

Points are given in voxel edges, as :attr:`Box.centre`: the first voxel spans 0 to 1, and its centre, 0.5, is
where the affine puts index 0. Millimetres are those of the RAS+ world unless said otherwise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry.box import Box

__all__ = [
    "Affine",
    "carry_box",
    "check_affine",
    "from_world",
    "shear_of",
    "spacing_of",
    "to_world",
    "within",
]

Affine = npt.NDArray[np.float64]
"""4x4, from voxel indices to millimetres."""

FLATTEST = 1e-6
"""An affine is singular below this volume of its normed axes."""
MOST_SHEAR = 0.01
"""Largest cosine between two axes that still counts as a right angle: 0.6 degrees."""
ROUNDING = 1e-6  # of a quotient of sizes that are equal but for the last digit
WHOLE = 0.05
"""A carried corner may be this far from a whole voxel. Unit: voxels."""


def check_affine(affine: npt.ArrayLike, *, shear: bool = True) -> Affine:
    """Return a 4x4 affine in double precision if it can place a volume.

    Oblique axes are fine; axes that are not at right angles are not, since lengths of boxes in millimetres
    would then be wrong.

    Args:
        affine: Any 4x4.
        shear: Whether to refuse axes that are not at right angles.

    Raises:
        GeometryError: If it is not 4x4, not finite, singular or sheared.

    Example:
        >>> check_affine([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        Traceback (most recent call last):
        medeyes_monai.errors.GeometryError: the affine is sheared: axes 0 and 1 are 11.3 degrees ...
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise GeometryError(f"an affine of a volume is 4x4, got {'x'.join(map(str, matrix.shape))}")
    if not np.isfinite(matrix).all() or not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise GeometryError("the affine is not finite, or its last row is not 0 0 0 1")
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if not lengths.all() or abs(np.linalg.det(matrix[:3, :3] / lengths)) < FLATTEST:
        raise GeometryError("the affine is singular: it maps voxels onto a plane")
    if shear:
        _refuse_shear(matrix)
    return matrix


def shear_of(affine: Affine) -> dict[tuple[int, int], float]:
    """Return how far each pair of axes is from a right angle. Unit: degrees."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return {
        (i, j): float(np.degrees(np.arcsin(np.clip(abs(axes[:, i] @ axes[:, j]), 0, 1))))
        for i, j in itertools.combinations(range(3), 2)
    }


def _refuse_shear(matrix: Affine) -> None:
    (first, second), angle = max(shear_of(matrix).items(), key=lambda item: item[1])
    if angle > np.degrees(np.arcsin(MOST_SHEAR)):
        raise GeometryError(
            f"the affine is sheared: axes {first} and {second} are {angle:.1f} degrees from a right angle; "
            "resample the volume to a grid with right angles"
        )


def spacing_of(affine: npt.ArrayLike) -> tuple[float, float, float]:
    """Return the length of a voxel along each axis. Unit: millimetres.

    Example:
        >>> spacing_of(np.diag([-2.0, 3.0, 5.0, 1.0]))
        (2.0, 3.0, 5.0)
    """
    x, y, z = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0).tolist()
    return (x, y, z)


def within(voxels: int, spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Return the extents that are as long as some voxels of the finest axis, or just shorter, at least 1.

    Never longer, so that a region that fits a picture along the finest axis is not shrunk for another.

    Args:
        voxels: Extent along the finest axis.
        spacing_mm: Size of a voxel along each axis.

    Example:
        >>> within(32, (2.4, 2.4, 5.0))
        (32, 32, 15)
    """
    finest = min(spacing_mm)
    return tuple(max(1, math.floor(voxels * finest / mm + ROUNDING)) for mm in spacing_mm)


def to_world(point: Sequence[float], affine: Affine) -> tuple[float, float, float]:
    """Return where a point, in voxel edges, lies. Unit: millimetres.

    Example:
        >>> to_world((0.5, 0.5, 0.5), np.diag([2.0, 2.0, 2.0, 1.0]))
        (0.0, 0.0, 0.0)
    """
    x, y, z = (affine @ (*(v - 0.5 for v in point), 1.0))[:3].tolist()
    return (x, y, z)


def from_world(point: Sequence[float], affine: Affine) -> tuple[float, float, float]:
    """Return the point, in voxel edges, that lies at some millimetres: the inverse of :func:`to_world`."""
    x, y, z = (np.linalg.inv(affine) @ (*point, 1.0))[:3].tolist()
    return (x + 0.5, y + 0.5, z + 0.5)


def carry_box(box: Box, source: Affine, target: Affine) -> Box:
    """Carry a box between two grids that hold the same voxels with axes in another order or direction.

    Args:
        box: Three axes, in voxels of the source.
        source: Affine of the grid in which the box is given.
        target: Affine of the grid in which it is wanted.

    Raises:
        GeometryError: If the box has not three axes, or the grids do not hold the same voxels.

    Example:
        >>> flipped = np.array([[-1.0, 0, 0, 9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        >>> carry_box(Box((0, 0, 0), (2, 3, 4)), np.eye(4), flipped)
        Box(start=(8, 0, 0), stop=(10, 3, 4))
    """
    if box.ndim != 3:
        raise GeometryError(f"a box of a volume has 3 axes, this one has {box.ndim}")
    ends: list[Any] = [from_world(to_world(corner, source), target) for corner in (box.start, box.stop)]
    low, high = np.minimum(*ends), np.maximum(*ends)
    start, stop = np.rint(low), np.rint(high)
    carried = Box(tuple(map(int, start)), tuple(map(int, np.maximum(stop, start + 1))))
    off = max(np.abs(low - start).max(), np.abs(high - stop).max())
    if off > WHOLE or sorted(carried.extent) != sorted(box.extent):
        raise GeometryError("the two grids do not hold the same voxels: a box of one is no box of the other")
    return carried
