"""A volume that can be looked at without being in memory: slabs are read as they are needed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from monai.data import MetaTensor

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.geometry import Box, spacing_of, within
from medeyes_monai.geometry import to_world as point_to_world
from medeyes_monai.geometry.affine import Affine
from medeyes_monai.scenes.base import Finding, View
from medeyes_monai.scenes.intensity import ToGrey, Window, grey_of
from medeyes_monai.scenes.layout import contact_sheet, look_sheet, plane_sheet
from medeyes_monai.scenes.parts import box_on_slice, part_key, part_of_findings, part_of_image
from medeyes_monai.scenes.placing import turned
from medeyes_monai.scenes.planes import Projection, draw, slices_in
from medeyes_monai.scenes.sheet import PLANES, Plane, Sheet
from medeyes_monai.scenes.volume import VolumeScene
from medeyes_monai.trajectory import Picture
from medeyes_monai.transforms.array import RegionCrop

__all__ = ["SlabSource", "StreamedScene"]

AT_ONCE = 16
"""Slices that are read at a time where the whole study is gone through."""


class SlabSource(Protocol):
    """A volume of which some slices can be read, as ``medeyes_monai.io.open_volume`` returns it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(X, Y, Z)``, Z from feet to head."""

    @property
    def affine(self) -> Affine:
        """4x4, from voxel indices to RAS+ millimetres."""

    def read(self, start: int, stop: int) -> MetaTensor:
        """Return slices from ``start`` to before ``stop``, ``(1, X, Y, n)``, with their own affine."""


class StreamedScene:
    """A study larger than memory behind the :class:`~medeyes_monai.scenes.Scene` protocol.

    It shows what a :class:`~medeyes_monai.scenes.VolumeScene` with the same settings would, and holds at
    most the slices of one slab or of one look at a time. An expert that needs voxels is given them by
    :meth:`part`, as the coarse pass of ``FocusInferer`` does slab by slab.

    Args:
        source: Where slices come from; its axes are those of the RAS+ world.
        key: Name of the volume, unique within its data set, free of patient data.
        window: As of ``VolumeScene``, and needed: the grey of one slab has to be that of the next.
        findings: What the data say is in the volume, boxes in voxels of the scene (LPS, as VolumeScene's).
        settings: Further settings of ``VolumeScene`` by name.

    Raises:
        ConfigError: If there is no window, or a setting is unknown.

    Example:
        >>> class Slices:
        ...     shape, affine = (64, 64, 40), np.eye(4)
        ...     def read(self, start, stop):
        ...         affine = np.eye(4)
        ...         affine[2, 3] = start
        ...         return MetaTensor(torch.zeros(1, 64, 64, stop - start), affine=torch.as_tensor(affine))
        >>> scene = StreamedScene(Slices(), key="a", window=(0, 100))
        >>> scene.look(Box((0, 0, 10), (8, 8, 20))).box
        Box(start=(0, 0, 0), stop=(32, 32, 32))
    """

    def __init__(
        self,
        source: SlabSource,
        *,
        key: str,
        window: Window,
        findings: Sequence[Finding] = (),
        **settings: Any,
    ) -> None:
        """Lay out overview and looks by one slice; see the class."""
        self._source, self._key = source, key
        self._to_grey = _grey_of(window, key)
        first = VolumeScene(source.read(0, 1), key=key, window=window, **settings)
        self._views = first.settings
        x, y, _ = first.shape
        self._shape = (x, y, int(source.shape[2]))
        self._affine = np.asarray(first.image.affine, dtype=np.float64)
        self._spacing = spacing_of(self._affine)
        if not all(finding.box.is_inside(self._shape) for finding in findings):
            raise GeometryError(f"{key}: a finding is not inside the volume of {self._shape} voxels")
        self._findings = tuple(findings)
        self._crop = RegionCrop(self._views["context"], within(self._views["min_extent"], self._spacing))

    @property
    def key(self) -> str:
        """Name of the volume."""
        return self._key

    @property
    def shape(self) -> tuple[int, int, int]:
        """Extent of the volume, ``(x, y, z)``. Unit: voxels."""
        return self._shape

    @property
    def affine(self) -> Affine:
        """4x4, from voxels of the scene to RAS+ millimetres."""
        return self._affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along each axis."""
        return self._spacing

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the data say is in the volume. Boxes in voxels of the scene."""
        return self._findings

    @property
    def frame(self) -> tuple[int, int, int]:
        """Columns and rows of a cell of the overview, and the number of slices."""
        wide, high = self.sheet.panels[0].place.extent
        return (wide, high, self._shape[2])

    @cached_property
    def sheet(self) -> Sheet:
        """Where the overview shows what."""
        names = ("patch", "slabs", "label_extent")
        given = {name: self._views[name] for name in names} | {"max_pixels": self._views["overview_pixels"]}
        return contact_sheet(self._shape, self._spacing, **given)

    def overview(self) -> View:
        """Return the contact sheet."""
        return self._overview

    def look(self, box: Box) -> View:
        """Return the slices and planes of a region; see ``VolumeScene.look``.

        Raises:
            GeometryError: If the box lies outside the volume or does not have three axes.
        """
        inside = box.clip(self._shape)
        region = self._crop.region(box, self._shape)
        if inside.extent[2] == 1:
            region = Box((*region.start[:2], inside.start[2]), (*region.stop[:2], inside.stop[2]))
        names = {"patch": "patch", "max_pixels": "look_pixels", "slices": "look_slices"}
        given = {name: self._views[of] for name, of in names.items()}
        sheet = look_sheet(region, inside, self._spacing, **given)
        return View(self._drawn(sheet, region.start[2], region.stop[2], "central"), region)

    def part(self, box: Box) -> VolumeScene:
        """Read a region into a scene of its own; its voxels count from the region's first corner.

        Raises:
            GeometryError: If the box lies outside the volume or does not have three axes.
        """
        inside = box.clip(self._shape)
        slab = self._slab(inside.start[2], inside.stop[2])
        there = Box((*inside.start[:2], 0), (*inside.stop[:2], inside.extent[2]))
        return VolumeScene(
            part_of_image(slab, there),
            key=part_key(self._key, inside),
            findings=part_of_findings(self._findings, inside),
            **self._views,
        )

    def planes(self, box: Box, side: int) -> tuple[Picture, Sheet]:
        """Return three whole views of the volume; see ``VolumeScene.planes``. All slices are read for it.

        Raises:
            GeometryError: If the box is not inside the volume.
        """
        sheet = plane_sheet(self._shape, self._spacing, box, side)
        thin: dict[Plane, list[torch.Tensor]] = {panel.plane: [] for panel in sheet.panels}
        for low in range(0, self._shape[2], AT_ONCE):
            slab = Box((0, 0, low), (*self._shape[:2], min(low + AT_ONCE, self._shape[2])))
            voxels = self._slab(low, slab.stop[2]).as_tensor()[0]
            for panel in sheet.panels:
                if (inside := panel.region.intersection(slab)) is not None:
                    cut = voxels[inside.moved((0, 0, -low)).slices]
                    thin[panel.plane].append(cut.amax(PLANES[panel.plane][2], keepdim=True))
        picture: Picture = np.zeros((sheet.size[1], sheet.size[0], 3), np.uint8)
        for panel in sheet.panels:
            volume = torch.cat(thin[panel.plane], dim=2)
            alone = Sheet(sheet.size, (replace(panel, region=Box.whole(volume.shape)),))
            picture = np.maximum(picture, draw(volume, alone, self._to_grey, "mip", labels=False))
        return picture, sheet

    def with_window(self, window: Window) -> StreamedScene:
        """Return the same scene with other values shown as grey.

        Args:
            window: As of the class.

        Raises:
            ConfigError: If there is no window, or it is unknown.
        """
        other = copy.copy(self)
        other._to_grey = _grey_of(window, self._key)
        other._views = {**self._views, "window": window}
        other.__dict__.pop("_overview", None)
        return other

    def on_slice(self, box: Box, index: int) -> Box:
        """Return the box one slice thick that a box with four numbers means on a slice.

        Raises:
            GeometryError: If the box does not have two axes or there is no such slice.
        """
        return box_on_slice(box, index, self._shape, self._key)

    def to_world(self, box: Box) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return two opposite outer corners of a box in the world frame, RAS+. Unit: millimetres.

        Raises:
            GeometryError: If the box does not have three axes.
        """
        if box.ndim != 3:
            raise GeometryError(f"{self._key}: a volume has 3 axes, the box {box.ndim}")
        return point_to_world(box.start, self._affine), point_to_world(box.stop, self._affine)

    @cached_property
    def _overview(self) -> View:
        most = slices_in(self._views["projection_mm"], self._spacing[2])
        picture: Picture = np.zeros((self.sheet.size[1], self.sheet.size[0], 3), np.uint8)
        for panel in self.sheet.panels:
            alone = Sheet(self.sheet.size, (panel,))
            (_, _, low), (_, _, high) = panel.region.start, panel.region.stop
            picture = np.maximum(picture, self._drawn(alone, low, high, self._views["projection"], most))
        picture.flags.writeable = False
        return View(picture, Box.whole(self._shape))

    def _slab(self, start: int, stop: int) -> MetaTensor:
        slab = self._source.read(start, stop)
        if slab.is_floating_point() and not torch.isfinite(slab.as_tensor()).all():
            raise GeometryError(f"{self._key}: slices {start} to {stop} hold values that are not finite")
        return turned(slab)

    def _drawn(
        self, sheet: Sheet, start: int, stop: int, projection: Projection, most: int | None = None
    ) -> Picture:
        """Draw panels whose regions lie between two slices."""
        moved = tuple(replace(panel, region=panel.region.moved((0, 0, -start))) for panel in sheet.panels)
        voxels = self._slab(start, stop).as_tensor()[0]
        return draw(voxels, Sheet(sheet.size, moved), self._to_grey, projection, self._views["labels"], most)


def _grey_of(window: Window, key: str) -> ToGrey:
    """Return the map to grey, which has to be known without the voxels."""
    if window is None:
        raise ConfigError(f"{key}: a volume that is read slab by slab needs a window, by name or numbers")
    return grey_of(window, torch.empty(0), key)
