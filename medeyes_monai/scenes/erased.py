"""Scenes from which regions are gone: the ones that were looked at, or all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.scenes.base import Finding, Scene

__all__ = ["EditableScene", "editable", "only_regions", "shown_regions", "without_regions"]

Self = TypeVar("Self", bound="EditableScene")


@runtime_checkable
class EditableScene(Scene, Protocol):
    """A scene whose voxels can be exchanged, as ``ImageScene`` and ``VolumeScene``."""

    @property
    def image(self) -> torch.Tensor:
        """The image, channel-first ``(C, X, Y[, Z])``."""

    def with_image(self: Self, image: torch.Tensor, findings: Sequence[Finding] | None = None) -> Self:
        """Return the same scene with other voxels."""


def editable(scene: Scene) -> EditableScene:
    """Return a scene if its voxels can be exchanged.

    Raises:
        ConfigError: If they cannot.
    """
    if not isinstance(scene, EditableScene):
        raise ConfigError(
            f"scene {scene.key!r} ({type(scene).__name__}) cannot be changed; it needs image and "
            "with_image, as ImageScene and VolumeScene have them"
        )
    return scene


def shown_regions(scene: Scene, boxes: Sequence[Box]) -> list[Box]:
    """Return what looks at some boxes show, with the context and the smallest extent of a look."""
    return [scene.look(box).box for box in boxes]


def without_regions(scene: Scene, boxes: Sequence[Box]) -> Scene:
    """Return a scene in which some regions have the mean value of the image, in overview and looks.

    Args:
        scene: The scene.
        boxes: The regions. Unit: voxels. Take :func:`shown_regions` of what a policy looked at.

    Raises:
        ConfigError: If the scene's voxels cannot be exchanged.

    Example:
        >>> import numpy as np
        >>> from medeyes_monai.scenes import ImageScene
        >>> image = np.zeros((1, 100, 100), np.uint8)
        >>> image[:, :50] = 200
        >>> gone = without_regions(ImageScene(image, key="a"), [Box((0, 0), (50, 100))])
        >>> np.unique(gone.image).tolist()
        [0, 100]
    """
    whole = editable(scene)
    return whole.with_image(torch.where(_covered(whole, boxes), _mean(whole.image), whole.image))


def only_regions(scene: Scene, boxes: Sequence[Box]) -> Scene:
    """Return a scene in which everything but some regions has the mean value of the image.

    Raises:
        ConfigError: If the scene's voxels cannot be exchanged.
    """
    whole = editable(scene)
    return whole.with_image(torch.where(_covered(whole, boxes), whole.image, _mean(whole.image)))


def _covered(scene: Scene, boxes: Sequence[Box]) -> torch.Tensor:
    covered = torch.zeros(1, *scene.shape, dtype=torch.bool)
    for box in boxes:
        covered[(slice(None), *box.clip(scene.shape).slices)] = True
    return covered


def _mean(image: torch.Tensor) -> torch.Tensor:
    """Return the mean of each channel, as a value that the image can hold."""
    mean = torch.as_tensor(image).double().flatten(1).mean(1)
    mean = mean if image.dtype.is_floating_point else mean.round()
    return mean.to(image.dtype).reshape(-1, *[1] * (image.ndim - 1))
