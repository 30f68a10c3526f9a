"""Scenes whose looks show something else than what was asked for: another place, or another image."""

from __future__ import annotations

from dataclasses import dataclass

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.scenes.base import Scene, View
from medeyes_monai.scenes.wrapped import WrappedScene
from medeyes_monai.seeding import numpy_generator

__all__ = ["TRIES", "OtherImageScene", "RandomPlaceScene"]

TRIES = 8
"""Places that are drawn for a look; the one that overlaps least with what was asked for is shown."""


@dataclass(frozen=True, slots=True, eq=False)
class RandomPlaceScene(WrappedScene):
    """The same scene, except that a look brings back a random place of it, as large as what was asked for.

    Where the image has room, that place does not overlap with what was asked for. The view's box is still
    the one that was asked for: the policy is not told. A look at the same box shows the same place again.

    Args:
        scene: The scene whose looks are misplaced; its overview stays.
        seed: Another seed gives other places.

    Example:
        >>> import numpy as np
        >>> from medeyes_monai.scenes import ImageScene
        >>> half = np.zeros((1, 400, 400), np.uint8)
        >>> half[:, :200] = 200
        >>> scene = ImageScene(half, key="a")
        >>> box = Box((0, 0), (190, 390))
        >>> int(scene.look(box).pixels.min()), int(RandomPlaceScene(scene).look(box).pixels.min())
        (200, 0)
    """

    seed: int = 0

    def look(self, box: Box) -> View:
        """Return the pixels of another place.

        Raises:
            GeometryError: As the scene.
        """
        return View(self.scene.look(self.place(box)).pixels, self.scene.look(box).box)

    def place(self, box: Box) -> Box:
        """Return the place that a look at a box shows.

        Raises:
            GeometryError: If the box lies outside the scene.
        """
        asked = box.clip(self.shape)
        rng = numpy_generator("random place", self.seed, self.key, *asked.corners)
        room = [n - side + 1 for n, side in zip(self.shape, asked.extent, strict=True)]
        starts = [tuple(int(v) for v in rng.integers(room)) for _ in range(TRIES)]
        places = [
            Box(start, tuple(a + side for a, side in zip(start, asked.extent, strict=True)))
            for start in starts
        ]
        return min(places, key=asked.iou)


@dataclass(frozen=True, slots=True, eq=False)
class OtherImageScene(WrappedScene):
    """The same scene, except that a look brings back the same place of another image.

    Args:
        scene: The scene whose looks are exchanged; its overview stays.
        other: The scene that looks show, with as many axes.

    Raises:
        GeometryError: If the other scene has another number of axes.
    """

    other: Scene

    def __post_init__(self) -> None:
        """Refuse a picture for a volume."""
        if len(self.other.shape) != len(self.shape):
            raise GeometryError(
                f"{self.key}: looks at {len(self.shape)} axes cannot show {self.other.key} of "
                f"{len(self.other.shape)}"
            )

    def look(self, box: Box) -> View:
        """Return the pixels of the other image, at the place that the box has relative to this one.

        Raises:
            GeometryError: As the scene.
        """
        there = box.clip(self.shape).scale(self.shape, self.other.shape)
        return View(self.other.look(there).pixels, self.scene.look(box).box)
