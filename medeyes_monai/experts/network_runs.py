"""One pass of a MONAI network over an image: from the scene's voxels to its grid again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import ResampleToMatch

from medeyes_monai.errors import ExpertError
from medeyes_monai.experts.components import ProbabilityMap
from medeyes_monai.scenes.content import digest_of

__all__ = ["Activation", "NetworkRun", "Preprocessing", "as_input", "weights_digest"]

Preprocessing = Callable[[MetaTensor], torch.Tensor]
"""From an image ``(C, X, Y[, Z])`` to what a network reads, such as a ``Compose`` of array transforms.

Spatial transforms keep the affine of a ``MetaTensor`` right, which is how results find their way back.
"""

Activation = Literal["softmax", "sigmoid", "none"]


def as_input(image: MetaTensor, preprocessing: Preprocessing | None, name: str) -> MetaTensor:
    """Return what the network reads, as float ``(C, X, Y[, Z])`` with its affine.

    Raises:
        ExpertError: If the preprocessing returns something else than a tensor with as many axes.
    """
    ready: Any = image if preprocessing is None else preprocessing(image)
    if not isinstance(ready, torch.Tensor) or ready.ndim != image.ndim:
        got = f"shape {tuple(ready.shape)}" if isinstance(ready, torch.Tensor) else type(ready).__name__
        raise ExpertError(f"{name}: preprocessing returns a tensor of {image.ndim} axes, got {got}")
    if not isinstance(ready, MetaTensor):
        ready = MetaTensor(ready, affine=image.affine)
    prepared: MetaTensor = ready.float()
    return prepared


@dataclass(frozen=True, slots=True, eq=False)
class NetworkRun:
    """A pass of a network over an image, from the scene's voxels to a probability for each of them.

    Args:
        network: From ``(1, C, ...)`` to ``(1, K, ...)``, in evaluation mode on ``device``.
        channels: ``K``.
        activation: What makes probabilities of the network's output.
        inferer: Runs the network; a MONAI inferer.
        preprocessing: What is done to the image before; where it resamples, the result is resampled back.
        device: Where the network is.
    """

    network: torch.nn.Module
    channels: int
    activation: Activation
    inferer: Callable[..., Any]
    preprocessing: Preprocessing | None
    device: torch.device

    def __call__(self, image: MetaTensor, name: str) -> ProbabilityMap:
        """Return the probability of each class for each voxel of an image ``(C, X, Y[, Z])``.

        Args:
            image: The voxels.
            name: Name of the expert, for messages.

        Raises:
            ExpertError: If the network fails, or its output is no finite ``(1, K, ...)``.
        """
        ready = as_input(image, self.preprocessing, name)
        batch = ready.as_tensor()[None].to(self.device)
        with torch.inference_mode():
            try:
                output = self.inferer(batch, self.network)
            except (RuntimeError, ValueError) as problem:  # MONAI raises either
                raise ExpertError(
                    f"{name}: the network refused an image of {tuple(batch.shape[1:])}: "
                    f"{str(problem).splitlines()[0]}; mind channels and sides, DivisiblePad in the "
                    "preprocessing or a SlidingWindowInferer may help"
                ) from problem
            _check_output(output, self.channels, tuple(batch.shape[2:]), name)
            return _back(_activated(output[0].float().cpu(), self.activation), ready, image)


def weights_digest(network: torch.nn.Module) -> str:
    """Return a digest of a network's weights, which names an expert apart from another.

    Example:
        >>> one, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> weights_digest(one) == weights_digest(one), weights_digest(one) == weights_digest(other)
        (True, False)
    """
    state = network.state_dict()
    return digest_of(*(part for name in sorted(state) for part in (name, state[name].detach().cpu().float())))


def _check_output(output: Any, channels: int, shape: tuple[int, ...], name: str) -> None:
    if not isinstance(output, torch.Tensor):
        raise ExpertError(
            f"{name}: a network returns one tensor of (1, {channels}, ...), got {type(output).__name__}; "
            "wrap it in a module that returns the last one"
        )
    if tuple(output.shape) != (1, channels, *shape):
        raise ExpertError(
            f"{name}: a network with {channels} labels returns {(1, channels, *shape)} here, "
            f"got {tuple(output.shape)}"
        )
    if not torch.isfinite(output).all():
        raise ExpertError(f"{name}: the network returned values that are not finite")


def _activated(output: torch.Tensor, activation: Activation) -> torch.Tensor:
    if activation == "softmax":
        return output.softmax(dim=0)
    return output.sigmoid() if activation == "sigmoid" else output.clamp(0, 1)


def _back(activated: torch.Tensor, ready: MetaTensor, image: MetaTensor) -> ProbabilityMap:
    """Carry a map from the grid of the network's input to that of the image."""
    same = ready.shape[1:] == image.shape[1:] and np.allclose(ready.affine, image.affine)
    if not same:
        placed = MetaTensor(activated, affine=ready.affine)
        match = ResampleToMatch(mode="bilinear", padding_mode="border")
        activated = match(placed, img_dst=image).as_tensor().clamp(0, 1)
    found: ProbabilityMap = activated.numpy()
    return found
