"""How much better than expected each episode was (equation 7), and what "expected" may mean.

All standard deviations are those of the population, so that a group of one gives 0 and not NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.training.running_statistics import RunningStatistics
from medeyes_monai.trajectory import Stream

__all__ = ["STD_FLOOR", "AdvantageMode", "Advantages", "RunningStatistics", "advantages", "uniform_rows"]

AdvantageMode = Literal["stream", "stream_running", "on_baseline", "joint", "imitation"]
"""Against what an episode is measured (method, section 5).

``stream``: its own stream within the question, as in the paper. ``stream_running``: its own stream over past
steps, which keeps a signal where a group is uniform. ``on_baseline``: the policy's stream within the
question, for both streams. ``joint``: both streams of the question as one group, the ablation.
``imitation``: against nothing; 1 for every episode of the expert and 0 for the policy's. With the shaping
``likelihood`` this is supervised fine-tuning on the expert's paths.
"""

STD_FLOOR = 0.1
"""Smallest deviation that rewards are divided by where it is not that of their own group (our choice).

Eight policy episodes that all fail have no deviation; without a floor an expert's advantage over them would
be divided by ``eps`` alone and be about a million.
"""

_STREAMS: tuple[Stream, ...] = get_args(Stream)


@dataclass(frozen=True, slots=True, eq=False)
class Advantages:
    """Advantages of the episodes of one step. The shares hold a key for each stream that has episodes.

    Args:
        values: Advantage of each episode, ``[N]``, float32.
        mean: Mean advantage of each stream.
        positive_share: Share of a stream's episodes with an advantage above 0.
        negative_share: Share of a stream's episodes with an advantage below 0, before negative ones of
            experts are dropped.
        zero_variance_share: Share of a stream's questions whose episodes in that stream all have one reward.
        running: Statistics for the next step under ``stream_running``, else those that were given.
    """

    values: torch.Tensor
    mean: Mapping[Stream, float]
    positive_share: Mapping[Stream, float]
    negative_share: Mapping[Stream, float]
    zero_variance_share: Mapping[Stream, float]
    running: RunningStatistics | None = None

    @property
    def diagnostics(self) -> dict[str, float]:
        """The shares and means by names like ``expert/advantage_negative_share``."""
        named = {
            "advantage_mean": self.mean,
            "advantage_positive_share": self.positive_share,
            "advantage_negative_share": self.negative_share,
            "zero_variance_share": self.zero_variance_share,
        }
        return {f"{stream}/{name}": value for name, of in named.items() for stream, value in of.items()}


def advantages(
    rewards: torch.Tensor,
    question: torch.Tensor,
    is_expert: torch.Tensor,
    mode: AdvantageMode = "stream",
    *,
    eps: float = 1e-6,
    std_floor: float = STD_FLOOR,
    running: RunningStatistics | None = None,
    positive_experts_only: bool = False,
) -> Advantages:
    """Measure each episode against what was expected: ``A_i = (R_i - mu) / (sigma + eps)`` (equation 7).

    Under ``stream_running`` mu and sigma are those of past steps; in the first step of a stream, when there
    are none, those of this step over all its questions. The statistics with this step are in the result.

    Args:
        rewards: Reward of each episode of the step, all questions and both streams, ``[N]``.
        question: Number of each episode's question, any whole numbers, ``[N]``.
        is_expert: Stream of each episode, True for the expert's, ``[N]``.
        mode: Against what episodes are measured.
        eps: Added to sigma, ``d`` of equation 7.
        std_floor: Smallest sigma under ``stream_running`` and ``on_baseline``, see :data:`STD_FLOOR`.
        running: Statistics of past steps for ``stream_running``; None begins anew.
        positive_experts_only: Set negative advantages of experts to 0.

    Raises:
        ConfigError: If the tensors do not fit, a reward is not finite, the mode is unknown, or a question
            has no episode of the policy under ``on_baseline``.

    Example:
        >>> expert = torch.tensor([False, False, True])
        >>> result = advantages(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([7, 7, 7]), expert, eps=0.0)
        >>> result.values[:2].tolist()
        [-1.0, 1.0]
        >>> result.zero_variance_share
        {'policy': 0.0, 'expert': 1.0}
    """
    _check(rewards, question, is_expert, mode)
    exact, expert = rewards.detach().cpu().double(), is_expert.cpu()
    number = torch.unique(question.cpu(), return_inverse=True)[1]
    if mode == "stream_running":
        past = running or RunningStatistics()
        running = past.updated(exact, expert)
        mean, std = _past_statistics(past, running, expert)
    elif mode == "on_baseline":
        mean, std = _statistics(exact, number, of=~expert)
    else:
        group = number if mode == "joint" else 2 * number + expert
        mean, std = _statistics(exact, group, of=torch.ones_like(expert))
    if mode in ("stream_running", "on_baseline"):
        std = std.clamp(min=std_floor)
    # 0 / 0 can only mean "as expected", where eps is 0.
    values = torch.where(exact == mean, 0.0, (exact - mean) / (std + eps))
    if mode == "imitation":
        values = expert.double()
    kept = torch.where(expert & (values < 0), 0.0, values) if positive_experts_only else values
    rows = {"policy": ~expert, "expert": expert}
    streams = [stream for stream in _STREAMS if rows[stream].any()]
    return Advantages(
        kept.to(rewards.device, torch.float32),
        mean={s: kept[rows[s]].mean().item() for s in streams},
        positive_share={s: _share(values[rows[s]] > 0) for s in streams},
        negative_share={s: _share(values[rows[s]] < 0) for s in streams},
        zero_variance_share={s: _uniform_share(exact[rows[s]], number[rows[s]]) for s in streams},
        running=running,
    )


def uniform_rows(rewards: torch.Tensor, question: torch.Tensor, is_expert: torch.Tensor) -> torch.Tensor:
    """Tell which policy episodes belong to a question whose policy episodes all have one reward.

    They cannot teach what is better than what. DAPO leaves such questions out of its loss.

    Args:
        rewards: Reward of each episode of the step, ``[N]``.
        question: Number of each episode's question, ``[N]``.
        is_expert: Stream of each episode, True for the expert's, ``[N]``.

    Returns:
        Bool ``[N]``, False for every episode of the expert.

    Example:
        >>> expert = torch.tensor([False, False, False, False, True])
        >>> rewards, question = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.9]), torch.tensor([0, 0, 1, 1, 0])
        >>> uniform_rows(rewards, question, expert).tolist()
        [True, True, False, False, False]
    """
    uniform = torch.zeros_like(is_expert)
    for one in torch.unique(question[~is_expert]):
        rows = (question == one) & ~is_expert
        uniform[rows] = bool(rewards[rows].min() == rewards[rows].max())
    return uniform


def _check(rewards: torch.Tensor, question: torch.Tensor, is_expert: torch.Tensor, mode: str) -> None:
    if mode not in get_args(AdvantageMode):
        raise ConfigError(f"unknown advantage mode {mode!r}; choose one of {get_args(AdvantageMode)}")
    if rewards.ndim != 1 or not rewards.shape == question.shape == is_expert.shape:
        shapes = [tuple(t.shape) for t in (rewards, question, is_expert)]
        raise ConfigError(f"rewards, question and is_expert need one shape [N], got {shapes}")
    if is_expert.dtype != torch.bool:
        raise ConfigError(f"is_expert must be bool, got {is_expert.dtype}")
    if not rewards.isfinite().all():
        raise ConfigError("some rewards are not finite; score every episode before taking advantages")


def _statistics(
    rewards: torch.Tensor, group: torch.Tensor, of: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and population deviation, for each row, of those rows of its group that ``of`` names."""
    mean, std = torch.empty_like(rewards), torch.empty_like(rewards)
    for one in torch.unique(group):
        rows = group == one
        measured = rewards[rows & of]
        if not len(measured):
            raise ConfigError("on_baseline needs an episode of the policy for every question; draw some")
        shifted = measured - measured.min()  # zeros, not rounding noise, where all are equal
        mean[rows], std[rows] = measured.min() + shifted.mean(), shifted.std(correction=0)
    return mean, std


def _past_statistics(
    past: RunningStatistics, present: RunningStatistics, expert: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation of each row's stream, from the past where it has one."""
    mean = torch.empty(len(expert), dtype=torch.float64)
    std = torch.empty_like(mean)
    for stream in present.mean:
        known = past if stream in past.mean else present
        rows = expert == (stream == "expert")
        mean[rows], std[rows] = known.mean[stream], known.variance[stream] ** 0.5
    return mean, std


def _share(which: torch.Tensor) -> float:
    return which.double().mean().item()


def _uniform_share(rewards: torch.Tensor, number: torch.Tensor) -> float:
    """Return the share of questions whose rewards are all equal."""
    groups = [rewards[number == one] for one in torch.unique(number)]
    return sum(bool(group.min() == group.max()) for group in groups) / len(groups)
