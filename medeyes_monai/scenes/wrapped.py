"""A scene around another scene: what the scenes that deceive the looking have in common."""

from __future__ import annotations

from dataclasses import dataclass

from medeyes_monai.geometry import Box
from medeyes_monai.scenes.base import Finding, Scene, View

__all__ = ["WrappedScene"]


@dataclass(frozen=True, slots=True, eq=False)
class WrappedScene:
    """The same scene; a class that is made of it changes what is shown.

    Args:
        scene: The scene.
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
        """Return the overview of the scene."""
        return self.scene.overview()

    def look(self, box: Box) -> View:
        """Return what a look at a region brings."""
        return self.scene.look(box)

    def to_world(self, box: Box) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return two opposite outer corners of a box in millimetres."""
        return self.scene.to_world(box)
