"""A region of a scene as a scene of its own, for a scan on a finer scale."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from monai.transforms import SpatialCrop

from medeyes_monai.geometry import Box
from medeyes_monai.scenes.base import Finding, Scene, View
from medeyes_monai.scenes.content import digest_of

__all__ = ["PartScene"]


class PartScene:
    """A region of another scene: its overview is a look at the region, its boxes count from its corner.

    Args:
        scene: The whole.
        box: The region. Unit: voxels of the whole. What is shown is what a look at it shows, so context and
            the smallest extent of a look belong to the part.

    Raises:
        GeometryError: If the box lies outside the scene or has another number of axes.

    Example:
        >>> import numpy as np
        >>> from medeyes_monai.scenes import ImageScene
        >>> whole = ImageScene(np.zeros((1, 400, 300), np.uint8), key="a")
        >>> part = PartScene(whole, Box((200, 150), (400, 300)))
        >>> part.shape, part.look(Box((0, 0), (64, 64))).box
        ((200, 150), Box(start=(0, 0), stop=(64, 64)))
        >>> part.to_whole(Box((0, 0), (64, 64)))
        Box(start=(200, 150), stop=(264, 214))
    """

    def __init__(self, scene: Scene, box: Box) -> None:
        """Look at the region; see the class."""
        self.scene = scene
        self._view = scene.look(box)
        self._region = self._view.box

    @property
    def key(self) -> str:
        """Name of the whole with the region's corners."""
        return f"{self.scene.key}@{','.join(map(str, self._region.corners))}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of the part. Unit: voxels."""
        return self._region.extent

    @property
    def frame(self) -> tuple[int, ...]:
        """Columns and rows of the overview; of a part of a volume, its extent."""
        rows, columns = self._view.pixels.shape[:2]
        return (int(columns), int(rows)) if len(self.shape) == 2 else self.shape

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the data say is in the part; of a finding on the border, what lies inside."""
        inside = ((f, f.box.intersection(self._region)) for f in self.scene.findings)
        return tuple(replace(f, box=_moved(box, self._region, -1)) for f, box in inside if box is not None)

    @cached_property
    def image(self) -> Any:
        """The part at native resolution, ``(C, X, Y[, Z])``, where the whole has an ``image``."""
        crop = SpatialCrop(roi_start=self._region.start, roi_end=self._region.stop)
        return crop(self.scene.image)  # type: ignore[attr-defined]  # only where the whole has one

    @property
    def content_digest(self) -> str:
        """Digest of the whole and of the region."""
        return digest_of(getattr(self.scene, "content_digest", self.scene.key), self._region.corners)

    def overview(self) -> View:
        """Return the look at the region."""
        return View(self._view.pixels, Box.whole(self.shape))

    def look(self, box: Box) -> View:
        """Return the pixels of a region of the part; context may reach beyond the part.

        Raises:
            GeometryError: As the whole.
        """
        view = self.scene.look(self.to_whole(box))
        return View(view.pixels, _moved(view.box, self._region, -1))

    def to_whole(self, box: Box) -> Box:
        """Return a box of the part in voxels of the whole."""
        return _moved(box, self._region, 1)

    def to_world(self, box: Box) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return two opposite outer corners of a box in millimetres."""
        return self.scene.to_world(self.to_whole(box))


def _moved(box: Box, by: Box, sign: int) -> Box:
    """Move a box by the first corner of another."""
    start = tuple(a + sign * o for a, o in zip(box.start, by.start, strict=True))
    return Box(start, tuple(a + n for a, n in zip(start, box.extent, strict=True)))
