"""A policy as a plain network, from image tensors to next-token scores, for tools that know only those."""

from __future__ import annotations

from collections.abc import Callable

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.base import Policy
from medeyes_monai.scenes import Case, ImageScene, Scene

__all__ = ["ImageToLogits"]


class ImageToLogits(torch.nn.Module):
    """Asks one question about images and returns what the policy would say first.

    This is one glance without looks. It exists for tools such as ``monai.bundle verify_net_in_out`` and
    ``monai.visualize.OcclusionSensitivity`` that call a network with a tensor; episodes are made by
    ``EpisodeInferer``. There is no gradient: a picture is 8-bit before the policy sees it.

    Args:
        policy: The policy. If it is a ``torch.nn.Module`` it becomes a part of this one.
        question: The question, in words.
        scene: Makes a scene of an image; its grid has to fit the policy's.

    Raises:
        ConfigError: If the question is empty.

    Example:
        >>> from medeyes_monai.policy import HuggingFacePolicy
        >>> from medeyes_monai.policy.tiny import make_tiny_checkpoint
        >>> make_tiny_checkpoint(getfixture("tmp_path"))
        >>> network = ImageToLogits(HuggingFacePolicy(getfixture("tmp_path")), "What is it?")
        >>> network(torch.rand(2, 1, 96, 64)).shape == (2, network.policy.vocabulary_size)
        True
    """

    def __init__(self, policy: Policy, question: str, scene: Callable[..., Scene] = ImageScene) -> None:
        """Keep policy and question."""
        super().__init__()
        if not question.strip():
            raise ConfigError("the question is empty; give the words that are asked about each image")
        self.policy = policy
        self.question = question
        self.scene = scene

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the scores of the first token of the reply.

        Args:
            image: ``[B, C, X, Y]``, one or three channels, axes in the order of MONAI's readers. Values from
                0 to 1 if floating point, what lies outside is cut off; or ``uint8``.

        Returns:
            Scores ``[B, V]``, float32; minus infinity where a token is not the policy's to write.

        Raises:
            GeometryError: If an image is no picture.
        """
        pixels = image if image.dtype == torch.uint8 else (image.float() * 255).round().clamp(0, 255).byte()
        cases = [
            Case(f"image-{number}", self.scene(picture, key=f"image-{number}"), self.question)
            for number, picture in enumerate(pixels.cpu())
        ]
        return self.policy.start([self.policy.prompt(case) for case in cases]).logits
