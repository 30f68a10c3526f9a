"""Array transforms of a look: crop a region, fit it to the policy's grid, window it, make it a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from monai.data import MetaTensor, get_track_meta
from monai.transforms import Crop, Resize, ScaleIntensityRange, Transform
from monai.transforms.spatial.functional import resize
from monai.utils import TransformBackends, convert_to_numpy, convert_to_tensor

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.trajectory import Picture

__all__ = ["CT_WINDOWS", "FitPixelBudget", "RegionCrop", "ToPicture", "WindowIntensity", "fit_grid"]

CT_WINDOWS: dict[str, tuple[float, float]] = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "soft_tissue": (50.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "stroke": (35.0, 40.0),
    "subdural": (75.0, 215.0),
    "liver": (60.0, 160.0),
}
"""Centre and width of usual CT windows. Unit: Hounsfield."""

WHITE = 255.0
"""Brightest value of a picture."""

SIZE_WEIGHT = 0.5
"""What an error in log size counts against one in log aspect; below 1, so that the aspect comes first."""


class RegionCrop(Crop):
    """Crop a channel-first image to a box with context around it, moved inside the image.

    The box is clipped to the image, grown about its centre and shifted inside (:meth:`Box.expand`). As
    MONAI's crops, the transform can be lazy and inverted, and the affine follows.

    Args:
        context: Each side of the box is multiplied by this.
        min_extent: Smallest side after cropping, one number or one per axis; a smaller image wins.
            Unit: voxels.
        lazy: Whether to run lazily (see ``monai.transforms.Crop``).

    Raises:
        ConfigError: If ``context`` or ``min_extent`` is not positive.

    Example:
        >>> image = torch.zeros(1, 100, 80)
        >>> tuple(RegionCrop(context=2.0, min_extent=32)(image, Box((0, 40), (10, 60))).shape)
        (1, 32, 40)
    """

    def __init__(self, context: float = 1.0, min_extent: int | Sequence[int] = 1, lazy: bool = False) -> None:
        """Set up the crop; see the class."""
        super().__init__(lazy=lazy)
        least = [min_extent] if isinstance(min_extent, int) else list(min_extent)
        if not context > 0 or not math.isfinite(context) or not least or min(least) < 1:
            raise ConfigError(f"context and min_extent must be positive, got {context} and {min_extent}")
        self.context = context
        self.min_extent = min_extent

    def region(self, box: Box, shape: Sequence[int]) -> Box:
        """Return the region that is cropped when ``box`` is asked for in a grid of ``shape`` voxels.

        Raises:
            GeometryError: If the box lies outside the grid or has another number of axes.
        """
        return box.clip(shape).expand(shape, self.context, self.min_extent)

    def __call__(self, img: torch.Tensor, box: Box, lazy: bool | None = None) -> torch.Tensor:
        """Crop ``img``, channel-first ``(C, X, Y[, Z])``, to ``box`` with its context.

        Raises:
            GeometryError: If the box lies outside the image or has another number of axes.
        """
        region = self.region(box, _extent(img))
        cropped: torch.Tensor = super().__call__(img, region.slices, lazy=lazy)
        return cropped


@lru_cache(maxsize=4096)
def fit_grid(
    extent: tuple[int, int], patch: int, max_pixels: int, min_pixels: int, fill: bool = False
) -> tuple[int, int]:
    """Return the size, in whole patches, that best keeps an image's aspect and size within a budget.

    Args:
        extent: Size of the image. Unit: pixels.
        patch: Side of the square that both sides of the result are multiples of. Unit: pixels.
        max_pixels: Most pixels that the result may have.
        min_pixels: Fewest pixels that the result may have.
        fill: Whether a small image is enlarged to the whole budget.

    Example:
        >>> fit_grid((512, 400), patch=32, max_pixels=128 * 128, min_pixels=1024)
        (128, 96)
    """
    wide, high = extent
    most, least = max_pixels // patch**2, -(-min_pixels // patch**2)
    ideal = max_pixels if fill else min(max(wide * high, min_pixels), max_pixels)

    def error(columns: int, rows: int) -> float:
        stretch = abs(math.log(columns * high / (rows * wide)))
        return stretch + SIZE_WEIGHT * abs(math.log(columns * rows * patch**2 / ideal))

    grids: set[tuple[int, int]] = set()
    for columns in range(1, most + 1):
        wanted, lowest, highest = columns * high / wide, max(1, -(-least // columns)), most // columns
        if lowest <= highest:
            near = (math.floor(wanted), math.ceil(wanted))
            grids.update((columns, min(max(rows, lowest), highest)) for rows in near)
    columns, rows = min(sorted(grids), key=lambda grid: error(*grid))
    return columns * patch, rows * patch


class FitPixelBudget(Resize):
    """Resize a two-dimensional image so that it fits a pixel budget and a policy's patch grid.

    Both sides become multiples of ``patch``, their product stays within ``[min_pixels, max_pixels]``, and the
    aspect is kept as well as such a grid allows (:func:`fit_grid`). An image that loses pixels is averaged
    over areas, so that nothing aliases; one that gains pixels is interpolated linearly. As MONAI's
    ``Resize``, the transform can be lazy and inverted, and the affine follows. Run lazily, MONAI samples
    linearly in both cases, so a shrunken image is then not averaged.

    Args:
        max_pixels: Most pixels of the result.
        min_pixels: Fewest pixels of the result; one patch if None.
        patch: Side of the policy's grid, patch size times merge. Unit: pixels.
        fill: Whether a small image is enlarged to the whole budget rather than left at its size.
        lazy: Whether to run lazily (see ``monai.transforms.Resize``).

    Raises:
        ConfigError: If no grid of whole patches has between ``min_pixels`` and ``max_pixels`` pixels.

    Example:
        >>> tuple(FitPixelBudget(max_pixels=64 * 64)(torch.zeros(1, 300, 90)).shape)
        (1, 128, 32)
    """

    def __init__(
        self,
        max_pixels: int,
        min_pixels: int | None = None,
        patch: int = 32,
        fill: bool = False,
        lazy: bool = False,
    ) -> None:
        """Set up the budget; see the class."""
        super().__init__(spatial_size=-1, lazy=lazy)
        least = patch**2 if min_pixels is None else min_pixels
        if patch < 1 or least < 1 or max_pixels // max(patch, 1) ** 2 < -(-least // max(patch, 1) ** 2):
            raise ConfigError(
                f"no grid of {patch} px patches has between {least} and {max_pixels} pixels; "
                f"raise max_pixels to at least {patch**2}, or lower min_pixels"
            )
        self.max_pixels, self.min_pixels, self.patch, self.fill = max_pixels, least, patch, fill

    def size_for(self, extent: Sequence[int]) -> tuple[int, int]:
        """Return the size that an image of ``extent`` pixels is resized to.

        Raises:
            GeometryError: If the image is not two-dimensional or is empty.
        """
        if len(extent) != 2 or min(extent) < 1:
            raise GeometryError(f"a pixel budget is for 2D images with pixels, got extent {tuple(extent)}")
        return fit_grid(
            (int(extent[0]), int(extent[1])), self.patch, self.max_pixels, self.min_pixels, self.fill
        )

    def __call__(self, img: torch.Tensor, lazy: bool | None = None) -> torch.Tensor:
        """Resize ``img``, channel-first ``(C, X, Y)``; the result is float32.

        Raises:
            GeometryError: If the image is not two-dimensional.
        """
        extent = _extent(img)
        size = self.size_for(extent)
        shrinks = math.prod(size) < math.prod(extent)
        resized: torch.Tensor = resize(
            convert_to_tensor(img, track_meta=get_track_meta()),
            size,
            "area" if shrinks else "bilinear",
            None if shrinks else False,
            torch.float32,
            2,
            False,
            None,
            self.lazy if lazy is None else lazy,
            self.get_transform_info(),
        )
        return resized


class WindowIntensity(ScaleIntensityRange):
    """Map a window of intensities, as a radiologist sets it, onto ``[0, 255]`` and clip the rest.

    Args:
        window: Name of a usual CT window (a key of ``CT_WINDOWS``), or its centre and width.

    Raises:
        ConfigError: If the name is unknown or the width is not positive.

    Example:
        >>> WindowIntensity((40.0, 80.0))(torch.tensor([-100.0, 0.0, 40.0, 80.0])).tolist()
        [0.0, 0.0, 127.5, 255.0]
    """

    def __init__(self, window: str | Sequence[float]) -> None:
        """Set up the window; see the class."""
        centre, width = _window(window)
        super().__init__(centre - width / 2, centre + width / 2, 0.0, WHITE, clip=True)


class ToPicture(Transform):
    """Make a policy's picture, ``uint8 (rows, columns, 3)``, of an image with values in ``[0, 255]``.

    Values are rounded and clipped; grey becomes three equal channels.

    Example:
        >>> ToPicture()(torch.full((1, 64, 32), 99.6)).shape
        (32, 64, 3)
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012

    def __call__(self, img: torch.Tensor) -> Picture:
        """Convert ``img``, channel-first ``(C, X, Y)`` with one or three channels.

        Raises:
            GeometryError: If the image is not two-dimensional or has another number of channels.
        """
        if img.ndim != 3 or img.shape[0] not in (1, 3):
            raise GeometryError(f"a picture is made of (1 or 3, X, Y), got shape {tuple(img.shape)}")
        pixels = convert_to_numpy(img)
        if pixels.dtype != np.uint8:
            pixels = np.clip(np.rint(pixels), 0, WHITE).astype(np.uint8)
        rows_first = pixels.transpose(2, 1, 0)
        return np.ascontiguousarray(np.broadcast_to(rows_first, (*rows_first.shape[:2], 3)))


def _extent(img: torch.Tensor) -> tuple[int, ...]:
    shape = img.peek_pending_shape() if isinstance(img, MetaTensor) else img.shape[1:]
    return tuple(int(n) for n in shape)


def _window(window: str | Sequence[float]) -> tuple[float, float]:
    if isinstance(window, str):
        if window not in CT_WINDOWS:
            raise ConfigError(f"unknown window {window!r}; choose one of {', '.join(sorted(CT_WINDOWS))}")
        return CT_WINDOWS[window]
    if len(window) != 2 or not all(math.isfinite(v) for v in window) or window[1] <= 0:
        raise ConfigError(f"a window is a name or (centre, width > 0), got {window}")
    return float(window[0]), float(window[1])
