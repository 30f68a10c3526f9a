"""A volume that can be looked at."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import Box, spacing_of, within
from medeyes_monai.geometry import to_world as point_to_world
from medeyes_monai.scenes.base import Finding, View
from medeyes_monai.scenes.content import digest_of
from medeyes_monai.scenes.intensity import Window, grey_of
from medeyes_monai.scenes.layout import contact_sheet, look_sheet, plane_sheet
from medeyes_monai.scenes.parts import box_on_slice, part_key, part_of_findings, part_of_image
from medeyes_monai.scenes.placing import carried, check_settings, placed, same_grid, turned
from medeyes_monai.scenes.planes import Projection, draw, slices_in
from medeyes_monai.scenes.sheet import Sheet
from medeyes_monai.trajectory import Picture
from medeyes_monai.transforms.array import RegionCrop

__all__ = ["VolumeScene"]


class VolumeScene:
    """A CT or MR volume behind the :class:`~medeyes_monai.scenes.Scene` protocol.

    **Axes.** Whatever axes the volume is stored with, the scene has x to the patient's left, y to the back
    and z from feet to head (LPS), by exact flips and permutations, so that pictures show the patient as
    radiologists see him: right side on the left, front on top; the same as a stored axial DICOM slice in an
    ``ImageScene``. :attr:`image` has these axes too and an affine into the RAS+ world. Boxes go back to
    another grid of the same voxels with :func:`~medeyes_monai.geometry.carry_box`.

    **Overview.** A contact sheet of axial slabs in reading order, feet first. Each cell shows a whole slab,
    is made of whole patches, and carries the number of the slab's middle slice. It hides where within the
    slab something lies: a point of the sheet is a place to half a slab along z (``scene.sheet.to_voxel``
    takes the middle), and a rectangle drawn on it a whole slab thick (``scene.sheet.region``). A policy
    points with ``[x1, y1, z1, x2, y2, z2]`` in :attr:`frame`, x and y within a cell, whichever it is, and z
    in slice numbers as labelled, which are exact.

    **Looks.** A box brings axial slices of its region and the coronal and sagittal plane through its centre,
    cut at native resolution and resized to the budget, all at one scale. A box one slice thick brings that
    slice as a picture; :meth:`on_slice` makes it of a box with four numbers.

    Args:
        image: Channel-first ``(1, X, Y, Z)``, as :func:`~medeyes_monai.io.read_volume` returns it, any
            plain number type. A ``MetaTensor`` is placed by its affine; an array or plain tensor is taken to
            have the scene's axes and voxels of 1 mm.
        key: Name of the volume, unique within its data set, free of patient data.
        findings: What the data say is in the volume, boxes in voxels of ``image`` as it is handed over.
        patch: Side of the policy's grid, patch size times merge. Unit: pixels.
        overview_pixels: Most pixels of the overview.
        look_pixels: Most pixels of a look. A look is enlarged to this budget where its region is smaller.
        slabs: Most cells of the overview.
        projection: What a cell shows of its slab: ``"mip"``, ``"mean"`` or ``"central"``.
        projection_mm: Thickness of what is projected, about the middle of a slab, such as 10 for a thin MIP;
            None: the whole slab. What lies in a slab beside it is not in the overview. Unit: millimetres.
        look_slices: Axial slices of a look.
        context: Each side of a box that is looked at is multiplied by this.
        min_extent: Smallest side of a region, along the finest axis in voxels and along the others as
            many millimetres or just less. Not along z for a box one slice thick.
        window: A CT window's name or (centre, width); a task's name (``CT_TASKS``) or three windows, shown
            as red, green and blue; None, for MR and the like, stretches between the 0.5th and 99.5th
            percentile. Names are for Hounsfield units, and nobody checks that the values are.
        labels: Whether slice numbers are drawn.
        label_extent: Numbers drawn count so far along z, for a policy that speaks relative coordinates
            (1000); None: slices.

    Raises:
        GeometryError: If the volume has another shape, is not finite, its affine cannot place it, or a
            finding lies outside it.
        ConfigError: If a budget holds too few patches, or a setting is unknown.

    Example:
        >>> scene = VolumeScene(np.zeros((1, 64, 64, 40), np.int16), key="a", window="lung")
        >>> scene.frame, scene.overview().pixels.shape
        ((32, 32, 40), (128, 128, 3))
        >>> scene.look(Box((0, 0, 10), (8, 8, 20))).box
        Box(start=(0, 0, 0), stop=(32, 32, 32))
        >>> scene.look(scene.on_slice(Box((0, 0), (8, 8)), 10)).box
        Box(start=(0, 0, 10), stop=(32, 32, 11))
    """

    def __init__(
        self,
        image: npt.NDArray[np.generic] | torch.Tensor,
        *,
        key: str,
        findings: Sequence[Finding] = (),
        patch: int = 32,
        overview_pixels: int = 128 * 128,
        look_pixels: int = 64 * 64,
        slabs: int = 16,
        projection: Projection = "mip",
        projection_mm: float | None = None,
        look_slices: int = 2,
        context: float = 1.0,
        min_extent: int = 32,
        window: Window = None,
        labels: bool = True,
        label_extent: int | None = None,
    ) -> None:
        """Turn the volume to the scene's axes and check the rest; see the class."""
        check_settings(patch, overview_pixels, look_pixels, slabs, look_slices, projection, projection_mm)
        given = placed(image, key)
        self._key, self._labels = key, labels
        self._views: dict[str, Any] = {
            "patch": patch,
            "overview_pixels": overview_pixels,
            "look_pixels": look_pixels,
            "slabs": slabs,
            "projection": projection,
            "projection_mm": projection_mm,
            "look_slices": look_slices,
            "context": context,
            "min_extent": min_extent,
            "window": window,
            "labels": labels,
            "label_extent": label_extent,
        }
        self._image = turned(given)
        self._affine = np.asarray(self._image.affine, dtype=np.float64)
        self._voxels = self._image.as_tensor()[0]
        self._spacing = spacing_of(self._affine)
        self._findings = carried(findings, given, self._affine, key)
        self._to_grey = grey_of(window, self._voxels, key)
        self._crop = RegionCrop(context, within(min_extent, self._spacing))
        self._look_settings = {"patch": patch, "max_pixels": look_pixels, "slices": look_slices}
        self._sheet = contact_sheet(
            self.shape,
            self._spacing,
            patch=patch,
            max_pixels=overview_pixels,
            slabs=slabs,
            label_extent=label_extent,
        )

    @property
    def key(self) -> str:
        """Name of the volume."""
        return self._key

    @property
    def shape(self) -> tuple[int, int, int]:
        """Extent of the volume, ``(x, y, z)``. Unit: voxels."""
        x, y, z = (int(n) for n in self._voxels.shape)
        return (x, y, z)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Size of a voxel along each axis."""
        return self._spacing

    @property
    def frame(self) -> tuple[int, int, int]:
        """Columns and rows of a cell of the overview, and the number of slices."""
        wide, high = self._sheet.panels[0].place.extent
        return (wide, high, self.shape[2])

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the data say is in the volume. Boxes in voxels of the scene."""
        return self._findings

    @property
    def image(self) -> MetaTensor:
        """The volume ``(1, X, Y, Z)`` with the scene's axes, its own values (HU for CT), and affine."""
        return self._image

    def with_image(self, image: torch.Tensor, findings: Sequence[Finding] | None = None) -> VolumeScene:
        """Return the same scene with other voxels on the same scale of grey, and perhaps other findings.

        Args:
            image: Channel-first, with shape, type and axes of :attr:`image`. Its place in the world stays.
            findings: What is in it, in voxels of the scene; None leaves the findings.

        Raises:
            GeometryError: If the image has another shape or type.
        """
        other = copy.copy(self)
        other._image = same_grid(image, self._image, self._key)
        other._voxels = other._image.as_tensor()[0]
        other._findings = self._findings if findings is None else tuple(findings)
        for remembered in ("_overview", "content_digest"):
            other.__dict__.pop(remembered, None)
        return other

    @property
    def settings(self) -> Mapping[str, Any]:
        """What overview and looks were asked to be, by the names of the class's arguments."""
        return self._views

    def with_window(self, window: Window) -> VolumeScene:
        """Return the same scene with other values shown as grey.

        Args:
            window: As of the class.

        Raises:
            ConfigError: If the window is unknown.
        """
        other = copy.copy(self)
        other._views = self._views | {"window": window}
        other._to_grey = grey_of(window, self._voxels, self._key)
        for remembered in ("_overview", "content_digest"):
            other.__dict__.pop(remembered, None)
        return other

    @property
    def sheet(self) -> Sheet:
        """Where the overview shows what, and the way from its pixels to voxels and back."""
        return self._sheet

    @cached_property
    def content_digest(self) -> str:
        """Digest of all but the name: voxels, affine, findings, and the settings of overview and looks."""
        return digest_of(self._image, self._findings, self._views)

    def overview(self) -> View:
        """Return the contact sheet."""
        return self._overview

    def look(self, box: Box) -> View:
        """Return the slices and planes of a region at native resolution, resized to the budget of a look.

        Args:
            box: The region. It is clipped to the volume, then grown by context and minimum extent.

        Raises:
            GeometryError: If the box lies outside the volume or does not have three axes.
        """
        pixels = draw(self._voxels, self.look_sheet(box), self._to_grey, labels=self._labels)
        return View(pixels=pixels, box=self._region(box))

    def look_sheet(self, box: Box) -> Sheet:
        """Return where the picture of a look shows what.

        Raises:
            GeometryError: As :meth:`look`.
        """
        region = self._region(box)
        return look_sheet(region, box.clip(self.shape), self._spacing, **self._look_settings)

    def planes(self, box: Box, side: int) -> tuple[Picture, Sheet]:
        """Return the axial, coronal and sagittal view of a volume, whole and side by side.

        Args:
            box: What is projected, the brightest voxel along each line: of a box of one voxel, the three
                planes through it; of the whole volume, all of it.
            side: Longest side of a view. Unit: pixels.

        Returns:
            The picture, and where it shows what.

        Raises:
            GeometryError: If the box is not inside the volume.
        """
        sheet = plane_sheet(self.shape, self._spacing, box, side)
        return draw(self._voxels, sheet, self._to_grey, "mip", labels=False), sheet

    def part(self, box: Box) -> VolumeScene:
        """Return a region as a scene of its own, whose overview shows it on a finer scale.

        Its voxels count from the region's first corner, and so do the numbers of slices. Without a window,
        intensities are stretched anew.

        Raises:
            GeometryError: If the box lies outside the volume or does not have three axes.
        """
        inside = box.clip(self.shape)
        return VolumeScene(
            part_of_image(self._image, inside),
            key=part_key(self._key, inside),
            findings=part_of_findings(self._findings, inside),
            **self._views,
        )

    def on_slice(self, box: Box, index: int) -> Box:
        """Return the box one slice thick that a box with four numbers means on a slice.

        Raises:
            GeometryError: If the box does not have two axes or there is no such slice.
        """
        return box_on_slice(box, index, self.shape, self._key)

    def to_world(self, box: Box) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return two opposite outer corners of a box in the world frame, RAS+. Unit: millimetres.

        Raises:
            GeometryError: If the box does not have three axes.
        """
        self._check_axes(box)
        return point_to_world(box.start, self._affine), point_to_world(box.stop, self._affine)

    def _region(self, box: Box) -> Box:
        self._check_axes(box)
        region = self._crop.region(box, self.shape)
        inside = box.clip(self.shape)
        if inside.extent[2] > 1:
            return region
        return Box((*region.start[:2], inside.start[2]), (*region.stop[:2], inside.stop[2]))

    def _check_axes(self, box: Box) -> None:
        if box.ndim != 3:
            raise GeometryError(
                f"{self._key}: a volume has 3 axes, the box {box.ndim}; on_slice places it on a slice"
            )

    @cached_property
    def _overview(self) -> View:
        most = slices_in(self._views["projection_mm"], self._spacing[2])
        pixels = draw(self._voxels, self._sheet, self._to_grey, self._views["projection"], self._labels, most)
        pixels.flags.writeable = False
        return View(pixels=pixels, box=Box.whole(self.shape))
