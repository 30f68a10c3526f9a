"""Do looks lead somewhere: do they narrow, does confidence rise, how many are needed?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.metrics.answers import Scores
from medeyes_monai.metrics.confidence import turn_confidences
from medeyes_monai.metrics.figures import EpisodeFigures
from medeyes_monai.metrics.intervals import Estimate, estimates
from medeyes_monai.metrics.table import Table
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["LookStep", "Progression", "ProgressionMetric", "look_curve", "look_table"]


@dataclass(frozen=True, slots=True)
class Progression:
    """How paths of looks go on, over the episodes with at least two looks (confidence: at least one).

    Args:
        figures: Mean and interval by name. ``shrinks``: share of episodes whose last look is smaller than
            the first. ``size_ratio``: last size over first, geometric mean. ``nested``: share of steps from a
            look to the next that stay inside, at least in their larger part. ``confidence_gain``: mean token
            probability of the answering turn less that of the first turn. ``confidence_rises``: share of
            episodes in which that is above 0.
        count: Number of episodes.
    """

    figures: Mapping[str, Estimate]
    count: int

    def scalars(self) -> dict[str, float]:
        """Return one number for each figure, for loggers that take names and floats."""
        return {name: mean.value for name, mean in self.figures.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {"count": self.count, "figures": {name: mean.to_dict() for name, mean in self.figures.items()}}


class ProgressionMetric(EpisodeFigures):
    """Collects how paths of looks go on, batch by batch and across processes."""

    columns = ("shrinks", "size_ratio", "nested", "confidence_gain", "confidence_rises")

    def row(self, episode: Episode, case: Case) -> tuple[float, ...]:
        """Return the figures of an episode, NaN where it has too few looks; the size ratio as logarithm."""
        boxes = episode.trajectory.boxes
        shrinks = ratio = nested = gain = math.nan
        if len(boxes) > 1:
            shrinks = float(boxes[-1].size < boxes[0].size)
            ratio = math.log(boxes[-1].size / boxes[0].size)
            nested = sum(_stays_inside(a, b) for a, b in pairwise(boxes)) / (len(boxes) - 1)
        drawn = episode.stream == "policy" and episode.trajectory.answer is not None
        sure = turn_confidences(episode) if drawn else []
        if boxes and len(sure) > 1:
            gain = sure[-1] - sure[0]
        return shrinks, ratio, nested, gain, math.nan if math.isnan(gain) else float(gain > 0)

    def aggregate(self) -> Progression:
        """Summarise all episodes since the last reset, of all processes.

        Raises:
            ConfigError: If there are none.
        """
        rows = self.collected()
        figures = dict(zip(self.columns, estimates(rows.figures, rows.images), strict=True))
        logs = figures["size_ratio"]
        value, low, high = (math.exp(log) for log in (logs.value, logs.low, logs.high))
        figures["size_ratio"] = Estimate(value, low, high, logs.count)
        return Progression(MappingProxyType(figures), len(rows.cases))


@dataclass(frozen=True, slots=True)
class LookStep:
    """What a policy knows after a number of looks.

    Args:
        looks: Most looks that it was allowed.
        score: Its mean score.
        answered: Questions that it answered; one that wants to look on gives no answer and counts as wrong.
    """

    looks: int
    score: Estimate
    answered: int


def look_curve(runs: Mapping[int, Scores]) -> tuple[LookStep, ...]:
    """Return the score by the number of looks, from runs that were cut after some number of them.

    Where the likeliest words are taken, a run with fewer looks is the beginning of the same path, and a path
    that wants to go on is wrong: the curve rises by construction, and tells how many looks are needed.

    Args:
        runs: Scores of the same questions by the largest number of looks, as
            ``EpisodeInferer(max_looks=k)`` gives them.

    Raises:
        ConfigError: If there is no run, or they are not of the same questions.
    """
    if not runs:
        raise ConfigError("a curve over looks needs at least one run, got none")
    if len({scores.cases for scores in runs.values()}) > 1:
        raise ConfigError("the runs of a curve over looks are of different questions")
    wholes = {number: runs[number].sections()[0] for number in sorted(runs)}
    return tuple(LookStep(number, whole.score, whole.answered) for number, whole in wholes.items())


def look_table(steps: Sequence[LookStep]) -> Table:
    """Return a curve over looks as a table, in percent.

    Example:
        >>> look_table([LookStep(0, Estimate(0.5, 0.4, 0.6, 10), 8)]).rows
        (('0', '10', '8', '50.0 (40.0-60.0)'),)
    """
    return Table(("looks", "n", "answered", "score"), tuple(map(_row, steps)))


def _row(step: LookStep) -> tuple[str, ...]:
    return (str(step.looks), str(step.score.count), str(step.answered), step.score.percent())


def _stays_inside(first: Box, then: Box) -> bool:
    """Tell whether more than half of a look lies inside the look before it."""
    both = first.intersection(then)
    return both is not None and 2 * both.size > then.size
