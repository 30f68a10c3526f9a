"""How a learning rate or a weight changes over a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from transformers.optimization import (
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_polynomial_decay_schedule_with_warmup,
)

from medeyes_monai.errors import ConfigError

__all__ = ["Schedule", "ScheduleKind"]

ScheduleKind = Literal["constant", "linear", "cosine"]
"""What follows the warm-up: the full value, a straight line down, or half a cosine down."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The share of its full value that a number has at each update of a run.

    It rises in a straight line over the warm-up, whose last update has the full value (without a warm-up the
    first update has), and then follows transformers' schedule of this kind, which reaches ``end`` one update
    after the last. No update has a share of 0. The share depends on nothing but the number of the update and
    the length of the run, so a resumed run repeats it.

    Args:
        kind: What follows the warm-up.
        warmup: Updates of the warm-up.
        end: Share of the full value at the end; not read where the kind is ``constant``.

    Raises:
        ConfigError: If the kind is unknown, the warm-up is negative, or the end is outside [0, 1).

    Example:
        >>> [round(Schedule("linear", warmup=2).factor(update, updates=4), 3) for update in range(4)]
        [0.5, 1.0, 0.667, 0.333]
    """

    kind: ScheduleKind = "constant"
    warmup: int = 0
    end: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no schedule."""
        if self.kind not in get_args(ScheduleKind):
            raise ConfigError(f"unknown schedule {self.kind!r}; choose one of {get_args(ScheduleKind)}")
        if self.warmup < 0 or not 0 <= self.end < 1:
            raise ConfigError(
                "a schedule needs a warmup of at least 0 updates and an end in [0, 1), got "
                f"{self.warmup} and {self.end}"
            )

    def factor(self, update: int, updates: int) -> float:
        """Return the share at an update.

        Args:
            update: Number of the update, from 0.
            updates: Updates of the whole run.
        """
        unit = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        shift = min(1, self.warmup)  # the warm-up of transformers begins with an update at 0
        end_at = updates + shift
        if self.kind == "constant":
            schedule = get_constant_schedule_with_warmup(unit, self.warmup)
        elif self.kind == "linear":
            schedule = get_polynomial_decay_schedule_with_warmup(
                unit, self.warmup, end_at, lr_end=self.end, power=1.0
            )
        else:
            schedule = get_cosine_with_min_lr_schedule_with_warmup(
                unit, self.warmup, end_at, min_lr_rate=self.end
            )
        return float(schedule.lr_lambdas[0](update + shift))
