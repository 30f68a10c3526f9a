"""Where in a picture which part of a volume is shown: panels, and the way from pixels to voxels and back.

A volume's own axes are x to the patient's left, y to the back, z to the head. An axial panel shows x to the
right and y downwards, a coronal one x to the right and the head on top, a sagittal one the front to the left
and the head on top: the radiological convention, and how a stored axial DICOM slice looks as a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import Box

__all__ = ["PLANES", "Panel", "Plane", "Sheet"]

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: dict[Plane, tuple[int, int, int]] = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
"""For each plane, the volume's axis across, down and through the picture."""
UPWARDS = 2
"""The axis that is drawn upwards: the head on top."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One plane, or a slab of parallel planes, drawn into a rectangle of a picture.

    Args:
        plane: Which way the volume is cut.
        place: The rectangle, ``(column, row)``. Unit: pixels of the sheet.
        region: What is shown in it; along the axis through the picture, the slices that are drawn into one.
            Unit: voxels.
        label: Number drawn into the corner, or None.
    """

    plane: Plane
    place: Box
    region: Box
    label: int | None = None

    def to_voxel(self, pixel: Sequence[float]) -> tuple[float, float, float]:
        """Return the point in the middle of the slab under a point of the picture (both in edges).

        Which slice of the slab it was that drew the point, the picture does not say: the way back is exact
        across and down, and through the picture to half the slab.
        """
        across, down, through = PLANES[self.plane]
        point = list(self.region.centre)
        for axis, value, low, high in zip(
            (across, down), pixel, self.place.start, self.place.stop, strict=True
        ):
            share = (value - low) / (high - low)
            share = 1 - share if axis == UPWARDS else share
            point[axis] = self.region.start[axis] + share * self.region.extent[axis]
        point[through] = self.region.centre[through]
        x, y, z = point
        return (x, y, z)

    def to_pixel(self, point: Sequence[float]) -> tuple[float, float]:
        """Return the point of the picture over a point of the volume (both in edges)."""
        across, down, _ = PLANES[self.plane]
        pixel = []
        for axis, low, high in zip((across, down), self.place.start, self.place.stop, strict=True):
            share = (point[axis] - self.region.start[axis]) / self.region.extent[axis]
            share = 1 - share if axis == UPWARDS else share
            pixel.append(low + share * (high - low))
        return (pixel[0], pixel[1])


@dataclass(frozen=True, slots=True)
class Sheet:
    """A picture made of panels.

    Points of the picture are in pixel edges, column first; points of the volume in voxel edges, as
    :attr:`Box.centre`.

    Args:
        size: Columns and rows of the picture. Unit: pixels.
        panels: What it is made of.

    Example:
        >>> slab = Box((0, 0, 4), (100, 50, 8))
        >>> sheet = Sheet((64, 32), (Panel("axial", Box((0, 0), (50, 25)), slab, 6),))
        >>> sheet.to_voxel((25, 5)), sheet.to_pixel((50, 10, 6))
        ((50.0, 10.0, 6.0), (25.0, 5.0))
    """

    size: tuple[int, int]
    panels: tuple[Panel, ...]

    def panel_at(self, pixel: Sequence[float]) -> Panel:
        """Return the panel under a point of the picture.

        Raises:
            GeometryError: If nothing is shown there.
        """
        for panel in self.panels:
            if panel.place.contains(pixel):
                return panel
        raise GeometryError(
            f"nothing of the volume is shown at {tuple(pixel)} of a sheet of {self.size} pixels"
        )

    def to_voxel(self, pixel: Sequence[float]) -> tuple[float, float, float]:
        """Return the point of the volume under a point of the picture; through it, the middle of the slab.

        Raises:
            GeometryError: If nothing is shown there.
        """
        return self.panel_at(pixel).to_voxel(pixel)

    def to_pixel(self, point: Sequence[float]) -> tuple[float, float]:
        """Return where a point of the volume is shown: in the first panel that holds it.

        Raises:
            GeometryError: If no panel holds it.
        """
        for panel in self.panels:
            if panel.region.contains(point):
                return panel.to_pixel(point)
        raise GeometryError(f"the point {tuple(point)} lies in no panel of the sheet")

    def region(self, box: Box) -> Box:
        """Return the region of the volume under a rectangle of the picture.

        The rectangle is cut to the panel under its centre: a region of two panels would be no box. Through
        the picture, it is the whole slab of that panel.

        Args:
            box: Two axes, in pixels of the sheet.

        Raises:
            GeometryError: If it has three axes, or nothing is shown at its centre.

        Example:
            >>> sheet = Sheet((32, 32), (Panel("axial", Box((0, 0), (32, 32)), Box.whole((64, 64, 9)), 4),))
            >>> sheet.region(Box((8, 8), (16, 24)))
            Box(start=(16, 16, 0), stop=(32, 48, 9))
        """
        panel = self.panel_at(box.centre)
        inside = box.clip(panel.place.stop).intersection(panel.place)
        if inside is None:
            raise GeometryError(f"box {box.corners} covers nothing of the panel at {panel.place.corners}")
        ends = (panel.to_voxel(inside.start), panel.to_voxel(inside.stop))
        _, _, through = PLANES[panel.plane]
        low = [math.floor(min(pair)) for pair in zip(*ends, strict=True)]
        high = [math.ceil(max(pair)) for pair in zip(*ends, strict=True)]
        low[through], high[through] = panel.region.start[through], panel.region.stop[through]
        return Box(tuple(low), tuple(high))
