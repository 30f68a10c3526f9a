"""A scene whose looks show nothing: does an answer depend on what was seen?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medeyes_monai.geometry import Box
from medeyes_monai.scenes.base import Finding, Scene, View

__all__ = ["BlankedScene"]

MID_GREY = 128


@dataclass(frozen=True, slots=True, eq=False)
class BlankedScene:
    """The same scene, except that every look brings back mid-grey pixels of the size it would have had.

    A policy that answers as well here as on the real scene does not use its looks ("superficial focusing").

    Args:
        scene: The scene whose looks are blanked; its overview stays.

    Example:
        >>> from medeyes_monai.scenes import ImageScene
        >>> blank = BlankedScene(ImageScene(np.zeros((1, 99, 99), np.uint8), key="a"))
        >>> np.unique(blank.look(Box((0, 0), (9, 9))).pixels).tolist()
        [128]
    """

    scene: Scene

    @property
    def key(self) -> str:
        """Name of the image."""
        return self.scene.key

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of the image. Unit: voxels."""
        return self.scene.shape

    @property
    def frame(self) -> tuple[int, ...]:
        """Extent of the frame in which a policy gives boxes."""
        return self.scene.frame

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the data say is in the image."""
        return self.scene.findings

    def overview(self) -> View:
        """Return the real overview."""
        return self.scene.overview()

    def look(self, box: Box) -> View:
        """Return mid-grey pixels for a region.

        Raises:
            GeometryError: As the scene that is blanked.
        """
        view = self.scene.look(box)
        return View(pixels=np.full_like(view.pixels, MID_GREY), box=view.box)

    def to_world(self, box: Box) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return two opposite outer corners of a box in millimetres."""
        return self.scene.to_world(box)
