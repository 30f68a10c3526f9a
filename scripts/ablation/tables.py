"""Tables of the ablation: mean, spread over seeds, and paired differences to the row of reference."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t

from ablation.results import SHARE_OF_FINAL, updates_to

__all__ = ["Paired", "Spread", "blocks_of", "markdown", "paired", "rows_of", "spread"]

Line = Mapping[str, Any]
HEADS = (
    *("row", "seeds", "test", "ood", "blanked", "format", "looks", "gaze hit", "gaze IoU"),
    *("updates to 0.9", "to 0.9 of reference", "minutes", "test to reference", "ood to reference"),
)
NOTE = (
    "Accuracy in percent over the families that need looking: mean ± standard deviation over seeds. "
    "Differences are to the same seed of the reference, in points: mean, in round brackets the 95 % interval "
    "of the mean (t distribution over seeds), in square brackets each seed. *Updates to 0.9*: the first "
    "validated update with 0.9 of the run's own last validation accuracy, and of that of the reference's run "
    "(- where it was not reached); validated between updates, so no finer than their distance."
)


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation over seeds; NaN of a single one."""

    mean: float
    deviation: float


@dataclass(frozen=True, slots=True)
class Paired:
    """Differences to the reference by seed, their mean and its 95 % interval; NaN of a single seed."""

    by_seed: Mapping[int, float]
    mean: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return mean and spread.

    Example:
        >>> spread([1.0, 2.0, 3.0])
        Spread(mean=2.0, deviation=1.0)
    """
    return Spread(fmean(values), stdev(values) if len(values) > 1 else math.nan)


def paired(own: Mapping[int, float], reference: Mapping[int, float]) -> Paired | None:
    """Compare values by seed; None where no seed is in both.

    Example:
        >>> result = paired({0: 0.5, 1: 0.9, 2: 0.4}, {0: 0.4, 1: 0.7})
        >>> round(result.mean, 3), round(result.low, 3), round(result.high, 3)  # 0.15 ± 12.706 * 0.05
        (0.15, -0.485, 0.785)
    """
    by_seed = {seed: own[seed] - reference[seed] for seed in sorted(own.keys() & reference.keys())}
    if not by_seed:
        return None
    values = spread(list(by_seed.values()))
    half = float(t.ppf(0.975, max(1, len(by_seed) - 1))) * values.deviation / math.sqrt(len(by_seed))
    return Paired(by_seed, values.mean, values.mean - half, values.mean + half)


def rows_of(lines: Iterable[Line]) -> dict[str, dict[int, Line]]:
    """Return the lines of each row by seed, rows in the order in which they first occur."""
    rows: dict[str, dict[int, Line]] = {}
    for line in lines:
        rows.setdefault(line["row"], {})[line["seed"]] = line
    return rows


def blocks_of(lines: Sequence[Line]) -> dict[str, list[str]]:
    """Return the rows of each block, with the row of reference in front where it belongs to another block.

    A block of which nothing was run, only rows that share the runs of another block's, is left out.
    """
    blocks: dict[str, list[str]] = {}
    rows = rows_of(lines)
    was_run = {line["block"] for line in lines if line["run"] == line["row"]}
    for name, by_seed in rows.items():
        line = next(iter(by_seed.values()))
        if line["block"] not in was_run:
            continue
        shown = blocks.setdefault(line["block"], [])
        if line["reference"] in rows and line["reference"] not in shown:
            shown.insert(0, line["reference"])
        if name not in shown:
            shown.append(name)
    return blocks


def markdown(lines: Sequence[Line]) -> str:
    """Return a table for each block."""
    rows = rows_of(lines)
    parts = ["# Ablation", NOTE]
    for block, names in blocks_of(lines).items():
        body = [_cells(rows[name], rows) for name in names]
        table = [HEADS, ["---"] * len(HEADS), *body]
        parts += [f"## {block}", "\n".join(f"| {' | '.join(cells)} |" for cells in table)]
    return "\n\n".join([*parts, *_machines(lines)]) + "\n"


def _cells(by_seed: Mapping[int, Line], rows: Mapping[str, Mapping[int, Line]]) -> list[str]:
    lines = list(by_seed.values())
    reference = rows.get(lines[0]["reference"], {})
    trained = [line["evaluations"]["test"] for line in lines]
    targets = {seed: SHARE_OF_FINAL * line["validation"][-1][1] for seed, line in reference.items()}
    reached = [
        updates_to(line["validation"], targets[seed]) for seed, line in by_seed.items() if seed in targets
    ]
    return [
        lines[0]["label"],
        ", ".join(str(seed) for seed in sorted(by_seed)),
        *(_percent([line["accuracy"][name] for line in lines]) for name in ("test", "ood", "blanked")),
        _percent([one["format"]["value"] for one in trained]),
        _number([one["looks"] for one in trained]),
        _percent([one["gaze_hit"]["value"] for one in trained]),
        _number([one["gaze_iou"] for one in trained]),
        _updates([line["updates_to_90"] for line in lines]),
        _updates(reached),
        f"{fmean(line['seconds'] for line in lines) / 60:.1f}",
        *(_difference(paired(_values(by_seed, name), _values(reference, name))) for name in ("test", "ood")),
    ]


def _values(by_seed: Mapping[int, Line], name: str) -> dict[int, float]:
    return {seed: line["accuracy"][name] for seed, line in by_seed.items()}


def _percent(values: Sequence[float | None]) -> str:
    return _number([None if value is None else 100 * value for value in values], 1)


def _number(values: Sequence[float | None], digits: int = 2) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    over = spread(known)
    tail = "" if math.isnan(over.deviation) else f" ± {over.deviation:.{digits}f}"
    return f"{over.mean:.{digits}f}{tail}"


def _updates(values: Sequence[int | None]) -> str:
    return ", ".join("-" if value is None else str(value) for value in values)


def _difference(result: Paired | None) -> str:
    if result is None:
        return ""
    each = ", ".join(f"{100 * value:+.1f}" for value in result.by_seed.values())
    if math.isnan(result.low):
        return f"{100 * result.mean:+.1f}"
    return f"{100 * result.mean:+.1f} ({100 * result.low:+.1f} to {100 * result.high:+.1f}) [{each}]"


def _machines(lines: Sequence[Line]) -> list[str]:
    """Say with what the lines were measured: one paragraph for each machine and set of versions."""
    runs = {(line["run"], line["seed"]): line["machine"] for line in lines}.values()
    told = [", ".join(f"{name} {value}" for name, value in machine.items()) for machine in runs]
    return [f"Runs: {told.count(text)}; {text}." for text in dict.fromkeys(told)]
