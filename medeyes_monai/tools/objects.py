"""Finds the object that a region is about, and draws its outline, by how it stands out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data.utils import to_affine_nd
from scipy import ndimage

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import Box, spacing_of
from medeyes_monai.scenes import Scene

__all__ = ["Mask", "centre_object", "nearest_object", "voxels_of"]

Mask = npt.NDArray[np.bool_]
"""Which voxels of a region belong to something, of the shape of the region's extent."""

SMOOTH = 0.6
"""Noise is smoothed so far before values are divided, so that none of it sticks to an object; chosen, since
larger values lost thin ends and a tenth of a small ball. Unit: voxels of the finest axis."""
CLOSED = 1.5
"""Gaps as narrow as twice this belong to an object, so that a texture does not take it apart; chosen, since
larger values join neighbours. Unit: voxels of the finest axis."""
CONTEXT = 1.5
"""A region is grown by this to see the surroundings of what fills it."""
CORE, SHELL = 0.5, 1.22
"""Within the first share of the region that was asked for is the object, outside of the second is not."""
SURE_SHARE = 75
"""Percentile of the surroundings from which an object stands out: not of all of them, since another may be
near, and not of half, since half may be air or fat."""

SEED_SMOOTH = 2.0
"""Noise and textures are smoothed so far before the place is sought that stands out. Unit: voxels of the
finest axis."""
LEAST = 6
"""Regions about objects are not smaller, along any axis. Unit: voxels."""
FOLLOWED = 5
"""An object's region is drawn anew so often, unless it stays as it is before that."""


def nearest_object(scene: Scene, box: Box) -> tuple[Box, Mask] | None:
    """Return what stands out next to the middle of a region, whole even where the region cuts it, or None.

    What lies in the middle of the region, grown by half, is taken (see :func:`centre_object`); where nothing
    does, what lies at the place that differs most from the surroundings, places near the middle first. Then
    its outline is drawn again in a region about itself, until that stays the same.

    Args:
        scene: The image.
        box: The region, inside the scene. Unit: voxels of the scene.

    Returns:
        A region about the object, inside the scene, and which of its voxels belong to the object; some of
        them lie in the region that was given.

    Raises:
        GeometryError: As :func:`voxels_of`.
    """
    region = box.expand(scene.shape, CONTEXT)
    mask = centre_object(scene, region)
    if mask is None:
        region = _outstanding(scene, region).expand(scene.shape, minimum=region.extent)
        mask = centre_object(scene, region)
    if mask is None:
        return None
    for _ in range(FOLLOWED):
        (place,) = ndimage.find_objects(mask.astype(np.uint8))
        inner = Box(tuple(s.start for s in place), tuple(s.stop for s in place))
        fresh = inner.moved(region.start).expand(scene.shape, CONTEXT, LEAST)
        again = None if fresh == region else centre_object(scene, fresh)
        if again is None:
            break
        region, mask = fresh, again
    # what was asked about is in the box, not only near it
    inside = box.intersection(region)
    if inside is None or not mask[inside.moved([-n for n in region.start]).slices].any():
        return None
    return region, mask


def centre_object(scene: Scene, box: Box) -> Mask | None:
    """Return what lies in the middle of a region and stands out from its surroundings, or None.

    What is brighter (or darker) than half way between the middle and the surroundings is divided into
    connected parts, narrow gaps closed, and that of the middle is taken, holes filled. Where it reaches most
    of the region's faces, it is the surroundings and not an object.

    Args:
        scene: The image.
        box: The region, inside the scene, with something of the surroundings. Unit: voxels of the scene.

    Raises:
        GeometryError: As :func:`voxels_of`.
    """
    values, spacing, _ = voxels_of(scene, box)
    if values.min() == values.max():
        return None
    finest = [min(spacing) / mm for mm in spacing]
    smooth = ndimage.gaussian_filter(values, [SMOOTH * n for n in finest])
    away = _from_middle(values.shape) * CONTEXT
    middle = away <= max(CORE, away.min())
    core, shell = values[middle].mean(), smooth[away >= min(SHELL, away.max())]
    bright = bool(core > np.median(shell))
    around = np.percentile(shell, SURE_SHARE if bright else 100 - SURE_SHARE)
    parts, _ = ndimage.label(_closed((smooth > (core + around) / 2) == bright, finest))
    numbers = parts[middle & (parts > 0)]
    if not numbers.size:
        return None
    found: Mask = ndimage.binary_fill_holes(parts == np.bincount(numbers).argmax())
    faces = [found.take(end, axis).any() for axis in range(found.ndim) for end in (0, -1)]
    return None if sum(faces) > found.ndim else found


def voxels_of(scene: Scene, box: Box) -> tuple[npt.NDArray[np.float64], tuple[float, ...], str]:
    """Return the values of a region, the size of its voxels and the unit of that.

    Args:
        scene: The image; one with parts, as ``ImageScene`` and ``VolumeScene``.
        box: The region. Unit: voxels of the scene.

    Returns:
        Values ``(x, y[, z])``, the mean over channels; the sides of a voxel; ``mm``, or ``px`` for a picture
        whose pixels have no size.

    Raises:
        GeometryError: If the box is not inside the scene, or the scene has no voxels to be measured.
    """
    cut: Any = getattr(scene, "part", None)
    if cut is None or not box.is_inside(scene.shape):
        raise GeometryError(
            f"{scene.key}: a box inside a scene with parts is measured, such as a VolumeScene of "
            f"{tuple(scene.shape)} voxels, got {box.corners}"
        )
    image = cut(box).image
    values = image.as_tensor().double().mean(dim=0).numpy()
    spacing = spacing_of(to_affine_nd(3, np.asarray(image.affine, dtype=np.float64)))[: values.ndim]
    return values, spacing, "px" if values.ndim == 2 and spacing == (1.0, 1.0) else "mm"


def _outstanding(scene: Scene, box: Box) -> Box:
    """Return the voxel of a region that differs most from what is around, places near the middle first."""
    values, spacing, _ = voxels_of(scene, box)
    smooth = ndimage.gaussian_filter(values, [SEED_SMOOTH * min(spacing) / mm for mm in spacing])
    away = _from_middle(values.shape)
    around = np.median(smooth[away >= min(1.0, away.max())])
    place = np.unravel_index(np.argmax(np.abs(smooth - around) * np.exp(-(away**2))), values.shape)
    start = tuple(int(n) for n in place)
    return Box(start, tuple(n + 1 for n in start)).moved(box.start)


def _from_middle(shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return how far each voxel is from the middle: 1 on the ellipsoid that touches the faces."""
    axes = [(np.arange(n) + 0.5) / (n / 2) - 1 for n in shape]
    return np.asarray(np.linalg.norm(np.stack(np.meshgrid(*axes, indexing="ij")), axis=0))


def _closed(mask: Mask, finest: Sequence[float]) -> Mask:
    """Close narrow gaps.

    Args:
        mask: What may have gaps.
        finest: Length of a voxel of the finest axis along each axis. Unit: voxels.
    """
    reach = [int(CLOSED * n) for n in finest]
    grid = np.meshgrid(*(np.arange(-r, r + 1) / n for r, n in zip(reach, finest, strict=True)), indexing="ij")
    ball = np.linalg.norm(np.stack(grid), axis=0) <= CLOSED
    padded = np.pad(mask, [(2 * r, 2 * r) for r in reach])
    inside = tuple(slice(2 * r, 2 * r + n) for r, n in zip(reach, mask.shape, strict=True))
    closed: Mask = ndimage.binary_closing(padded, ball)[inside]
    return closed
