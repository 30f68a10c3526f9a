"""The loss of dual-stream GRPO as pure functions (equations 5 and 6): tensors in, one scalar out.

Every sum over tokens is weighted by :func:`episode_weights`, which are computed once over all episodes of a
step. Losses of micro-batches therefore *add up* to the loss of the step, however it is cut and padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.training.diagnostics import describe_tokens

__all__ = [
    "CLIP_HIGH",
    "CLIP_LOW",
    "SHAPING_GAMMA",
    "Normaliser",
    "Shaping",
    "dual_stream_loss",
    "episode_weights",
    "expert_term",
    "kl_term",
    "policy_term",
]

Normaliser = Literal["episode", "constant", "token"]
"""What a stream's sum over tokens is divided by, ``Z`` of equations 5 and 6.

``episode``: each episode by its own length, then the mean over the stream's episodes (the paper).
``constant``: each by one fixed length, then the mean over episodes. ``token``: the mean over the stream's
tokens.
"""
Shaping = Literal["identity", "shaped", "clipped", "likelihood"]
"""``f`` of equation 6: ``pi``, ``pi / (pi + gamma)`` (LUFFY), the clip of equation 5 with ``rho = pi``, or
``log pi``, which makes the expert stream supervised fine-tuning where its advantages are 1.
"""
CLIP_LOW = 0.2  # paper, section 6 of the method
CLIP_HIGH = 0.28  # clip-higher, section 5 of the method
SHAPING_GAMMA = 0.1  # LUFFY

_MAX_LOG_RATIO = 20.0
"""Log ratios beyond this are cut, so that no ratio overflows: exp(20) is 5e8."""


def episode_weights(
    lengths: torch.Tensor,
    is_expert: torch.Tensor,
    normaliser: Normaliser = "episode",
    constant: float | None = None,
) -> torch.Tensor:
    """Return by what each episode's sum over tokens is multiplied, so that each stream becomes a mean.

    Args:
        lengths: Number of response tokens of *every* episode of the step, ``[N]``.
        is_expert: Stream of each, True for the expert's, ``[N]``.
        normaliser: Meaning of ``Z``. The streams are normalised apart from each other.
        constant: The length for ``constant``. Unit: tokens.

    Returns:
        Weights, ``[N]``, float32; 0 for an episode without response tokens, which still counts as one.

    Raises:
        ConfigError: If the normaliser is unknown, or ``constant`` is missing or not above 0.

    Example:
        >>> expert = torch.tensor([False, False, True])
        >>> episode_weights(torch.tensor([2, 4, 5]), expert).tolist()  # 1/(2*2), 1/(2*4), 1/(1*5)
        [0.25, 0.125, 0.20000000298023224]
    """
    if normaliser not in get_args(Normaliser):
        raise ConfigError(f"unknown normaliser {normaliser!r}; choose one of {get_args(Normaliser)}")
    if normaliser == "constant" and not (constant is not None and constant > 0):
        raise ConfigError(f"the constant normaliser needs a length above 0, got {constant}")
    weights = torch.zeros(len(lengths), dtype=torch.float64, device=lengths.device)
    for own in (is_expert, ~is_expert):
        size = lengths[own].double()
        if normaliser == "token":
            divisor = size.sum().expand_as(size)
        elif normaliser == "constant":
            divisor = torch.full_like(size, float(constant or 0) * len(size))
        else:
            divisor = size * len(size)
        weights[own] = torch.where(size > 0, 1 / divisor, 0.0)
    return weights.float()


def policy_term(
    policy_logprobs: torch.Tensor,
    behaviour_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    clip_low: float = CLIP_LOW,
    clip_high: float = CLIP_HIGH,
) -> torch.Tensor:
    """Return the objective of each token of policy episodes: ``min(rho A, clip(rho) A)`` (equation 5).

    Args:
        policy_logprobs: ``log pi_theta``, with gradient, ``[N, T]``.
        behaviour_logprobs: ``log pi_old``, as drawn, ``[N, T]``.
        advantages: ``A`` of each episode, ``[N]``.
        mask: True on tokens that are trained on, ``[N, T]``.
        clip_low: ``e_l``: the ratio counts down to ``1 - e_l``.
        clip_high: ``e_h``: the ratio counts up to ``1 + e_h``.

    Returns:
        ``[N, T]``, float32, 0 where the mask is False whatever stands there.

    Example:
        >>> logprobs = torch.log(torch.tensor([[0.5, 0.3]]))
        >>> behaviour = torch.log(torch.tensor([[0.25, 0.3]]))  # rho = 2, 1
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> policy_term(logprobs, behaviour, torch.tensor([1.0]), mask).round(decimals=4).tolist()
        [[1.2799999713897705, 1.0]]
    """
    ratio = _log_ratio(policy_logprobs, behaviour_logprobs, mask).exp()
    return _clipped(ratio, advantages, clip_low, clip_high).where(mask, 0.0)


def expert_term(
    policy_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    shaping: Shaping = "shaped",
    gamma: float = SHAPING_GAMMA,
    clip_low: float = CLIP_LOW,
    clip_high: float = CLIP_HIGH,
) -> torch.Tensor:
    """Return the objective of each token of expert episodes: ``f(pi_theta) A`` (equation 6).

    Args:
        policy_logprobs: ``log pi_theta``, with gradient, ``[N, T]``.
        advantages: ``A`` of each episode, ``[N]``.
        mask: True on tokens that are trained on, ``[N, T]``.
        shaping: ``f``. Under ``clipped`` a bad path has no gradient where ``pi < 1 - clip_low``.
        gamma: ``g`` of the shaped ``f``; the smaller, the more rare tokens weigh.
        clip_low: As in :func:`policy_term`, for ``clipped``.
        clip_high: As in :func:`policy_term`, for ``clipped``; never binds, since ``pi <= 1``.

    Returns:
        ``[N, T]``, float32, 0 where the mask is False whatever stands there.

    Raises:
        ConfigError: If the shaping is unknown or gamma is not above 0.

    Example:
        >>> logprobs = torch.log(torch.tensor([[0.1, 0.9]]))
        >>> mask = torch.ones(1, 2, dtype=torch.bool)
        >>> expert_term(logprobs, torch.tensor([1.0]), mask).round(decimals=4).tolist()
        [[0.5, 0.8999999761581421]]
    """
    if shaping not in get_args(Shaping):
        raise ConfigError(f"unknown shaping {shaping!r}; choose one of {get_args(Shaping)}")
    if not gamma > 0:
        raise ConfigError(f"gamma must be above 0, got {gamma}")
    logprobs = policy_logprobs.float().where(mask, 0.0)
    probability = logprobs.exp()
    if shaping == "clipped":
        return _clipped(probability, advantages, clip_low, clip_high).where(mask, 0.0)
    if shaping == "shaped":
        shaped = probability / (probability + gamma)
    else:
        shaped = logprobs if shaping == "likelihood" else probability
    return (shaped * advantages.float()[:, None]).where(mask, 0.0)


def kl_term(
    policy_logprobs: torch.Tensor, reference_logprobs: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return each token's estimate of KL(policy, reference): ``r - 1 - log r``, r = reference / policy.

    Never negative, and unbiased on tokens that the policy drew (Schulman's k3).

    Args:
        policy_logprobs: ``log pi_theta``, with gradient, ``[N, T]``.
        reference_logprobs: ``log pi_ref`` of a frozen policy, ``[N, T]``.
        mask: True on tokens that are trained on, ``[N, T]``.

    Returns:
        ``[N, T]``, float32, 0 where the mask is False. Unit: nats.
    """
    log_ratio = _log_ratio(reference_logprobs, policy_logprobs, mask)
    return log_ratio.expm1() - log_ratio


def dual_stream_loss(
    policy_logprobs: torch.Tensor,
    behaviour_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    is_expert: torch.Tensor,
    weights: torch.Tensor,
    *,
    clip_low: float = CLIP_LOW,
    clip_high: float = CLIP_HIGH,
    shaping: Shaping = "shaped",
    gamma: float = SHAPING_GAMMA,
    expert_weight: float = 1.0,
    entropy: torch.Tensor | None = None,
    entropy_weight: float = 0.0,
    reference_logprobs: torch.Tensor | None = None,
    kl_weight: float = 0.0,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of some episodes of a step, to be minimised, and what to log about it.

    ``- J_on - expert_weight J_off - entropy_weight H + kl_weight KL``. Entropy and KL are those of policy
    episodes, weighted like them. Any part of a step may be given, of one stream or of both: losses, and so
    gradients, of the parts add up to those of the step.

    Args:
        policy_logprobs: ``log pi_theta``, with gradient, ``[N, T]``.
        behaviour_logprobs: ``log pi_old``; not read in expert rows, ``[N, T]``.
        advantages: ``A`` of each episode, ``[N]``.
        mask: True on tokens that are trained on, ``[N, T]``.
        is_expert: Stream of each episode, True for the expert's, ``[N]``.
        weights: The rows of :func:`episode_weights` of the whole step that belong to these episodes, ``[N]``.
        clip_low: See :func:`policy_term`.
        clip_high: See :func:`policy_term`.
        shaping: See :func:`expert_term`.
        gamma: See :func:`expert_term`.
        expert_weight: Weight of the expert stream.
        entropy: Entropy of each token's distribution, ``[N, T]``. Unit: nats.
        entropy_weight: Weight of the entropy bonus; with gradient only if ``entropy`` has one.
        reference_logprobs: ``log pi_ref`` of a frozen policy, ``[N, T]``.
        kl_weight: Weight of the KL term (paper: 0).

    Returns:
        The loss, a float32 scalar, and numbers by name, to be joined by ``merge_diagnostics``: ``loss_sum``,
        and for each stream that has tokens ``tokens``, ``logprob_mean``, ``ratio_mean``, ``ratio_max`` (rho;
        of experts pi), ``log_ratio_abs_mean`` (of fresh episodes what drawing and scoring differ by),
        ``clipped_share`` (tokens whose gradient the clip removes), ``objective_sum``, and where given
        ``entropy_mean`` and ``kl_mean``.

    Raises:
        ConfigError: If shapes do not fit, a mask is not bool, or a weight is set whose tensor is missing.
    """
    _check_shapes((policy_logprobs, behaviour_logprobs, mask, entropy, reference_logprobs), ndim=2)
    _check_shapes((advantages, is_expert, weights, policy_logprobs[:, 0]), ndim=1)
    if mask.dtype != torch.bool or is_expert.dtype != torch.bool:
        raise ConfigError(f"mask and is_expert must be bool, got {mask.dtype} and {is_expert.dtype}")
    if (entropy is None and entropy_weight) or (reference_logprobs is None and kl_weight):
        raise ConfigError("the entropy bonus needs entropy and the KL term needs reference_logprobs")
    # An expert's rho is pi over pi_expert = 1 (equation 6).
    old = behaviour_logprobs.where(~is_expert[:, None], 0.0)
    on, off = mask & ~is_expert[:, None], mask & is_expert[:, None]
    objective = policy_term(policy_logprobs, old, advantages, on, clip_low, clip_high) + expert_term(
        policy_logprobs, advantages, off, shaping, gamma, clip_low, clip_high
    )
    stream_weights = torch.where(is_expert, expert_weight, 1.0) * weights
    loss = -(stream_weights[:, None] * objective).sum()
    tokens = {"logprob_mean": policy_logprobs, "objective_sum": objective * weights[:, None]}
    if entropy is not None:
        loss = loss - entropy_weight * (weights[:, None] * entropy.float().where(on, 0.0)).sum()
        tokens["entropy_mean"] = entropy
    if reference_logprobs is not None:
        kl = kl_term(policy_logprobs, reference_logprobs, mask)
        loss = loss + kl_weight * (weights[:, None] * kl.where(on, 0.0)).sum()
        tokens["kl_mean"] = kl
    log_ratio = _log_ratio(policy_logprobs, old, mask).detach()
    ratio = log_ratio.exp()
    cut = _cut(ratio, advantages, clip_low, clip_high) & (on if shaping != "clipped" else mask)
    tokens |= {"ratio_mean": ratio, "ratio_max": ratio, "clipped_share": cut}
    tokens["log_ratio_abs_mean"] = log_ratio.abs()
    return loss, {"loss_sum": loss.item()} | describe_tokens(tokens, {"policy": on, "expert": off})


def _log_ratio(above: torch.Tensor, below: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the log of the ratio of two probabilities, 0 where the mask is False."""
    # Masked before exp, not after: whatever stands in padding must not reach the gradient as 0 * inf.
    difference = (above.float() - below.float()).where(mask, 0.0)
    return difference.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def _clipped(ratio: torch.Tensor, advantages: torch.Tensor, low: float, high: float) -> torch.Tensor:
    advantage = advantages.float()[:, None]
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def _cut(ratio: torch.Tensor, advantages: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Tell which tokens have no gradient because of the clip."""
    good = advantages[:, None] > 0
    bad = advantages[:, None] < 0
    return (good & (ratio > 1 + high)) | (bad & (ratio < 1 - low))


def _check_shapes(tensors: Sequence[torch.Tensor | None], ndim: int) -> None:
    shapes = [tuple(tensor.shape) for tensor in tensors if tensor is not None]
    if len(set(shapes)) > 1 or len(shapes[0]) != ndim:
        raise ConfigError(f"these tensors need one shape of {ndim} axes, got {shapes}")
