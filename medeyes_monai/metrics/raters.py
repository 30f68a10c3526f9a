"""Agreement of raters beyond chance: Fleiss's and Cohen's kappa, Krippendorff's alpha, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from monai.utils import optional_import

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.intervals import Estimate, Values
from medeyes_monai.seeding import numpy_generator

__all__ = ["Level", "cohen_kappa", "fleiss_kappa", "krippendorff_alpha"]

Level = Literal["nominal", "ordinal", "interval"]
"""What the numbers of a rating mean: names, an order, or distances."""
RESAMPLES = 1000
"""Resamples of an interval."""


def fleiss_kappa(ratings: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Return Fleiss's kappa: agreement of any number of raters on categories.

    Only the units with the largest number of ratings count, since the measure wants equally many for each;
    they need not be by the same raters.

    Args:
        ratings: A number for each category, NaN where there is no rating. Shape ``[units, raters]``.
        resamples: Resamples of units for the interval; those in which kappa is not defined are left out.
        seed: Seed of the resamples.

    Returns:
        Kappa, its 95 % bootstrap interval, and the number of units that counted. NaN where it is not defined:
        fewer than two raters, or all ratings in one category.

    Raises:
        ConfigError: If the shape is another, or the libraries of the extra ``reader`` are missing.

    Example:
        >>> round(fleiss_kappa([[1, 1], [2, 2], [1, 2]], resamples=1).value, 4)  # (2/3 - 1/2) / (1 - 1/2)
        0.3333
    """
    table = _checked(ratings)
    given = (~np.isnan(table)).sum(1)
    full = table[given == given.max()] if len(table) and given.max() > 1 else table[:0]
    library = _library("statsmodels.stats.inter_rater")

    def kappa(rows: Values) -> float:
        codes = np.unique(rows[~np.isnan(rows)])
        if len(codes) < 2:
            return math.nan
        return float(library.fleiss_kappa(np.stack([(rows == code).sum(1) for code in codes], axis=1)))

    return _with_interval(full, kappa, resamples, seed)


def cohen_kappa(
    first: npt.ArrayLike, second: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Return Cohen's kappa of two raters, on the units that both rated; else as :func:`fleiss_kappa`.

    Example:
        >>> round(cohen_kappa([1, 1, 2, 2], [1, 2, 2, 2], resamples=1).value, 4)  # (3/4 - 1/2) / (1 - 1/2)
        0.5
    """
    table = _checked(np.stack([np.asarray(first, float), np.asarray(second, float)], axis=1))
    library = _library("statsmodels.stats.inter_rater")

    def kappa(rows: Values) -> float:
        codes = np.unique(rows)
        if len(codes) < 2:
            return math.nan
        counts = np.zeros((len(codes), len(codes)))
        np.add.at(counts, tuple(np.searchsorted(codes, rows).T), 1)
        return float(library.cohens_kappa(counts, return_results=False))

    return _with_interval(table[~np.isnan(table).any(1)], kappa, resamples, seed)


def krippendorff_alpha(
    ratings: npt.ArrayLike, level: Level, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Return Krippendorff's alpha: agreement of any number of raters, each of whom may lack ratings.

    Args:
        ratings: Numbers, NaN where there is no rating. Shape ``[units, raters]``.
        level: What the numbers mean.
        resamples: As :func:`fleiss_kappa`.
        seed: Seed of the resamples.

    Returns:
        Alpha, its 95 % bootstrap interval, and the number of units with two ratings or more. NaN where it is
        not defined: no such unit, or all ratings equal.

    Raises:
        ConfigError: As :func:`fleiss_kappa`.

    Example:
        >>> round(krippendorff_alpha([[1, 1], [2, 2], [1, 2]], "nominal", resamples=1).value, 4)
        0.4444
    """
    library = _library("krippendorff")
    table = _checked(ratings)
    pairable = table[(~np.isnan(table)).sum(1) > 1]

    def alpha(rows: Values) -> float:
        if len(np.unique(rows[~np.isnan(rows)])) < 2:
            return math.nan
        return float(library.alpha(reliability_data=rows.T, level_of_measurement=level))

    return _with_interval(pairable, alpha, resamples, seed)


def _with_interval(rows: Values, statistic: Callable[[Values], float], resamples: int, seed: int) -> Estimate:
    """Return a statistic of some units with its interval over units."""
    units = len(rows)
    value = statistic(rows) if units else math.nan
    if math.isnan(value):
        return Estimate(math.nan, math.nan, math.nan, units)
    rng = numpy_generator("agreement", seed)
    drawn = np.array([statistic(rows[rng.integers(units, size=units)]) for _ in range(resamples)])
    known = drawn[~np.isnan(drawn)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (math.nan, math.nan)
    return Estimate(value, float(low), float(high), units)


def _checked(ratings: npt.ArrayLike) -> Values:
    table: Values = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2:
        raise ConfigError(f"wanted ratings of shape [units, raters], got {list(table.shape)}")
    return table


def _library(name: str) -> Any:
    module, there = optional_import(name)
    if not there:
        raise ConfigError(f"agreement of raters needs {name}; pip install 'medeyes-monai[reader]'")
    return module
