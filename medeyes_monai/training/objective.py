"""The objective of dual-stream GRPO applied to a policy: micro-batches in, gradients and numbers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy import Policy
from medeyes_monai.training.diagnostics import merge_diagnostics
from medeyes_monai.training.experience import Experience
from medeyes_monai.training.loss import (
    CLIP_HIGH,
    CLIP_LOW,
    SHAPING_GAMMA,
    Normaliser,
    Shaping,
    dual_stream_loss,
    episode_weights,
)
from medeyes_monai.trajectory import Episode

__all__ = ["DualStreamObjective", "accumulate_gradients"]

Backward = Callable[[torch.Tensor], None]
Autocast = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class DualStreamObjective:
    """The choices of equations 5 and 6; see :func:`~medeyes_monai.training.loss.dual_stream_loss`.

    Args:
        clip_low: The ratio of a policy token counts down to ``1 - clip_low``.
        clip_high: It counts up to ``1 + clip_high``.
        shaping: ``f`` of equation 6.
        gamma: ``g`` of the shaped ``f``.
        expert_weight: Weight of the expert stream.
        entropy_weight: Weight of the entropy bonus.
        kl_weight: Weight of the KL term to a frozen reference (paper: 0).
        normaliser: Meaning of ``Z``.
        constant: Length for the constant normaliser. Unit: tokens.
    """

    clip_low: float = CLIP_LOW
    clip_high: float = CLIP_HIGH
    shaping: Shaping = "shaped"
    gamma: float = SHAPING_GAMMA
    expert_weight: float = 1.0
    entropy_weight: float = 0.0
    kl_weight: float = 0.0
    normaliser: Normaliser = "episode"
    constant: float | None = None


def accumulate_gradients(
    policy: Policy,
    experience: Experience,
    advantages: torch.Tensor,
    objective: DualStreamObjective,
    *,
    micro_batch: int,
    backward: Backward,
    autocast: Autocast,
    reference: Policy | None = None,
) -> dict[str, float]:
    """Add the gradient of a step's loss to the parameters, in micro-batches of episodes of similar length.

    The gradient does not depend on the size of the micro-batches. The expert's stream goes first, so that the
    gradients of the streams can be told apart.

    Args:
        policy: The policy; its gradients must be zero.
        experience: Scored episodes of the step.
        advantages: Advantage of each episode. Shape ``[N]``.
        objective: The choices of the loss.
        micro_batch: Largest number of episodes in one pass.
        backward: Called with the loss of each micro-batch.
        autocast: Gives the context of each forward pass.
        reference: A frozen policy, for the KL term.

    Returns:
        Diagnostics of the loss, the gradient norm of each stream and ``gradient_cosine`` between them (where
        both have a gradient).

    Raises:
        ConfigError: If ``micro_batch`` is below 1.
    """
    if micro_batch < 1:
        raise ConfigError(f"micro_batch must be at least 1, got {micro_batch}")
    lengths = torch.tensor([int(episode.response_mask.sum()) for episode in experience.episodes])
    weights = episode_weights(lengths, experience.is_expert, objective.normaliser, objective.constant)
    parts: list[dict[str, float]] = []
    step = _Step(policy, experience, advantages, weights, objective, backward, autocast, reference)
    gradients: list[torch.Tensor] = []
    for stream in (True, False):
        rows = torch.nonzero(experience.is_expert == stream)[:, 0].tolist()
        rows.sort(key=lambda row: len(experience.episodes[row]))
        for start in range(0, len(rows), micro_batch):
            parts.append(step.run(rows[start : start + micro_batch]))
        gradients.append(_gradient(policy))
    expert, both = gradients
    return merge_diagnostics(parts) | _compare(both - expert, expert)


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """What all micro-batches of a step share."""

    policy: Policy
    experience: Experience
    advantages: torch.Tensor
    weights: torch.Tensor
    objective: DualStreamObjective
    backward: Backward
    autocast: Autocast
    reference: Policy | None

    def run(self, rows: Sequence[int]) -> dict[str, float]:
        """Add the gradient of some episodes and return what to log about them."""
        episodes = [self.experience.episodes[row] for row in rows]
        with self.autocast():
            scores = self.policy.score(episodes)
        device, index = scores.logprobs.device, torch.tensor(rows)
        behaviour = torch.zeros_like(scores.logprobs)
        for row, episode in enumerate(episodes):
            behaviour[row, : len(episode)] = episode.behaviour_logprobs
        loss, numbers = dual_stream_loss(
            scores.logprobs,
            behaviour,
            self.advantages[index].to(device),
            scores.response_mask,
            self.experience.is_expert[index].to(device),
            self.weights[index].to(device),
            clip_low=self.objective.clip_low,
            clip_high=self.objective.clip_high,
            shaping=self.objective.shaping,
            gamma=self.objective.gamma,
            expert_weight=self.objective.expert_weight,
            entropy=scores.entropy,
            entropy_weight=self.objective.entropy_weight,
            reference_logprobs=self._reference_logprobs(episodes),
            kl_weight=self.objective.kl_weight,
        )
        self.backward(loss)
        return numbers

    def _reference_logprobs(self, episodes: Sequence[Episode]) -> torch.Tensor | None:
        if self.reference is None:
            return None
        with torch.no_grad(), self.autocast():
            return self.reference.score(episodes).logprobs


def _gradient(policy: Policy) -> torch.Tensor:
    """Return a copy of all gradients as one vector; zeros where a parameter has none yet."""
    trained = [p for p in policy.parameters() if p.requires_grad]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in trained])


def _compare(policy: torch.Tensor, expert: torch.Tensor) -> dict[str, float]:
    numbers = {"policy/gradient_norm": policy.norm().item(), "expert/gradient_norm": expert.norm().item()}
    if min(numbers.values()) > 0:
        numbers["gradient_cosine"] = torch.cosine_similarity(policy, expert, dim=0).item()
    return numbers
