"""What a volume scene checks before it shows anything: settings, affine, and where the findings are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.geometry import carry_box, check_affine
from medeyes_monai.geometry.affine import Affine
from medeyes_monai.scenes.base import Finding
from medeyes_monai.scenes.planes import PROJECTIONS

__all__ = ["carried", "check_settings", "placed", "same_grid", "turned"]

AXES = "LPS"
"""Directions in which indices of a scene grow: to the patient's left, to the back, to the head."""
AXIS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
AS_GIVEN = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Affine of an array that has none: 1 mm, axes as a scene has them, in the RAS+ world."""
LEAST_TILES = 3
"""Fewest tiles of a look: a slice, the coronal and the sagittal plane."""


def check_settings(
    patch: int,
    overview_pixels: int,
    look_pixels: int,
    slabs: int,
    look_slices: int,
    projection: str,
    projection_mm: float | None,
) -> None:
    """Refuse settings that no picture can be made with."""
    if min(patch, slabs, look_slices) < 1:
        raise ConfigError(
            f"patch, slabs and look_slices must be positive, got {patch}, {slabs}, {look_slices}"
        )
    if overview_pixels < patch**2 or look_pixels < LEAST_TILES * patch**2:
        raise ConfigError(
            f"an overview needs a patch of {patch}x{patch} pixels and a look three of them, the budgets are "
            f"{overview_pixels} and {look_pixels}; raise them"
        )
    if projection not in PROJECTIONS:
        raise ConfigError(f"unknown projection {projection!r}; choose one of {', '.join(PROJECTIONS)}")
    if projection_mm is not None and not projection_mm > 0:
        raise ConfigError(f"projection_mm is above 0, or None to project all of a slab; got {projection_mm}")


def placed(image: npt.NDArray[np.generic] | torch.Tensor, key: str) -> MetaTensor:
    """Return the volume with an affine that can place it."""
    if image.ndim != 4 or image.shape[0] != 1 or 0 in image.shape:
        raise GeometryError(
            f"{key}: a volume scene needs (1, X, Y, Z), got shape {tuple(image.shape)}; of colour or of a "
            "series over time, choose one channel"
        )
    if not isinstance(image, MetaTensor):
        return MetaTensor(torch.as_tensor(image), affine=torch.as_tensor(AS_GIVEN))
    try:
        check_affine(np.asarray(image.affine, dtype=np.float64))
    except GeometryError as error:
        raise GeometryError(f"{key}: {error}") from error
    return image


def turned(image: MetaTensor) -> MetaTensor:
    """Return the volume with the axes of a scene."""
    lps: MetaTensor = Orientation(AXES, labels=AXIS_LABELS)(image)
    return lps


def carried(findings: Sequence[Finding], given: MetaTensor, affine: Affine, key: str) -> tuple[Finding, ...]:
    """Return the findings with their boxes in the scene's voxels."""
    source, shape = np.asarray(given.affine, dtype=np.float64), given.shape[1:]
    for finding in findings:
        if finding.box.ndim != 3 or not finding.box.is_inside(shape):
            raise GeometryError(
                f"{key}: finding {finding.box.corners} is not inside the volume of {tuple(shape)} voxels"
            )
    return tuple(Finding(carry_box(f.box, source, affine), f.label, f.subtle) for f in findings)


def same_grid(image: torch.Tensor, grid: MetaTensor, key: str) -> MetaTensor:
    """Return other voxels in the place of a scene's own."""
    if image.shape != grid.shape or image.dtype != grid.dtype:
        raise GeometryError(
            f"{key}: wanted {grid.dtype} of shape {tuple(grid.shape)}, got {image.dtype} of "
            f"{tuple(image.shape)}"
        )
    voxels = image.as_tensor() if isinstance(image, MetaTensor) else image
    return MetaTensor(
        voxels,
        affine=grid.affine,
        meta={name: value for name, value in grid.meta.items() if name != "affine"},
    )
