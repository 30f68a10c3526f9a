"""Dictionary versions of the transforms of a look, after MONAI's convention: names end in ``d``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import Crop, InvertibleTransform, LazyTransform, MapTransform, Resize
from monai.utils import TransformBackends

from medeyes_monai.geometry import Box
from medeyes_monai.transforms.array import FitPixelBudget, RegionCrop, ToPicture, WindowIntensity

__all__ = ["FitPixelBudgetd", "RegionCropd", "ToPictured", "WindowIntensityd"]


class RegionCropd(MapTransform, InvertibleTransform, LazyTransform):
    """Crop images to the box that another entry of the dictionary holds; see :class:`RegionCrop`.

    Args:
        keys: Entries to crop.
        box_key: Entry with the box: a :class:`~medeyes_monai.geometry.Box`, or its 4 or 6 corners.
        context: Each side of the box is multiplied by this.
        min_extent: Smallest side after cropping, one number or one per axis. Unit: voxels.
        allow_missing_keys: Whether entries may be absent.
        lazy: Whether to run lazily.

    Raises:
        ConfigError: If ``context`` or ``min_extent`` is not positive.
        GeometryError: On a call, if the box lies outside an image.

    Example:
        >>> import torch
        >>> crop = RegionCropd("image", box_key="look", min_extent=32)
        >>> crop({"image": torch.zeros(1, 99, 99), "look": [0, 0, 9, 40]})["image"].shape
        torch.Size([1, 32, 40])
    """

    backend = Crop.backend

    def __init__(
        self,
        keys: KeysCollection,
        box_key: Hashable = "box",
        context: float = 1.0,
        min_extent: int | Sequence[int] = 1,
        allow_missing_keys: bool = False,
        lazy: bool = False,
    ) -> None:
        """Set up the crop; see the class."""
        MapTransform.__init__(self, keys, allow_missing_keys)
        LazyTransform.__init__(self, lazy=lazy)
        self.box_key = box_key
        self.cropper = RegionCrop(context, min_extent, lazy=lazy)

    @LazyTransform.lazy.setter  # type: ignore[untyped-decorator]
    def lazy(self, value: bool) -> None:
        """Set whether to run lazily."""
        self._lazy = value
        self.cropper.lazy = value

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Crop every entry of ``keys``."""
        d = dict(data)
        given = d[self.box_key]
        box = given if isinstance(given, Box) else Box.from_corners([float(v) for v in given])
        for key in self.key_iterator(d):
            d[key] = self.cropper(d[key], box, lazy=self.lazy if lazy is None else lazy)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put every crop back in its place, zeros around it."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.cropper.inverse(d[key])
        return d


class FitPixelBudgetd(MapTransform, InvertibleTransform, LazyTransform):
    """Resize images to a pixel budget and patch grid; see :class:`FitPixelBudget`.

    Args:
        keys: Entries to resize.
        max_pixels: Most pixels of the result.
        min_pixels: Fewest pixels of the result; one patch if None.
        patch: Side of the policy's grid. Unit: pixels.
        fill: Whether a small image is enlarged to the whole budget.
        allow_missing_keys: Whether entries may be absent.
        lazy: Whether to run lazily.

    Raises:
        ConfigError: If no grid fits the budget.

    Example:
        >>> import torch
        >>> FitPixelBudgetd("image", max_pixels=4096)({"image": torch.zeros(1, 99, 99)})["image"].shape
        torch.Size([1, 64, 64])
    """

    backend = Resize.backend

    def __init__(
        self,
        keys: KeysCollection,
        max_pixels: int,
        min_pixels: int | None = None,
        patch: int = 32,
        fill: bool = False,
        allow_missing_keys: bool = False,
        lazy: bool = False,
    ) -> None:
        """Set up the budget; see the class."""
        MapTransform.__init__(self, keys, allow_missing_keys)
        LazyTransform.__init__(self, lazy=lazy)
        self.resizer = FitPixelBudget(max_pixels, min_pixels, patch, fill, lazy=lazy)

    @LazyTransform.lazy.setter  # type: ignore[untyped-decorator]
    def lazy(self, value: bool) -> None:
        """Set whether to run lazily."""
        self._lazy = value
        self.resizer.lazy = value

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Resize every entry of ``keys``."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.resizer(d[key], lazy=self.lazy if lazy is None else lazy)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring every entry back to the size that it had."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.resizer.inverse(d[key])
        return d


class WindowIntensityd(MapTransform):
    """Map a window of intensities onto ``[0, 255]``; see :class:`WindowIntensity`.

    Args:
        keys: Entries to window.
        window: Name of a usual CT window, or its centre and width.
        allow_missing_keys: Whether entries may be absent.

    Raises:
        ConfigError: If the name is unknown or the width is not positive.

    Example:
        >>> import torch
        >>> WindowIntensityd("ct", "brain")({"ct": torch.tensor([0.0, 40.0])})["ct"].tolist()
        [0.0, 127.5]
    """

    backend = WindowIntensity.backend

    def __init__(
        self, keys: KeysCollection, window: str | Sequence[float], allow_missing_keys: bool = False
    ) -> None:
        """Set up the window; see the class."""
        super().__init__(keys, allow_missing_keys)
        self.window = WindowIntensity(window)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Window every entry of ``keys``."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.window(d[key])
        return d


class ToPictured(MapTransform):
    """Make pictures, ``uint8 (rows, columns, 3)``; see :class:`ToPicture`.

    Args:
        keys: Entries to convert.
        allow_missing_keys: Whether entries may be absent.

    Example:
        >>> import torch
        >>> ToPictured("image")({"image": torch.zeros(1, 64, 32)})["image"].shape
        (32, 64, 3)
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        """Set up the conversion; see the class."""
        super().__init__(keys, allow_missing_keys)
        self.to_picture = ToPicture()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert every entry of ``keys``."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.to_picture(d[key])
        return d
