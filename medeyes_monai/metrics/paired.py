"""Two runs on the same questions: the difference, its interval, and McNemar's exact test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.answers import Scores
from medeyes_monai.metrics.intervals import RESAMPLES, Estimate, estimates
from medeyes_monai.metrics.table import Table

__all__ = ["Paired", "compare_runs", "mcnemar", "paired", "score_table"]


@dataclass(frozen=True, slots=True)
class Paired:
    """How a run differs from another on the same questions.

    Args:
        preset: Name of the protocol.
        difference: Mean score of the second run less that of the first, with its paired bootstrap interval.
        only_first: Questions that only the first run had right; None where answers are scored by degrees.
        only_second: Questions that only the second run had right.
        p_value: McNemar's exact two-sided test of these two numbers.
    """

    preset: str
    difference: Estimate
    only_first: int | None = None
    only_second: int | None = None
    p_value: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {
            "preset": self.preset,
            "difference": self.difference.to_dict(),
            "only_first": self.only_first,
            "only_second": self.only_second,
            "mcnemar_p": self.p_value,
        }


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact two-sided test: are the two numbers draws of a fair coin?

    Example:
        >>> mcnemar(1, 5)  # 2 * (1 + 6) / 2**6
        0.21875
        >>> mcnemar(0, 0)
        1.0
    """
    both = only_first + only_second
    return float(binomtest(only_first, both, 0.5).pvalue) if both else 1.0


def paired(first: Scores, second: Scores, *, resamples: int = RESAMPLES, seed: int = 0) -> Paired:
    """Compare two runs on the same questions.

    Raises:
        ConfigError: If they were scored by different protocols or answer different questions.
    """
    if first.preset != second.preset:
        raise ConfigError(
            f"runs compare under one preset, got {first.preset!r} and {second.preset!r}; score both by one"
        )
    if first.cases != second.cases:
        shared = len(set(first.cases) & set(second.cases))
        raise ConfigError(
            f"runs compare on the same questions, got {len(first)} and {len(second)} of which {shared} are "
            "shared; restrict both to the shared ones"
        )
    gains = second.score - first.score
    (difference,) = estimates(gains, first.images, resamples=resamples, seed=seed)
    if not (first.binary and second.binary):
        return Paired(first.preset, difference)
    only_first, only_second = int((gains < 0).sum()), int((gains > 0).sum())
    return Paired(first.preset, difference, only_first, only_second, mcnemar(only_first, only_second))


def compare_runs(runs: Mapping[str, Scores]) -> dict[str, Paired]:
    """Compare every run with the first one, by their names.

    The p-values are of single comparisons and not corrected for their number.

    Raises:
        ConfigError: If there are fewer than two, or as :func:`paired`.
    """
    if len(runs) < 2:
        raise ConfigError(f"a comparison needs at least two runs, got {len(runs)}")
    (_, first), *others = runs.items()
    return {name: paired(first, run) for name, run in others}


def score_table(runs: Mapping[str, Scores]) -> Table:
    """Return scores side by side in percent: all, closed, open and overlaps, differences from the first run.

    Every row names its protocol, its measure and its number of questions.

    Raises:
        ConfigError: If there is no run, or they cannot be compared.
    """
    if not runs:
        raise ConfigError("a table of scores needs at least one run, got none")
    columns = [_column(run) for run in runs.values()]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    rows = [_row(label, [column.get(label) for column in columns]) for label in labels]
    if len(runs) > 1:
        pairs = list(compare_runs(runs).values())
        tests = [pair for pair in pairs if pair.p_value is not None]
        count = str(pairs[0].difference.count)
        changes = [f"{100 * p.difference.value:+.1f} ({_span(p.difference)})" for p in pairs]
        rows.append((f"{pairs[0].preset}: difference", count, "-", *changes))
        if len(tests) == len(pairs):
            values = [f"{pair.p_value:.3g}" for pair in tests]
            rows.append((f"{pairs[0].preset}: McNemar's p", count, "-", *values))
    return Table(("", "n", *runs), tuple(rows))


def _column(run: Scores) -> dict[str, Estimate]:
    sections = {f"{run.preset}: {part.measure}, {part.name}": part.score for part in run.sections()}
    return sections | {
        f"{run.preset}: {name}, open": mean for name, mean in run.overlaps().items() if mean.count
    }


def _row(label: str, means: list[Estimate | None]) -> tuple[str, ...]:
    counts = dict.fromkeys(str(mean.count) for mean in means if mean)
    return (label, " / ".join(counts), *(mean.percent() if mean else "-" for mean in means))


def _span(mean: Estimate) -> str:
    return f"{100 * mean.low:+.1f} to {100 * mean.high:+.1f}"
