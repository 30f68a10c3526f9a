"""What readers' answers say: agreement, the effect of seeing the looks, and how useful looks were."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

import numpy as np

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.intervals import Estimate, Values, estimates
from medeyes_monai.metrics.raters import cohen_kappa, fleiss_kappa, krippendorff_alpha
from medeyes_monai.reports.reader_study.answers import RatedCase
from medeyes_monai.reports.reader_study.findings import Effect, StudyResults, Usefulness

__all__ = ["OUTCOMES", "analyse"]

Outcome = Callable[[RatedCase], float]


class Settings(TypedDict):
    """How intervals are made."""

    resamples: int
    seed: int


def _number(value: int | None) -> float:
    return math.nan if value is None else float(value)


def _if(condition: bool, value: float) -> float:
    return value if condition else math.nan


OUTCOMES: Mapping[str, Outcome] = {
    "accuracy": lambda one: one.accuracy,
    "accuracy, model right": lambda one: _if(one.right, one.accuracy),
    "accuracy, model wrong": lambda one: _if(not one.right, one.accuracy),
    "undecided": lambda one: _if(one.correctness is not None, float(one.judgement == 0)),
    "confidence": lambda one: _number(one.confidence),
    "trust": lambda one: _number(one.trust),
    "trust, model right": lambda one: _if(one.right, _number(one.trust)),
    "trust, model wrong": lambda one: _if(not one.right, _number(one.trust)),
}
"""What is compared with and without looks: shares from 0 to 1, confidence and trust from 1 to 5."""
RATINGS: Mapping[str, Outcome] = {
    "correctness": lambda one: _number(one.correctness),
    "confidence": lambda one: _number(one.confidence),
    "trust": lambda one: _number(one.trust),
}


def analyse(cases: Sequence[RatedCase], *, resamples: int = 1000, seed: int = 0) -> StudyResults:
    """Analyse the answers of readers. Every rating that was given counts, also of cases not rated in full.

    Args:
        cases: What readers said, see :func:`~medeyes_monai.reports.reader_study.answers.read_answers`.
        resamples: Resamples of each interval.
        seed: Seed of the resamples.

    Raises:
        ConfigError: If nothing was rated, or a library of the extra ``reader`` is missing.
    """
    if not any(one.correctness for one in cases):
        raise ConfigError("no reader has rated a case; there is nothing to analyse")
    readers = list(dict.fromkeys(one.reader for one in cases))
    counts = {reader: Counter(one.state for one in cases if one.reader == reader) for reader in readers}
    settings = Settings(resamples=resamples, seed=seed)
    return StudyResults(
        states={
            name: {state: found[state] for state in ("rated", "left", "open")}
            for name, found in counts.items()
        },
        items=len({one.item for one in cases}),
        agreement=_agreement(cases, readers, settings),
        effects={name: _effect(cases, readers, outcome, settings) for name, outcome in OUTCOMES.items()},
        usefulness=_usefulness(cases, settings),
    )


def _conditions(cases: Sequence[RatedCase]) -> dict[str, list[RatedCase]]:
    return {
        "all": list(cases),
        "with looks": [one for one in cases if one.path],
        "without looks": [one for one in cases if not one.path],
    }


def _agreement(cases: Sequence[RatedCase], readers: Sequence[str], settings: Settings) -> dict[str, Estimate]:
    found = {}
    for condition, kept in _conditions(cases).items():
        judged = _matrix(kept, readers, lambda one: one.judgement)
        found[f"judgement, {condition}: Fleiss' kappa"] = fleiss_kappa(judged, **settings)
        found[f"judgement, {condition}: Krippendorff's alpha"] = krippendorff_alpha(
            judged, "nominal", **settings
        )
        for name, rating in RATINGS.items():
            table = _matrix(kept, readers, rating)
            found[f"{name}, {condition}: Krippendorff's alpha"] = krippendorff_alpha(
                table, "ordinal", **settings
            )
    looks = _looks_matrix(cases, readers)
    found["usefulness of looks: Krippendorff's alpha"] = krippendorff_alpha(looks, "ordinal", **settings)
    judged = _matrix(cases, readers, lambda one: one.judgement)
    for (a, first), (b, second) in itertools.combinations(enumerate(readers), 2):
        kappa = cohen_kappa(judged[:, a], judged[:, b], **settings)
        found[f"judgement, {first} and {second}: Cohen's kappa"] = kappa
    return found


def _matrix(cases: Sequence[RatedCase], readers: Sequence[str], value: Outcome) -> Values:
    """Return a value for each item and reader, NaN where there is none. Shape ``[items, readers]``."""
    rows = {item: n for n, item in enumerate(dict.fromkeys(one.item for one in cases))}
    columns = {reader: n for n, reader in enumerate(readers)}
    table = np.full((len(rows), len(columns)), math.nan)
    for one in cases:
        table[rows[one.item], columns[one.reader]] = value(one)
    return table


def _looks_matrix(cases: Sequence[RatedCase], readers: Sequence[str]) -> Values:
    """Return how useful each look of each item was to each reader. Shape ``[looks, readers]``."""
    rows: dict[tuple[str, int], Values] = {}
    for one in cases:
        for number, value in enumerate(one.usefulness, start=1):
            row = rows.setdefault((one.item, number), np.full(len(readers), math.nan))
            row[readers.index(one.reader)] = _number(value)
    return np.stack(list(rows.values())) if rows else np.zeros((0, len(readers)))


def _mean(cases: Sequence[RatedCase], value: Outcome, settings: Settings) -> Estimate:
    (mean,) = estimates([value(one) for one in cases], [one.item for one in cases], **settings)
    return mean


def _effect(
    cases: Sequence[RatedCase], readers: Sequence[str], outcome: Outcome, settings: Settings
) -> Effect:
    kept = _conditions(cases)
    shown, hidden = (_mean(kept[name], outcome, settings) for name in ("with looks", "without looks"))
    by_item = _pairs(cases, [one.item for one in cases], outcome)
    by_reader = _pairs(cases, [one.reader for one in cases], outcome)
    (over_items,), (over_readers,) = (
        estimates([with_looks - without for with_looks, without in pairs.values()], **settings)
        for pairs in (by_item, by_reader)
    )
    return Effect(shown, hidden, over_items, over_readers, {name: by_reader[name] for name in readers})


def _pairs(
    cases: Sequence[RatedCase], names: Sequence[str], outcome: Outcome
) -> dict[str, tuple[float, float]]:
    """Return the mean with looks and without of each name, NaN where nothing is known."""
    values: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in names}
    for one, name in zip(cases, names, strict=True):
        value = outcome(one)
        if not math.isnan(value):
            values[name][0 if one.path else 1].append(value)
    return {name: (_plain_mean(seen), _plain_mean(unseen)) for name, (seen, unseen) in values.items()}


def _plain_mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _usefulness(cases: Sequence[RatedCase], settings: Settings) -> Usefulness:
    most = {one.item: len(one.usefulness) for one in cases if one.path}
    rated = [
        (one, number, float(value))
        for one in cases
        for number, value in enumerate(one.usefulness, start=1)
        if value is not None
    ]

    def mean(kept: Sequence[tuple[RatedCase, int, float]]) -> Estimate:
        (found,) = estimates([value for _, _, value in kept], [one.item for one, _, _ in kept], **settings)
        return found

    def single(item: str, number: int) -> tuple[float, int]:
        values = [value for one, n, value in rated if (one.item, n) == (item, number)]
        return _plain_mean(values), len(values)

    numbers = sorted({number for _, number, _ in rated})
    return Usefulness(
        by_look={n: mean([row for row in rated if row[1] == n]) for n in numbers},
        right=mean([row for row in rated if row[0].right]),
        wrong=mean([row for row in rated if not row[0].right]),
        each={item: tuple(single(item, n + 1) for n in range(looks)) for item, looks in most.items()},
    )
