"""Slices of a tilted gantry, moved so that they stand above each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medeyes_monai.geometry.affine import MOST_SHEAR, Affine, shear_of
from medeyes_monai.io.limits import check_size

__all__ = ["is_tilted", "straighten"]

MOST_SHEAR_DEGREES = math.degrees(math.asin(MOST_SHEAR))


def is_tilted(affine: Affine) -> bool:
    """Tell whether the third axis alone is not at right angles to the others."""
    shear = shear_of(affine)
    return shear[0, 1] <= MOST_SHEAR_DEGREES < max(shear[0, 2], shear[1, 2])


def straighten(voxels: npt.NDArray[Any], affine: Affine, max_voxels: int) -> tuple[npt.NDArray[Any], Affine]:
    """Move each slice within its plane, linearly interpolated, onto a grid with right angles.

    Slices stay where they are in the world; the grid grows to hold them all, and what no slice covers gets
    the lowest value of the volume.

    Args:
        voxels: ``(X, Y, Z)``, slices along the last axis.
        affine: Its place, the third axis sheared against the others.
        max_voxels: Most voxels of the new grid.

    Returns:
        The new voxels, of the same type, and their affine.

    Raises:
        RefusedError: If the new grid is too large.
    """
    across, down = affine[:3, 0], affine[:3, 1]
    normal = np.cross(across, down)
    upright = normal * (affine[:3, 2] @ normal) / (normal @ normal)
    sideways = affine[:3, 2] - upright
    moves = np.array([sideways @ across / (across @ across), sideways @ down / (down @ down)])
    total = moves * (voxels.shape[2] - 1)
    before = np.ceil(np.maximum(-total, 0))
    extent = [n + math.ceil(abs(t)) for n, t in zip(voxels.shape[:2], total, strict=True)]
    check_size((*extent, voxels.shape[2]), voxels.dtype.itemsize, max_voxels)
    moved = np.full((voxels.shape[2], extent[1], extent[0]), voxels.min(), voxels.dtype).transpose(2, 1, 0)
    for k in range(voxels.shape[2]):
        _place(moved[..., k], voxels[..., k], before + moves * k)
    new = affine.copy()
    new[:3, 2] = upright
    new[:3, 3] -= affine[:3, :2] @ before
    return moved, new


def _place(target: npt.NDArray[Any], plane: npt.NDArray[Any], offset: npt.NDArray[np.float64]) -> None:
    """Write a plane into a larger one at an offset in voxels."""
    fill = target[0, 0]
    padded = np.pad(
        plane, [(0, n - m) for n, m in zip(target.shape, plane.shape, strict=True)], constant_values=fill
    )
    ndimage.shift(padded, offset, output=target, order=1, mode="constant", cval=fill)
