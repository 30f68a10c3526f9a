"""Finds the object that a region is about, and draws its outline, by how it stands out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
"""A region is grown by this to see the surroundings of what fills it, and again where it fills that too."""
CORE, SHELL = 0.5, 1.22
"""Within the first share of a region, before it is grown, is the object; outside of the second is not."""
SURE_SHARE = 75
"""Percentile of the surroundings from which an object stands out: not of all of them, since another may be
near, and not of half, since half may be air or fat."""
SEED_SMOOTH = 2.0
"""Noise and textures are smoothed so far before the place is sought that stands out. Unit: voxels of the
finest axis."""
LEAST = 6
"""Regions about objects are not smaller, along any axis. Unit: voxels."""
FOLLOWED = 16
"""An object's region is drawn anew so often at most; each time it may grow by half."""


def nearest_object(scene: Scene, box: Box) -> tuple[Box, Mask] | None:
    """Return what stands out next to the middle of a region, whole even where the region cuts it, or None.

    What lies in the middle of the region, grown by half, is taken (see :func:`centre_object`); where nothing
    does, what lies at the place that differs most from the surroundings, places near the middle first; where
    that is nothing either, what fills the region and more. Its outline is drawn again in a region about
    itself until that stays the same. What still reaches beyond its region then has no outline.

    Args:
        scene: The image.
        box: The region, inside the scene. Unit: voxels of the scene.

    Returns:
        A region about the object, inside the scene, and which of its voxels belong to the object; some of
        them lie in the region that was given.

    Raises:
        GeometryError: As :func:`voxels_of`.
    """
    voxels_of(scene, box)
    for region in _begun(scene, box):
        mask = centre_object(scene, region)
        if mask is not None:
            break
    else:
        return None
    for _ in range(FOLLOWED):
        (place,) = ndimage.find_objects(mask.astype(np.uint8))
        inner = Box(tuple(s.start for s in place), tuple(s.stop for s in place))
        fresh = _grown(inner.moved(region.clip(scene.shape).start), CONTEXT)
        again = None if fresh == region else centre_object(scene, fresh)
        if again is None:
            break
        region, mask = fresh, again
    inside = region.clip(scene.shape)
    asked = box.intersection(inside)
    if asked is None or not mask[asked.moved([-n for n in inside.start]).slices].any():
        return None  # it is near what was asked about, and not in it
    return None if _cut(mask, inside, scene.shape).any() else (inside, mask)


def centre_object(scene: Scene, box: Box) -> Mask | None:
    """Return what lies in the middle of a region and stands out from its surroundings, or None.

    What is brighter (or darker) than half way between the middle and the surroundings is divided into
    connected parts, narrow gaps closed, and that of the middle is taken, holes filled. Where it is cut by
    most of the region's faces, it is the surroundings and not an object.

    Args:
        scene: The image.
        box: The region, with something of the surroundings; what of it lies outside of the scene is left out.
            Unit: voxels of the scene.

    Returns:
        Which voxels belong to it, of the shape of the part of the region that lies inside the scene.

    Raises:
        GeometryError: If the region lies outside of the scene, or as :func:`voxels_of`.
    """
    inside = box.clip(scene.shape)
    values, spacing, _ = voxels_of(scene, inside)
    if values.min() == values.max():
        return None
    finest = [min(spacing) / mm for mm in spacing]
    smooth = ndimage.gaussian_filter(values, [SMOOTH * n for n in finest])
    away = _from_middle(inside, box) * CONTEXT
    middle = away <= max(CORE, away.min())
    core, shell = values[middle].mean(), smooth[away >= min(SHELL, away.max())]
    bright = bool(core > np.median(shell))
    around = np.percentile(shell, SURE_SHARE if bright else 100 - SURE_SHARE)
    parts, _ = ndimage.label(_closed((smooth > (core + around) / 2) == bright, finest))
    numbers = parts[middle & (parts > 0)]
    if not numbers.size:
        return None
    found = parts == np.bincount(numbers).argmax()
    flat = ndimage.binary_fill_holes(found.squeeze())  # an axis of one voxel has no inside
    filled: Mask = np.asarray(flat).reshape(found.shape)
    cut = _cut(filled, inside, scene.shape)
    return None if cut.size and cut.mean() > 0.5 else filled


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


def _begun(scene: Scene, box: Box) -> Iterator[Box]:
    """Iterate over the regions in which an object is sought, the likeliest first."""
    region = _grown(box, CONTEXT)
    yield region
    yield _outstanding(scene, region)
    yield _grown(box, CONTEXT**2)
    yield _grown(box, CONTEXT**3)


def _outstanding(scene: Scene, box: Box) -> Box:
    """Return a region about the voxel that differs most from what is around, near the middle first."""
    inside = box.clip(scene.shape)
    values, spacing, _ = voxels_of(scene, inside)
    smooth = ndimage.gaussian_filter(values, [SEED_SMOOTH * min(spacing) / mm for mm in spacing])
    away = _from_middle(inside, box)
    around = np.median(smooth[away >= min(1.0, away.max())])
    place = np.unravel_index(np.argmax(np.abs(smooth - around) * np.exp(-(away**2))), values.shape)
    by = [a + int(n) - round(c - 0.5) for a, n, c in zip(inside.start, place, box.centre, strict=True)]
    return box.moved(by)


def _grown(box: Box, factor: float) -> Box:
    """Return a box that is larger about the same middle, perhaps beyond the scene."""
    more = [max(0, max(LEAST, math.ceil(n * factor)) - n) for n in box.extent]
    start = tuple(a - n // 2 for a, n in zip(box.start, more, strict=True))
    return Box(start, tuple(b + n - n // 2 for b, n in zip(box.stop, more, strict=True)))


def _cut(mask: Mask, box: Box, shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Return at which faces of a box a mask is cut off; those where the scene ends are left out."""
    ends = [(axis, 0) for axis, n in enumerate(box.start) if n > 0]
    ends += [(axis, -1) for axis, n in enumerate(box.stop) if n < shape[axis]]
    return np.array([mask.take(end, axis).any() for axis, end in ends], bool)


def _from_middle(inside: Box, box: Box) -> npt.NDArray[np.float64]:
    """Return how far the voxels of a part of a box are from its middle: 1 on the ellipsoid in the box."""
    axes = [
        (np.arange(a, b) + 0.5 - c) / (n / 2)
        for a, b, c, n in zip(inside.start, inside.stop, box.centre, box.extent, strict=True)
    ]
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
