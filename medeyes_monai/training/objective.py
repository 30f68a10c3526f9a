"""The objective of dual-stream GRPO applied to a policy: micro-batches in, gradients and numbers out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy import Policy
from medeyes_monai.training.advantages import uniform_rows
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
from medeyes_monai.training.microbatches import micro_batches
from medeyes_monai.training.schedule import Schedule
from medeyes_monai.trajectory import Episode

__all__ = ["DualStreamObjective", "accumulate_gradients", "check_reference"]

Backward = Callable[[torch.Tensor], None]
Autocast = Callable[[], AbstractContextManager[None]]
_Gradients = Sequence[torch.Tensor | None]


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
        kl_schedule: Share of ``kl_weight`` over the run.
        normaliser: Meaning of ``Z``.
        constant: Length for the constant normaliser. Unit: tokens.
        filter_uniform: Leave policy episodes out of the loss where all of their question have one reward
            (DAPO), as if they had not been drawn: the mean over the policy stream is one over the others, and
            neither entropy nor KL counts theirs. ``resample`` of the trainer comes first. The expert's
            episodes of such a question stay, with the advantages that they have.
    """

    clip_low: float = CLIP_LOW
    clip_high: float = CLIP_HIGH
    shaping: Shaping = "shaped"
    gamma: float = SHAPING_GAMMA
    expert_weight: float = 1.0
    entropy_weight: float = 0.0
    kl_weight: float = 0.0
    kl_schedule: Schedule = field(default_factory=Schedule)
    normaliser: Normaliser = "episode"
    constant: float | None = None
    filter_uniform: bool = False

    def at(self, update: int, updates: int) -> DualStreamObjective:
        """Return the objective of one update: with the KL weight that the schedule gives it.

        Args:
            update: Number of the update, from 0.
            updates: Updates of the whole run.

        Example:
            >>> DualStreamObjective(kl_weight=0.4, kl_schedule=Schedule("linear")).at(3, updates=4).kl_weight
            0.1
        """
        return replace(self, kl_weight=self.kl_weight * self.kl_schedule.factor(update, updates))


def check_reference(policy: Policy, objective: DualStreamObjective, reference: Policy | None) -> None:
    """Refuse a KL term that has nothing to refer to, before anything is computed.

    Raises:
        ConfigError: If the KL term has a weight, there is no reference, and the policy has no adapter.
    """
    if not objective.kl_weight or reference is not None:
        return
    try:
        with policy.reference():
            pass
    except ConfigError as error:
        raise ConfigError(
            "kl_weight is not 0, but there is no reference: train an adapter (the policy's lora), which can "
            "be switched off, or give a frozen policy as reference; without either, set kl_weight to 0"
        ) from error


def accumulate_gradients(
    policy: Policy,
    experience: Experience,
    advantages: torch.Tensor,
    objective: DualStreamObjective,
    *,
    micro_tokens: int,
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
        micro_tokens: Largest number of tokens in one pass, padding included; an episode that is longer is a
            pass of its own. See :func:`~medeyes_monai.training.microbatches.micro_batches`.
        backward: Called with the loss of each micro-batch.
        autocast: Gives the context of each forward pass.
        reference: A frozen policy for the KL term; None takes the policy without its adapter.

    Returns:
        Diagnostics of the loss, the number of ``micro_batches``, the gradient norm of each stream and
        ``gradient_cosine`` between them (where both have a gradient); with ``filter_uniform`` also
        ``policy/filtered_share``, the share of the policy's episodes that is left out.

    Raises:
        ConfigError: If ``micro_tokens`` is below 1, or the KL term has a weight but nothing to refer to.
    """
    lengths = torch.tensor([int(episode.response_mask.sum()) for episode in experience.episodes])
    filtered = torch.zeros_like(experience.is_expert)
    if objective.filter_uniform:
        filtered = uniform_rows(experience.rewards, experience.question, experience.is_expert)
    kept = ~filtered
    weights = torch.zeros(len(lengths))
    weights[kept] = episode_weights(
        lengths[kept], experience.is_expert[kept], objective.normaliser, objective.constant
    )
    step = _Step(policy, experience, advantages, weights, objective, backward, autocast, reference)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    expert_rows, policy_rows = (
        torch.nonzero((experience.is_expert == stream) & kept)[:, 0].tolist() for stream in (True, False)
    )
    parts = step.run_all(expert_rows, micro_tokens)
    alone = not (expert_rows and policy_rows)
    expert = None if alone else [None if p.grad is None else p.grad.clone() for p in trained]
    parts += step.run_all(policy_rows, micro_tokens)
    numbers = {"loss_sum": 0.0} | merge_diagnostics(parts) | {"micro_batches": float(len(parts))}
    if objective.filter_uniform:
        numbers["policy/filtered_share"] = filtered.sum().item() / (~experience.is_expert).sum().item()
    if expert is not None:
        return numbers | _compare([p.grad for p in trained], expert)
    norm = _norm([p.grad for p in trained])
    return numbers | {
        "policy/gradient_norm": norm if policy_rows else 0.0,
        "expert/gradient_norm": norm if expert_rows else 0.0,
    }


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

    def run_all(self, rows: Sequence[int], micro_tokens: int) -> list[dict[str, float]]:
        """Add the gradient of a stream's episodes in micro-batches and return what to log about each."""
        lengths = [len(self.experience.episodes[row]) for row in rows]
        return [self.run([rows[n] for n in batch]) for batch in micro_batches(lengths, micro_tokens)]

    def run(self, rows: Sequence[int]) -> dict[str, float]:
        """Add the gradient of some episodes and return what to log about them."""
        episodes = [self.experience.episodes[row] for row in rows]
        reference = self._reference_logprobs(episodes)
        with self.autocast():
            scores = self.policy.score(episodes, entropy_gradient=self.objective.entropy_weight != 0)
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
            reference_logprobs=reference,
            kl_weight=self.objective.kl_weight,
        )
        self.backward(loss)
        return numbers

    def _reference_logprobs(self, episodes: Sequence[Episode]) -> torch.Tensor | None:
        if self.reference is None and not self.objective.kl_weight:
            return None
        with torch.no_grad(), self.autocast():
            if self.reference is not None:
                return self.reference.score(episodes).logprobs
            with self.policy.reference():
                return self.policy.score(episodes).logprobs


def _norm(gradients: _Gradients) -> float:
    """Return the norm of all gradients together, on one copy from the device."""
    norms = [gradient.float().norm() for gradient in gradients if gradient is not None]
    return torch.stack(norms).norm().item() if norms else 0.0


def _compare(both: _Gradients, expert: _Gradients) -> dict[str, float]:
    """Return the norms of the streams' gradients and their cosine, one parameter after the other.

    Args:
        both: The sum of the streams' gradients by parameter.
        expert: The expert's part of it.
    """
    products = []
    for total, other in zip(both, expert, strict=True):
        if total is not None:
            theirs = torch.zeros_like(total) if other is None else other
            products.append(_products(total - theirs, theirs))
    own, others, across = torch.stack(products).cpu().double().sum(0).tolist()
    numbers = {"policy/gradient_norm": own**0.5, "expert/gradient_norm": others**0.5}
    if min(numbers.values()) > 0:
        numbers["gradient_cosine"] = across / (own * others) ** 0.5
    return numbers


def _products(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the three scalar products of two tensors with themselves and each other, float32."""
    one, other = one.flatten().float(), other.flatten().float()
    return torch.stack([one @ one, other @ other, one @ other])
