"""What a classical expert sees of a scene: grey values in [0, 1], of a picture or a volume."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from medeyes_monai.experts.native import crop_of, least_extent, native_image, voxel_mm
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene, View

__all__ = ["Grey", "GreyView", "glance", "look"]

Grey = npt.NDArray[np.float64]
"""Grey values in [0, 1], ``(x, y)`` or ``(x, y, z)``."""

MAX_VOXELS = 80**3
"""A volume is reduced to at most so many voxels, of equal sides; chosen, a scan then takes some seconds."""
PERCENTILES = (0.5, 99.5)
"""What becomes 0 and 1 in a volume, as in a scene without a window."""
_SAMPLE = 100  # voxels along each axis from which the percentiles are taken


@dataclass(frozen=True, slots=True, eq=False)
class GreyView:
    """Grey values of a region.

    Args:
        grey: The values.
        box: The region that they show. Unit: voxels of the scene.
    """

    grey: Grey
    box: Box


def glance(scene: Scene, name: str) -> GreyView:
    """Return the whole scene: of a picture its overview, of a volume its voxels on a coarser grid.

    Args:
        scene: The picture or volume.
        name: Name of the expert, for messages.

    Raises:
        ExpertError: If a volume gives no voxels.
    """
    if len(scene.shape) == 2:
        return _of(scene.overview())
    return _voxels(scene, Box.whole(scene.shape), name)


def look(scene: Scene, box: Box, min_extent: int, name: str) -> GreyView:
    """Return a region: of a picture a look, of a volume its voxels, with at least some surroundings.

    Args:
        scene: The picture or volume.
        box: The region. Unit: voxels of the scene.
        min_extent: Smallest side that is shown of a volume (see ``native.least_extent``).
        name: Name of the expert, for messages.

    Raises:
        ExpertError: If a volume gives no voxels.
    """
    if len(scene.shape) == 2:
        return _of(scene.look(box))
    return _voxels(scene, box.expand(scene.shape, minimum=least_extent(scene, min_extent)), name)


def _of(view: View) -> GreyView:
    """Return the grey values of a picture ``(rows, columns, 3)``."""
    grey: Grey = view.pixels.astype(np.float64).mean(axis=-1).T / 255.0
    return GreyView(grey, view.box)


def _voxels(scene: Scene, box: Box, name: str) -> GreyView:
    image = native_image(scene, name)
    low, high = _range(image.as_tensor())
    values = crop_of(image, box).as_tensor().float().mean(dim=0)
    reduced = interpolate(values[None, None], size=_grid(box, voxel_mm(scene)), mode="area")[0, 0]
    scaled = (reduced.double() - low) / (high - low) if high > low else torch.zeros_like(reduced.double())
    return GreyView(scaled.clamp(0, 1).numpy(), box)


def _range(voxels: torch.Tensor) -> tuple[float, float]:
    """Return what becomes 0 and 1: robust percentiles, or the extremes where nearly all voxels are equal."""
    every = (slice(None), *(slice(None, None, max(1, n // _SAMPLE)) for n in voxels.shape[1:]))
    low, high = np.percentile(voxels[every].float().numpy(), PERCENTILES)
    return (low, high) if low < high else (float(voxels.min()), float(voxels.max()))


def _grid(box: Box, sizes_mm: tuple[float, ...]) -> tuple[int, ...]:
    """Return the extent of a grid whose voxels have about equal sides, none finer than the finest given."""
    extent_mm = [n * mm for n, mm in zip(box.extent, sizes_mm, strict=True)]
    step = max(min(sizes_mm), (math.prod(extent_mm) / MAX_VOXELS) ** (1 / 3))
    return tuple(max(1, round(mm / step)) for mm in extent_mm)
