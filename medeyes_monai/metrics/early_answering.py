"""What each look adds: the probability of the reference answer before and after it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.intervals import Estimate, estimates
from medeyes_monai.metrics.share import Share
from medeyes_monai.metrics.table import Table

__all__ = ["LookGain", "look_gain_table", "look_gains"]


@dataclass(frozen=True, slots=True)
class LookGain:
    """What the k-th look of a path adds, over the questions at which there was one.

    Args:
        look: Its number, from 1.
        before: Mean probability of the reference answer, had the policy to answer before the look.
        after: The same after it.
        gain: Mean difference of the two, question by question.
        rises: Share of questions in which the probability rises.
    """

    look: int
    before: Estimate
    after: Estimate
    gain: Estimate
    rises: Share

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        means = {"before": self.before, "after": self.after, "gain": self.gain}
        return {
            "look": self.look,
            **{name: mean.to_dict() for name, mean in means.items()},
            "rises": self.rises.to_dict(),
        }


def look_gains(
    chances: Sequence[Sequence[float]], images: Sequence[Hashable] | None = None
) -> tuple[LookGain, ...]:
    """Return what each look adds, for the first, the second, and so on.

    Later looks are those of longer paths alone, so rows are of different questions; within a row, before and
    after are of the same.

    Args:
        chances: Of each question the probability of the reference answer after 0, 1, … n looks; those with
            fewer than two count for nothing.
        images: Name of each question's image, whose questions are resampled together; None for each its own.

    Raises:
        ConfigError: If there is not one image for each question.

    Example:
        >>> [gain.gain.value for gain in look_gains([[0.25, 0.5, 1.0], [0.25, 0.25], [1.0]])]
        [0.125, 0.5]
    """
    names = list(range(len(chances))) if images is None else list(images)
    if len(names) != len(chances):
        raise ConfigError(f"wanted one image for each of {len(chances)} questions, got {len(names)}")
    most = max((len(row) for row in chances), default=0)
    return tuple(_gain(look, chances, names) for look in range(1, most))


def _gain(look: int, chances: Sequence[Sequence[float]], images: Sequence[Hashable]) -> LookGain:
    with_look = [n for n, row in enumerate(chances) if len(row) > look]
    before, after = (np.array([chances[n][place] for n in with_look]) for place in (look - 1, look))
    columns = np.stack([before, after, after - before], axis=1)
    first, then, gain = estimates(columns, [images[n] for n in with_look])
    return LookGain(look, first, then, gain, Share.of(after > before))


def look_gain_table(gains: Sequence[LookGain], blanked: Sequence[LookGain] = ()) -> Table:
    """Return what each look adds as a table, in percent and points.

    Args:
        gains: What looks add.
        blanked: What they add where they show grey, for comparison.
    """
    grey = {gain.look: gain.gain.points() for gain in blanked}
    rows = [
        (
            str(gain.look),
            str(gain.gain.count),
            gain.before.percent(),
            gain.after.percent(),
            gain.gain.points(),
            gain.rises.percent(),
            *([grey.get(gain.look, "-")] if blanked else []),
        )
        for gain in gains
    ]
    header = ("look", "n", "before it", "after it", "gain, points", "rises")
    return Table((*header, "gain, looks blanked") if blanked else header, tuple(rows))
