"""A mean with its uncertainty, by resampling images or questions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medeyes_monai.errors import ConfigError
from medeyes_monai.seeding import numpy_generator

__all__ = ["RESAMPLES", "Estimate", "estimates"]

RESAMPLES = 2000
"""Resamples of an interval."""
_TAIL = 2.5
"""Percentile at which a 95 % interval begins."""
_DRAWS_AT_ONCE = 2**22
"""Numbers that are drawn at once, which bounds the memory."""

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its 95 % bootstrap interval (percentiles).

    Where all values are equal the interval has no width, however few they are; :class:`Share` has one then.

    Args:
        value: The mean; NaN of nothing.
        low: Lower end of the interval.
        high: Upper end.
        count: Number of values.
    """

    value: float
    low: float
    high: float
    count: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return plain values that JSON can hold; what is not known is None."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if math.isnan(v) else v for name, v in numbers.items()} | {"count": self.count}

    def percent(self) -> str:
        """Return the value and its interval in percent, or "-" of nothing.

        Example:
            >>> Estimate(0.5, 0.251, 0.75, 4).percent()
            '50.0 (25.1-75.0)'
        """
        if not self.count:
            return "-"
        return f"{100 * self.value:.1f} ({100 * self.low:.1f}-{100 * self.high:.1f})"

    def points(self) -> str:
        """Return a difference and its interval in points, or "-" of nothing.

        Example:
            >>> Estimate(0.5, -0.251, 0.75, 4).points()
            '+50.0 (-25.1 to +75.0)'
        """
        if not self.count:
            return "-"
        return f"{100 * self.value:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def estimates(
    values: npt.ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """Return the mean of each column with its 95 % bootstrap interval.

    Whole clusters are drawn with replacement, each with all its rows: questions about one image are not
    independent. A column's mean is over its values that are known. All columns see the same draws, and
    neither the order of rows nor the names of clusters matter.

    Args:
        values: Numbers, NaN where one is not known. Shape ``[rows, columns]``, or ``[rows]`` for one column.
        clusters: Name of each row's cluster; None makes each row its own.
        resamples: Number of resamples.
        seed: Seed of the draws.

    Raises:
        ConfigError: If there is not one cluster for each row, or no resample.

    Example:
        >>> estimates([0.0, 1.0, 1.0, 1.0])[0].value, estimates([[1.0, float("nan")]])[1].count
        (0.75, 0)
    """
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    names = list(range(len(table))) if clusters is None else list(clusters)
    if len(names) != len(table) or resamples < 1:
        raise ConfigError(
            f"wanted one cluster for each of {len(table)} rows and at least one resample, got {len(names)} "
            f"clusters and {resamples} resamples"
        )
    sums, counts = _by_cluster(table, names)
    total, known = sums.sum(0), counts.sum(0)
    means = _resampled_means(sums, counts, resamples, seed)
    return [
        Estimate(float(total[n] / known[n]), *_ends(means[:, n]), int(known[n]))
        if known[n]
        else Estimate(math.nan, math.nan, math.nan, 0)
        for n in range(table.shape[1])
    ]


def _by_cluster(table: Values, names: Sequence[Hashable]) -> tuple[Values, Values]:
    """Return sum and number of the known values of each cluster, in an order that rows do not change."""
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    places = np.array([number[name] for name in names], dtype=np.intp)
    known = ~np.isnan(table)
    sums, counts = (np.zeros((len(number), table.shape[1])) for _ in range(2))
    np.add.at(sums, places, np.where(known, table, 0.0))
    np.add.at(counts, places, known.astype(np.float64))
    order = np.lexsort(np.hstack([np.round(sums, 12), counts]).T)  # sums in another order differ a little
    return sums[order], counts[order]


def _resampled_means(sums: Values, counts: Values, resamples: int, seed: int) -> Values:
    """Return the mean of each column in each resample, NaN where none of its values were drawn."""
    clusters = len(sums)
    rng = numpy_generator("bootstrap", seed)
    means = np.full((resamples, sums.shape[1]), math.nan)
    step = max(1, _DRAWS_AT_ONCE // max(1, clusters))
    for start in range(0, resamples if clusters else 0, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(clusters, size=(rows, clusters)) + clusters * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters)
        with np.errstate(invalid="ignore"):
            means[start : start + rows] = (weights @ sums) / (weights @ counts)
    return means


def _ends(means: Values) -> tuple[float, float]:
    low, high = np.nanpercentile(means, [_TAIL, 100 - _TAIL])
    return float(low), float(high)
