"""Drawing a sheet: slabs and planes are cut from a volume, brought to grey values, resized and labelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from torch.nn import functional

from medeyes_monai.scenes.sheet import PLANES, UPWARDS, Panel, Sheet
from medeyes_monai.trajectory import Picture

__all__ = ["PROJECTIONS", "Projection", "draw", "slices_in"]

Projection = Literal["mip", "mean", "central"]
"""How the slices of a slab become one: the brightest voxel, the mean, or the middle slice alone."""
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)

DIGITS = {
    "0": (7, 5, 5, 5, 7),
    "1": (2, 6, 2, 2, 7),
    "2": (7, 1, 7, 4, 7),
    "3": (7, 1, 3, 1, 7),
    "4": (5, 5, 7, 1, 1),
    "5": (7, 4, 7, 1, 7),
    "6": (7, 4, 7, 5, 7),
    "7": (7, 1, 2, 2, 2),
    "8": (7, 5, 7, 5, 7),
    "9": (7, 5, 7, 1, 7),
}
"""Digits of 3 x 5 dots, a row a number: they stay legible in a cell of 32 pixels, where no font does."""
DIGIT_COLUMNS = 3
LABEL_SHARE = 12
"""A dot of a label is the tile's shorter side divided by twelve digits' heights, at least one pixel."""
WHITE = 255


def draw(
    volume: torch.Tensor,
    sheet: Sheet,
    to_grey: Callable[[torch.Tensor], torch.Tensor],
    projection: Projection = "central",
    labels: bool = True,
    most: int | None = None,
) -> Picture:
    """Draw the panels of a sheet; what no panel covers is black.

    Args:
        volume: ``(X, Y, Z)``, x to the patient's left, y to the back, z to the head.
        sheet: What goes where.
        to_grey: From values of the volume ``(1, columns, rows)`` to ``(1 or 3, columns, rows)``, 0 to 255.
        projection: How the slices of a slab become one.
        labels: Whether panels that have a number show it.
        most: Most slices that become one, about the middle of the slab; None: all.

    Returns:
        ``uint8 (rows, columns, 3)``.
    """
    picture = np.zeros((sheet.size[1], sheet.size[0], 3), np.uint8)
    for panel in sheet.panels:
        grey = to_grey(_flat(volume, panel, projection, most)[None])
        columns, rows = panel.place.extent
        pixels = _resized(grey.float(), (columns, rows)).round().clamp(0, WHITE).to(torch.uint8)
        (left, top), (right, bottom) = panel.place.start, panel.place.stop
        picture[top:bottom, left:right] = pixels.permute(2, 1, 0).numpy()
        if labels and panel.label is not None:
            _write(picture[top:bottom, left:right], panel.label)
    return picture


def slices_in(thickness_mm: float | None, slice_mm: float) -> int | None:
    """Return how many slices a thickness is, at least one; None stays None.

    Example:
        >>> slices_in(10.0, 3.0), slices_in(1.0, 3.0)
        (3, 1)
    """
    return None if thickness_mm is None else max(1, round(thickness_mm / slice_mm))


def _flat(volume: torch.Tensor, panel: Panel, projection: Projection, most: int | None) -> torch.Tensor:
    """Return what a panel shows, ``(across, down)``, at the volume's own resolution."""
    across, down, through = PLANES[panel.plane]
    low, high = panel.region.start[through], panel.region.stop[through]
    window = list(panel.region.slices)
    thick = 1 if projection == "central" else min(high - low, most or high - low)
    first = (low + high) // 2 - thick // 2
    window[through] = slice(first, first + thick)
    slab = volume[tuple(window)].permute(across, down, through)
    plane = slab.float().mean(dim=2) if projection == "mean" else slab.amax(dim=2)
    return plane.flip(1) if down == UPWARDS else plane


def _resized(grey: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resize ``(C, columns, rows)``: averaged along an axis that shrinks, linear along one that grows."""
    fewer = [min(new, old) for new, old in zip(size, grey.shape[1:], strict=True)]
    averaged = functional.interpolate(grey[None], fewer, mode="area")
    if fewer == list(size):
        return averaged[0]
    return functional.interpolate(averaged, list(size), mode="bilinear", align_corners=False)[0]


def _write(panel: Picture, number: int) -> None:
    """Write a number into the upper left corner, white on black."""
    scale = max(1, min(panel.shape[:2]) // (LABEL_SHARE * len(DIGITS["0"])))
    stamp = _stamp(number, scale)[: panel.shape[0], : panel.shape[1]]
    panel[: stamp.shape[0], : stamp.shape[1]] = stamp[..., None]


@lru_cache(maxsize=4096)
def _stamp(number: int, scale: int) -> Picture:
    """Return a number as it is written, each dot a square of some pixels. It is shared: do not change it."""
    stamp: Picture = np.kron(_dots(str(number)), np.ones((scale, scale), np.uint8)) * WHITE
    return stamp


def _dots(text: str) -> Picture:
    """Return a text of digits as dots of 0 and 1, with a margin of one dot."""
    rows = np.array([DIGITS[digit] for digit in text], np.uint8)
    dots = rows[:, :, None] >> np.arange(DIGIT_COLUMNS - 1, -1, -1, dtype=np.uint8) & 1
    apart = np.pad(dots, ((0, 0), (1, 1), (0, 1)))  # a margin above, below and behind each digit
    return np.pad(np.concatenate(list(apart), axis=1), ((0, 0), (1, 0)))
