"""A two-dimensional image that can be looked at."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import ScaleIntensityRange
from monai.transforms.utils_pytorch_numpy_unification import percentile

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.scenes.base import Finding, View
from medeyes_monai.scenes.content import digest_of
from medeyes_monai.scenes.parts import part_key, part_of_findings, part_of_image
from medeyes_monai.scenes.placing import same_grid
from medeyes_monai.transforms.array import FitPixelBudget, RegionCrop, ToPicture, WindowIntensity

__all__ = ["ImageScene"]

ROBUST_PERCENTILES = (0.5, 99.5)
"""Percentiles of the whole image that become black and white where no window is given."""


class ImageScene:
    """A picture, radiograph or slice behind the :class:`~medeyes_monai.scenes.Scene` protocol.

    Intensities are brought to 0..255 once, over the whole image, so that overview and looks share one scale:
    ``uint8`` images stay as they are; others are windowed if a window is given, and stretched between the
    0.5th and 99.5th percentile if not.

    Args:
        image: Channel-first ``(C, X, Y)`` with one or three channels, as :func:`~medeyes_monai.io.read_image`
            returns it. The affine of a ``MetaTensor`` is kept.
        key: Name of the image, unique within its data set, free of patient data.
        findings: What the data say is in the image.
        patch: Side of the policy's grid, patch size times merge. Unit: pixels.
        overview_pixels: Most pixels of the overview.
        look_pixels: Most pixels of a look. A look is enlarged to this budget where its region is smaller.
        context: Each side of a box that is looked at is multiplied by this.
        min_extent: Smallest side of a region that is looked at. Unit: pixels of the image.
        window: CT window, a name or (centre, width), or None.

    Raises:
        GeometryError: If the image has another shape, is not finite, or a finding lies outside it.
        ConfigError: If a budget holds no patch or the window is unknown.

    Example:
        >>> scene = ImageScene(np.zeros((1, 384, 256), np.uint8), key="a")
        >>> scene.frame, scene.overview().pixels.shape
        ((160, 96), (96, 160, 3))
        >>> scene.look(Box((0, 0), (10, 10))).box
        Box(start=(0, 0), stop=(64, 64))
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
        context: float = 1.0,
        min_extent: int = 64,
        window: str | Sequence[float] | None = None,
    ) -> None:
        """Scale the intensities and check the findings; see the class."""
        if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
            raise GeometryError(f"{key}: an image scene needs (1 or 3, X, Y), got shape {tuple(image.shape)}")
        self._key = key
        self._image = _to_uint8(image, window, key)
        self._shape = (int(self._image.shape[1]), int(self._image.shape[2]))
        self._findings = tuple(findings)
        for finding in self._findings:
            if not finding.box.is_inside(self.shape):
                raise GeometryError(
                    f"{key}: finding {finding.box.corners} is not inside the image of {self.shape} pixels"
                )
        self._views: dict[str, Any] = {
            "patch": patch,
            "overview_pixels": overview_pixels,
            "look_pixels": look_pixels,
            "context": context,
            "min_extent": min_extent,
        }
        self._crop = RegionCrop(context, min_extent)
        self._fit_overview = FitPixelBudget(overview_pixels, patch=patch)
        self._fit_look = FitPixelBudget(look_pixels, patch=patch, fill=True)
        self._picture = ToPicture()
        self._crop.tracing = self._fit_look.tracing = False  # pictures carry no history

    @property
    def key(self) -> str:
        """Name of the image."""
        return self._key

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of the image, ``(x, y)``. Unit: pixels."""
        return self._shape

    @property
    def frame(self) -> tuple[int, ...]:
        """Size of the overview, ``(columns, rows)``."""
        return self._fit_overview.size_for(self.shape)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the data say is in the image."""
        return self._findings

    @property
    def image(self) -> MetaTensor:
        """The whole image at native resolution, ``uint8 (C, X, Y)``, with its affine."""
        return self._image

    def with_image(self, image: torch.Tensor, findings: Sequence[Finding] | None = None) -> ImageScene:
        """Return the same scene with other pixels on the same scale of grey, and perhaps other findings.

        Args:
            image: Channel-first, with shape and type of :attr:`image`. Its place in the world stays.
            findings: What is in it; None leaves the findings.

        Raises:
            GeometryError: If the image has another shape or type.
        """
        other = copy.copy(self)
        other._image = same_grid(image, self._image, self._key)
        other._findings = self._findings if findings is None else tuple(findings)
        for remembered in ("_overview", "content_digest"):
            other.__dict__.pop(remembered, None)
        return other

    @cached_property
    def content_digest(self) -> str:
        """Digest of all but the name: pixels, affine, findings, and the settings of overview and looks."""
        return digest_of(self._image, self._findings, self._views)

    def overview(self) -> View:
        """Return the whole image at the resolution of a first glance."""
        return self._overview

    def look(self, box: Box) -> View:
        """Return the pixels of a region, cut at native resolution and resized to the budget of a look.

        Args:
            box: The region. It is clipped to the image, then grown by context and minimum extent.

        Raises:
            GeometryError: If the box lies outside the image or does not have two axes.
        """
        region = self._crop.region(box, self.shape)
        pixels = self._picture(self._fit_look(self._crop(self._image, box)))
        return View(pixels=pixels, box=region)

    def part(self, box: Box) -> ImageScene:
        """Return a region as a scene of its own, whose overview shows it on a finer scale.

        Its voxels count from the region's first corner; the intensities are those of the whole.

        Raises:
            GeometryError: If the box lies outside the image or does not have two axes.
        """
        inside = box.clip(self.shape)
        return ImageScene(
            part_of_image(self._image, inside),
            key=part_key(self._key, inside),
            findings=part_of_findings(self._findings, inside),
            **self._views,
        )

    def to_world(self, box: Box) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return two opposite outer corners of a box, three numbers each, in the world frame.

        Whole indices are pixel centres, so the corners lie half a pixel outside the first and last centre.
        The world is that of the affine, RAS+ for MONAI's readers. Unit: millimetres.

        Raises:
            GeometryError: If the box does not have two axes.
        """
        if box.ndim != 2:
            raise GeometryError(f"{self._key}: an image has 2 axes, the box {box.ndim}")
        affine = to_affine_nd(3, np.asarray(self._image.affine, dtype=np.float64))
        corners = [affine @ (*(v - 0.5 for v in corner), 0.0, 1.0) for corner in (box.start, box.stop)]
        first, second = (tuple(float(v) for v in corner[:3]) for corner in corners)
        return first, second

    @cached_property
    def _overview(self) -> View:
        pixels = self._picture(self._fit_overview(self._image))
        pixels.flags.writeable = False
        return View(pixels=pixels, box=Box.whole(self.shape))


def _to_uint8(
    image: npt.NDArray[np.generic] | torch.Tensor, window: str | Sequence[float] | None, key: str
) -> MetaTensor:
    tensor = image if isinstance(image, MetaTensor) else MetaTensor(torch.as_tensor(image))
    if window is None and tensor.dtype == torch.uint8:
        return tensor
    if not torch.isfinite(tensor.as_tensor()).all():
        raise GeometryError(f"{key}: the image holds values that are not finite")
    scaled = WindowIntensity(window)(tensor) if window is not None else _stretch(tensor)
    grey: MetaTensor = scaled.round().clamp(0, 255).to(torch.uint8)
    return grey


def _stretch(tensor: MetaTensor) -> MetaTensor:
    """Stretch between robust percentiles; between the extremes if nearly all voxels are equal."""
    values = tensor.as_tensor().double()
    low, high = (float(percentile(values, q)) for q in ROBUST_PERCENTILES)
    if low == high:
        low, high = float(values.min()), float(values.max())
    if low == high:
        return tensor * 0
    stretched: MetaTensor = ScaleIntensityRange(low, high, 0.0, 255.0, clip=True)(tensor)
    return stretched
