"""What experts that read pixels need of a scene: its native voxels, and their size."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import SpatialCrop

from medeyes_monai.errors import ExpertError
from medeyes_monai.geometry import Box, within
from medeyes_monai.scenes import Scene

__all__ = ["crop_of", "least_extent", "native_image", "voxel_mm"]


def native_image(scene: Scene, name: str) -> MetaTensor:
    """Return all voxels of a scene, ``(C, X, Y[, Z])``, in its own intensities, with their affine.

    Args:
        scene: The image; one with an attribute ``image``, as ``ImageScene`` and ``VolumeScene`` have.
        name: Name of the expert, for messages.

    Raises:
        ExpertError: If the scene gives no such voxels.

    Example:
        >>> from medeyes_monai.scenes import ImageScene
        >>> native_image(ImageScene(np.zeros((1, 90, 80), np.uint8), key="a"), "x").shape
        torch.Size([1, 90, 80])
    """
    image: Any = getattr(scene, "image", None)
    if image is None or tuple(image.shape[1:]) != tuple(scene.shape):
        raise ExpertError(
            f"{name}: needs the voxels of {scene.key}, an attribute image of (C, X, Y[, Z]); take a "
            "scene that has it, such as ImageScene or VolumeScene"
        )
    return image if isinstance(image, MetaTensor) else MetaTensor(image)


def crop_of(image: MetaTensor, box: Box) -> MetaTensor:
    """Return the voxels of a region, with the affine that places them."""
    crop: MetaTensor = SpatialCrop(roi_start=box.start, roi_end=box.stop)(image)
    return crop


def voxel_mm(scene: Scene) -> tuple[float, ...]:
    """Return the size of a voxel along each axis.

    Example:
        >>> from medeyes_monai.scenes import ImageScene
        >>> voxel_mm(ImageScene(np.zeros((1, 90, 80), np.uint8), key="a"))
        (1.0, 1.0)
    """
    sizes = []
    origin = (0,) * len(scene.shape)
    for axis in range(len(scene.shape)):
        step = tuple(int(i == axis) for i in range(len(scene.shape)))
        here, there = (scene.to_world(Box(start, tuple(v + 1 for v in start)))[0] for start in (origin, step))
        sizes.append(float(np.linalg.norm(np.subtract(there, here))))
    return tuple(sizes)


def least_extent(scene: Scene, extent: int) -> tuple[int, ...]:
    """Return a smallest extent for each axis: of a picture the same, of a volume as many millimetres.

    Args:
        scene: The image.
        extent: Wanted along the axis with the finest voxels. Unit: voxels.

    Example:
        >>> import torch
        >>> from medeyes_monai.scenes import VolumeScene
        >>> affine = torch.diag(torch.tensor([-1.0, -1.0, 4.0, 1.0]))
        >>> scene = VolumeScene(MetaTensor(torch.zeros(1, 64, 64, 40), affine), key="a")
        >>> least_extent(scene, 32)
        (32, 32, 8)
    """
    if len(scene.shape) == 2:
        return (extent, extent)
    return within(extent, voxel_mm(scene))
