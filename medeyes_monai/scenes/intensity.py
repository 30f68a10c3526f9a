"""From the values of a volume to grey: one window, three windows as colours, or a robust stretch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from monai.transforms import ScaleIntensityRange

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.transforms.array import CT_WINDOWS, WindowIntensity

__all__ = ["CT_TASKS", "ToGrey", "Window", "grey_of"]

Window = str | Sequence[float] | Sequence[str | Sequence[float]] | None
"""A window's name, its (centre, width), the name of a task, three windows (red, green, blue), or None."""

CT_TASKS: dict[str, tuple[str, str, str]] = {
    "chest": ("lung", "mediastinum", "bone"),
    "abdomen": ("soft_tissue", "liver", "bone"),
    "head": ("brain", "subdural", "bone"),
}
"""Three windows that a reader switches between, as red, green and blue."""

ROBUST_QUANTILES = (0.005, 0.995)
"""Share of the voxels below which all is black, and above which all is white, where no window is given."""
MOST_SAMPLED = 2**20
"""The quantiles are taken of every n-th voxel along each axis, so that at most about so many are sorted."""
COLOURS = 3

ToGrey = Callable[[torch.Tensor], torch.Tensor]
"""From values, channel-first with one channel, to 0..255 with one or three channels."""


def grey_of(window: Window, volume: torch.Tensor, key: str) -> ToGrey:
    """Return the map from values, channel-first with one channel, to 0..255 with one or three channels.

    Without a window, ``uint8`` stays as it is and anything else is stretched between the 0.5th and the 99.5th
    percentile of the whole volume.

    Args:
        window: See :data:`Window`.
        volume: ``(X, Y, Z)``.
        key: For messages.

    Raises:
        ConfigError: If a window is unknown, or there are neither one nor three.
        GeometryError: If the volume holds values that are not finite.

    Example:
        >>> grey = grey_of((40.0, 80.0), torch.zeros(2, 2, 2), "a")
        >>> grey(torch.tensor([[[40.0]]])).tolist()
        [[[127.5]]]
    """
    if volume.is_floating_point() and not torch.isfinite(volume).all():
        raise GeometryError(
            f"{key}: the volume holds values that are not finite; give them a number, such as that of air"
        )
    if window is None:
        return _identity if volume.dtype == torch.uint8 else _stretch(volume)
    maps = [WindowIntensity(one) for one in _windows(window)]
    return lambda values: torch.cat([one(values).as_subclass(torch.Tensor) for one in maps])  # quicker


def _windows(window: str | Sequence[float] | Sequence[str | Sequence[float]]) -> list[str | Sequence[float]]:
    if isinstance(window, str):
        if window in CT_TASKS:
            return list(CT_TASKS[window])
        if window not in CT_WINDOWS:
            names = ", ".join(sorted([*CT_WINDOWS, *CT_TASKS]))
            raise ConfigError(f"unknown window {window!r}; choose one of {names}, or give (centre, width)")
        return [window]
    if len(window) == 2 and all(isinstance(value, (int, float)) for value in window):
        return [window]  # type: ignore[list-item]  # told by its two numbers
    if len(window) != COLOURS or any(isinstance(one, (int, float)) for one in window):
        raise ConfigError(f"one window (a name, or centre and width) or three are shown, got {window!r}")
    return list(window)  # type: ignore[arg-type]  # three names or pairs


def _identity(values: torch.Tensor) -> torch.Tensor:
    return values


def _stretch(volume: torch.Tensor) -> ToGrey:
    step = max(1, math.ceil((volume.numel() / MOST_SAMPLED) ** (1 / volume.ndim)))
    sample = volume[(slice(None, None, step),) * volume.ndim].double().flatten()
    low, high = torch.quantile(sample, torch.tensor(ROBUST_QUANTILES, dtype=torch.float64)).tolist()
    if low == high:
        low, high = float(volume.min()), float(volume.max())
    if low == high:
        return lambda values: values.float() * 0
    stretched: ToGrey = ScaleIntensityRange(low, high, 0.0, 255.0, clip=True)
    return stretched
