"""What an inferer may be handed, sorted into single images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, decollate_batch

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.focus import Grid
from medeyes_monai.scenes import Case, Scene

__all__ = ["Asked", "Given", "are_cases", "grid_of", "images_of"]

Given = Any
"""A scene, or one channel-first image: array, tensor or ``MetaTensor``."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A question about an image as it was handed over.

    Args:
        case: The question, with its scene.
        grid: The image as it was handed over.
    """

    case: Case
    grid: Grid


def are_cases(inputs: Any) -> bool:
    """Tell whether what was handed over are questions, at least one, and nothing else."""
    if not isinstance(inputs, Sequence) or isinstance(inputs, str) or not inputs:
        return False
    return all(isinstance(one, Case) for one in inputs)


def grid_of(image: Given) -> Grid:
    """Return the grid of an image or a scene.

    Raises:
        ConfigError: If a scene has neither an image nor an affine.
    """
    if not isinstance(image, Scene):
        return Grid.of(image)
    inside = getattr(image, "image", None)
    if inside is not None:
        return Grid.of(inside)
    affine: Any = getattr(image, "affine", None)
    if affine is None:
        raise ConfigError(
            f"{image.key}: a scene needs an image or an affine, so that its boxes have a place in the world"
        )
    return Grid(tuple(image.shape), affine)


def images_of(inputs: Any, spatial_dims: int | None = None) -> tuple[list[Given], bool]:
    """Return the images in what was handed over, and whether they came as a batch.

    Args:
        inputs: A scene; ``(C, X, Y)`` or ``(1, X, Y, Z)``; a batch of these, ``(B, C, X, Y)`` or
            ``(B, 1, X, Y, Z)``; or a list of scenes and single images.
        spatial_dims: 2 for pictures or 3 for volumes; None tells by the number of axes, and of four axes by
            whether a ``MetaTensor`` says that it is a batch.

    Raises:
        GeometryError: If there are other axes, or four of which nobody says what they are.

    Example:
        >>> images, batched = images_of(torch.zeros(2, 1, 8, 8), spatial_dims=2)
        >>> len(images), batched
        (2, True)
        >>> images_of(torch.zeros(2, 1, 8, 8))
        Traceback (most recent call last):
        medeyes_monai.errors.GeometryError: four axes are a volume or a batch of pictures; pass ...
    """
    if isinstance(inputs, Sequence) and not isinstance(inputs, str):
        return [_single(one, spatial_dims) for one in inputs], True
    if isinstance(inputs, (torch.Tensor, np.ndarray)) and _is_batch(inputs, spatial_dims):
        return [_single(one, spatial_dims) for one in _split(inputs)], True
    return [_single(inputs, spatial_dims)], False


def _is_batch(image: torch.Tensor | np.ndarray[Any, Any], spatial_dims: int | None) -> bool:
    if isinstance(image, MetaTensor) and image.is_batch:
        return True
    if spatial_dims is None and image.ndim == 4 and not isinstance(image, MetaTensor):
        raise GeometryError(
            "four axes are a volume or a batch of pictures; pass spatial_dims=3 or 2, or a MetaTensor"
        )
    return int(image.ndim) == (5 if spatial_dims is None else spatial_dims + 2)


def _split(batch: torch.Tensor | np.ndarray[Any, Any]) -> list[Given]:
    """Return the images of a batch; those of a collated ``MetaTensor`` each with its own affine."""
    if isinstance(batch, MetaTensor) and batch.is_batch:
        return list(decollate_batch(batch))
    return list(batch)


def _single(image: Given, spatial_dims: int | None) -> Given:
    if isinstance(image, Scene):
        return image
    axes = int(image.ndim) - 1 if isinstance(image, (torch.Tensor, np.ndarray)) else 0
    if axes not in ((2, 3) if spatial_dims is None else (spatial_dims,)):
        wanted = "2 or 3" if spatial_dims is None else str(spatial_dims)
        got = f"{axes} spatial axes" if axes else type(image).__name__
        raise GeometryError(f"an image is channel-first with {wanted} spatial axes, or a scene; got {got}")
    return image
