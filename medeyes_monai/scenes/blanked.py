"""A scene whose looks show nothing: does an answer depend on what was seen?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medeyes_monai.geometry import Box
from medeyes_monai.scenes.base import View
from medeyes_monai.scenes.wrapped import WrappedScene

__all__ = ["BlankedScene"]

MID_GREY = 128


@dataclass(frozen=True, slots=True, eq=False)
class BlankedScene(WrappedScene):
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

    def look(self, box: Box) -> View:
        """Return mid-grey pixels for a region.

        Raises:
            GeometryError: As the scene that is blanked.
        """
        view = self.scene.look(box)
        return View(pixels=np.full_like(view.pixels, MID_GREY), box=view.box)
