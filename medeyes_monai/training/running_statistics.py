"""What each stream's rewards were over past steps: the one thing about advantages that a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

import torch

from medeyes_monai.errors import CheckpointError, ConfigError
from medeyes_monai.trajectory import Stream

__all__ = ["RunningStatistics"]

_STREAMS: tuple[Stream, ...] = get_args(Stream)


@dataclass(frozen=True, slots=True)
class RunningStatistics:
    """Mean and variance of each stream's rewards over past steps, as an exponential moving average.

    Immutable; :meth:`updated` returns the next one. A stream's first step sets its statistics, later steps
    are mixed in as one distribution into another, so the variance also holds the drift of the mean.

    Args:
        decay: Weight of the past in each update, in [0, 1).
        mean: Mean reward of each stream that was seen.
        variance: Population variance of each stream that was seen.

    Raises:
        ConfigError: If the decay is outside [0, 1).
    """

    decay: float = 0.9
    mean: Mapping[Stream, float] = field(default_factory=dict)
    variance: Mapping[Stream, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a decay that is none."""
        if not 0 <= self.decay < 1:
            raise ConfigError(f"the decay of running statistics lies in [0, 1), got {self.decay}")

    def updated(self, rewards: torch.Tensor, is_expert: torch.Tensor) -> RunningStatistics:
        """Return the statistics with one more step; a stream without episodes keeps its own.

        Args:
            rewards: Rewards of the step, ``[N]``.
            is_expert: Stream of each, True for the expert's, ``[N]``.

        Example:
            >>> once = RunningStatistics().updated(torch.tensor([0.0, 1.0]), torch.tensor([False, False]))
            >>> once.state_dict()
            {'policy/mean': 0.5, 'policy/variance': 0.25}
        """
        mean, variance = dict(self.mean), dict(self.variance)
        for stream in _STREAMS:
            own = rewards.detach().cpu().double()[is_expert.cpu() == (stream == "expert")]
            if not len(own):
                continue
            new_mean, new_variance = own.mean().item(), own.var(correction=0).item()
            if stream in mean:
                drift = self.decay * (1 - self.decay) * (new_mean - mean[stream]) ** 2
                new_variance = self.decay * variance[stream] + (1 - self.decay) * new_variance + drift
                new_mean = self.decay * mean[stream] + (1 - self.decay) * new_mean
            mean[stream], variance[stream] = new_mean, new_variance
        return RunningStatistics(self.decay, mean, variance)

    def state_dict(self) -> dict[str, float]:
        """Return what a checkpoint has to keep, as plain numbers."""
        state: dict[str, float] = {}
        for stream in self.mean:
            state[f"{stream}/mean"] = self.mean[stream]
            state[f"{stream}/variance"] = self.variance[stream]
        return state

    def restored(self, state: Mapping[str, float]) -> RunningStatistics:
        """Return statistics with this decay and the numbers of a :meth:`state_dict`.

        Raises:
            CheckpointError: If the numbers are not those of a state.
        """
        known = [stream for stream in _STREAMS if f"{stream}/mean" in state]
        if state.keys() != {f"{stream}/{name}" for stream in known for name in ("mean", "variance")}:
            raise CheckpointError(
                f"running statistics are a mean and a variance for each stream, got {sorted(state)}"
            )
        return RunningStatistics(
            self.decay,
            {stream: float(state[f"{stream}/mean"]) for stream in known},
            {stream: float(state[f"{stream}/variance"]) for stream in known},
        )
