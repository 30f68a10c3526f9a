"""Masks brought onto the grid of the image that they mark."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry.affine import WHOLE, Affine

__all__ = ["match_grid"]


def match_grid(mask: MetaTensor, image: MetaTensor) -> MetaTensor:
    """Turn a mask to the axes of the image that it marks, by exact flips and permutations.

    Args:
        mask: Labels, ``(1, X, Y[, Z])``. One that does not say how it lies in the patient (``placed`` of its
            meta is False, as of a PNG) has the axes of the image, and so has every mask of such an image.
        image: ``(C, X, Y[, Z])``.

    Returns:
        The same labels on the image's grid.

    Raises:
        GeometryError: If the two do not hold the same voxels of the world.

    Example:
        >>> flipped = np.array([[-1.0, 0, 0, 2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        >>> mask = MetaTensor([[[[1]], [[2]], [[3]]]], affine=torch.as_tensor(flipped))
        >>> match_grid(mask, MetaTensor(torch.zeros(1, 3, 1, 1))).flatten().tolist()
        [3, 2, 1]
    """
    extent = tuple(image.shape[1:])
    if mask.ndim == image.ndim and mask.shape[0] == 1:
        is_placed = all(one.meta.get("placed", True) for one in (mask, image))
        turned = _turned(mask, image) if is_placed else mask
        if tuple(turned.shape[1:]) == extent:
            return turned
    raise GeometryError(f"the mask has shape {tuple(mask.shape)}, the image {(1, *extent)}")


def _turned(mask: MetaTensor, image: MetaTensor) -> MetaTensor:
    """Return the mask with the axes of the image, if its corners are then where those of the image are."""
    voxels = mask.as_tensor().numpy()[0]
    voxels = voxels[..., None] if voxels.ndim == 2 else voxels
    own, wanted = (np.asarray(one.affine, dtype=np.float64) for one in (mask, image))
    turn = io_orientation(np.linalg.inv(wanted) @ own)
    turned = np.ascontiguousarray(apply_orientation(voxels, turn))
    turned = turned[..., 0] if image.ndim == 3 and turned.shape[2] == 1 else turned
    if turned.shape == tuple(image.shape[1:]):
        _check_corners(own @ inv_ornt_aff(turn, voxels.shape), wanted, turned.shape)
    return MetaTensor(torch.from_numpy(turned)[None], affine=image.affine)


def _check_corners(affine: Affine, wanted: Affine, extent: Sequence[int]) -> None:
    ends = [(0, n - 1) for n in (*extent, 1)[:3]]
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)], dtype=np.float64)
    off_mm = ((affine - wanted) @ corners.T)[:3]
    if np.abs(np.linalg.inv(wanted)[:3, :3] @ off_mm).max() > WHOLE:
        raise GeometryError(
            "the mask lies on another grid than the image, with a corner that is "
            f"{np.linalg.norm(off_mm, axis=0).max():.3g} mm off; resample it to the image's grid "
            "(nearest neighbour)"
        )
