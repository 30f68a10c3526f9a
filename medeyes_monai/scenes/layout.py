"""How a volume is laid out on a picture: the contact sheet of a first glance, and the planes of a look."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.scenes.sheet import PLANES, Panel, Plane, Sheet
from medeyes_monai.transforms.array import fit_grid

__all__ = ["contact_sheet", "look_sheet", "plane_sheet", "tiles_for"]

SQUARE_WEIGHT = 0.25
"""What an error in the log aspect of the whole sheet counts against one in the log area of a tile."""
TENTHS = 10
"""Millimetres are rounded to tenths where only an aspect is wanted."""


def tiles_for(
    number: int, extent_mm: Sequence[float], patch: int, max_pixels: int
) -> tuple[int, tuple[int, int]]:
    """Return the columns of a grid of equal tiles, and the size of a tile in whole patches.

    Args:
        number: Tiles that are needed. The budget must hold a patch for each.
        extent_mm: Width and height of what a tile shows, for its aspect.
        patch: Side of the policy's grid. Unit: pixels.
        max_pixels: Most pixels of the whole sheet.

    Raises:
        ConfigError: If the budget holds no such grid.

    Example:
        >>> tiles_for(16, (350.0, 350.0), patch=32, max_pixels=128 * 128)
        (4, (32, 32))
    """
    wide, high = (max(1, round(v * TENTHS)) for v in extent_mm)
    best: tuple[float, int, tuple[int, int]] | None = None
    for columns in range(1, number + 1):
        rows = -(-number // columns)
        share = max_pixels // (columns * rows)
        if share < patch**2:
            continue
        tile = fit_grid((wide, high), patch, share, patch**2, fill=True)
        aspect = abs(math.log(columns * tile[0] / (rows * tile[1])))
        error = SQUARE_WEIGHT * aspect - math.log(tile[0] * tile[1])
        if best is None or error < best[0]:
            best = (error, columns, tile)
    if best is None:
        raise ConfigError(f"{max_pixels} pixels hold no {number} tiles of {patch}x{patch}; raise the budget")
    return best[1], best[2]


def contact_sheet(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    *,
    patch: int,
    max_pixels: int,
    slabs: int,
    label_extent: int | None = None,
) -> Sheet:
    """Lay out a volume as equal axial slabs in reading order, from the feet to the head.

    Every slab fills its cell, a cell is made of whole patches, and the label is the slab's middle slice, out
    of ``label_extent`` if given. There are fewer slabs where the volume has fewer slices or the budget fewer
    patches.

    Example:
        >>> sheet = contact_sheet((64, 64, 40), (1, 1, 1), patch=32, max_pixels=64 * 64, slabs=4)
        >>> sheet.size, [panel.label for panel in sheet.panels]
        ((64, 64), [5, 15, 25, 35])
    """
    number = min(slabs, shape[2], max_pixels // patch**2)
    extent_mm = (shape[0] * spacing_mm[0], shape[1] * spacing_mm[1])
    columns, cell = tiles_for(number, extent_mm, patch, max_pixels)
    edges = [i * shape[2] // number for i in range(number + 1)]
    panels = []
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        region = Box((0, 0, low), (int(shape[0]), int(shape[1]), high))
        label = (low + high) // 2 * (label_extent or shape[2]) // shape[2]
        panels.append(Panel("axial", _tile(i, columns, cell), region, label))
    return Sheet(_size(number, columns, cell), tuple(panels))


def look_sheet(
    region: Box, box: Box, spacing_mm: Sequence[float], *, patch: int, max_pixels: int, slices: int
) -> Sheet:
    """Lay out a region as axial slices, then the coronal and the sagittal plane through the box's centre.

    The axial slices divide the box evenly and are labelled. All panels have one scale, so that a ball is
    round in each; what is left of a tile stays black.

    Args:
        region: What is shown. Unit: voxels.
        box: What was asked for, inside the region.
        spacing_mm: Size of a voxel.
        patch: Side of the policy's grid. Unit: pixels.
        max_pixels: Most pixels.
        slices: Axial slices; fewer where the box is thinner or the budget smaller.
    """
    if region.extent[2] == 1:
        return _one_slice(region, patch, max_pixels)
    number = max(1, min(slices, box.extent[2], max_pixels // patch**2 - 2))
    cuts: list[tuple[Plane, int]] = [
        ("axial", box.start[2] + box.extent[2] * (i + 1) // (number + 1)) for i in range(number)
    ]
    cuts += [("coronal", math.floor(box.centre[1])), ("sagittal", math.floor(box.centre[0]))]
    x, y, z = (n * mm for n, mm in zip(region.extent, spacing_mm, strict=True))
    columns, tile = tiles_for(len(cuts), (max(x, y), max(y, z)), patch, max_pixels)
    scale = min(tile[0] / max(x, y), tile[1] / max(y, z))
    panels = [_panel(cut, region, spacing_mm, scale, _tile(i, columns, tile)) for i, cut in enumerate(cuts)]
    return Sheet(_size(len(cuts), columns, tile), tuple(panels))


def plane_sheet(shape: Sequence[int], spacing_mm: Sequence[float], box: Box, side: int) -> Sheet:
    """Lay out the three whole views of a volume side by side, all at one scale, the tops aligned.

    Args:
        shape: Extent of the volume. Unit: voxels.
        spacing_mm: Size of a voxel.
        box: Which slices are drawn into a view, along the axis through it.
        side: Longest side of a view. Unit: pixels.

    Raises:
        GeometryError: If the box is not inside the volume.

    Example:
        >>> sheet = plane_sheet((40, 30, 20), (1, 1, 1), Box((1, 2, 3), (2, 3, 4)), 80)
        >>> sheet.size, [panel.place.corners for panel in sheet.panels]
        ((220, 60), [(0, 0, 80, 60), (80, 0, 160, 40), (160, 0, 220, 40)])
    """
    if not box.is_inside(shape):
        raise GeometryError(f"box {box.corners} is not inside a volume of {tuple(shape)} voxels")
    extents = [n * mm for n, mm in zip(shape, spacing_mm, strict=True)]
    scale = side / max(extents)
    panels, left = [], 0
    for plane, (across, down, through) in PLANES.items():
        wide, high = (max(1, round(extents[axis] * scale)) for axis in (across, down))
        start, stop = [0, 0, 0], [int(n) for n in shape]
        start[through], stop[through] = box.start[through], box.stop[through]
        panels.append(Panel(plane, Box((left, 0), (left + wide, high)), Box(tuple(start), tuple(stop))))
        left += wide
    return Sheet((left, max(panel.place.stop[1] for panel in panels)), tuple(panels))


def _one_slice(region: Box, patch: int, max_pixels: int) -> Sheet:
    """Show one slice as a picture is shown: filling the whole budget."""
    size = fit_grid((region.extent[0], region.extent[1]), patch, max_pixels, patch**2, fill=True)
    return Sheet(size, (Panel("axial", Box.whole(size), region, region.start[2]),))


def _panel(
    cut: tuple[Plane, int], region: Box, spacing_mm: Sequence[float], scale: float, tile: Box
) -> Panel:
    """Centre a plane in its tile at a scale of pixels per millimetre."""
    plane, index = cut
    across, down, through = PLANES[plane]
    sides = [max(1, math.floor(region.extent[a] * spacing_mm[a] * scale + 1e-6)) for a in (across, down)]
    low = [a + (b - a - side) // 2 for a, b, side in zip(tile.start, tile.stop, sides, strict=True)]
    place = Box((low[0], low[1]), (low[0] + sides[0], low[1] + sides[1]))
    start, stop = list(region.start), list(region.stop)
    start[through], stop[through] = index, index + 1
    return Panel(plane, place, Box(tuple(start), tuple(stop)), index if plane == "axial" else None)


def _tile(index: int, columns: int, tile: tuple[int, int]) -> Box:
    left, top = index % columns * tile[0], index // columns * tile[1]
    return Box((left, top), (left + tile[0], top + tile[1]))


def _size(number: int, columns: int, tile: tuple[int, int]) -> tuple[int, int]:
    return columns * tile[0], -(-number // columns) * tile[1]
