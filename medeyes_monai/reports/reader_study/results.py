"""The results of a reader study as tables in Markdown, JSON, and a plot."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medeyes_monai.io import write_atomic
from medeyes_monai.metrics import Table
from medeyes_monai.metrics.intervals import Estimate
from medeyes_monai.reports.reader_study.findings import Effect, StudyResults

__all__ = ["results_figure", "results_markdown", "write_results"]

SHOWN, HIDDEN = "#0072B2", "#D55E00"
"""Blue and vermilion of Okabe and Ito's palette, told apart by every kind of colour vision."""
UNKNOWN = "-"
SHARES = ("accuracy", "undecided")
"""What is given in percent."""
NOTES = (
    "Values stand with their 95 % bootstrap interval. Accuracy: the reader takes a right answer for right or "
    "a wrong one for wrong; an undecided reader counts as not accurate. Confidence, trust and usefulness are "
    "from 1 to 5.",
    "Difference over items: each item's mean with looks less its mean without, by different readers; the "
    "interval resamples items and speaks of these readers only. Difference over readers: the same within "
    "each reader, over different items; the interval resamples readers and is of little worth for few.",
    "Agreement: the number is that of units with enough ratings. Fleiss' kappa takes only those with the "
    "largest number of ratings; alpha takes all with two or more. Intervals resample units. Judgements are "
    "right, wrong or undecided; other ratings are ordinal.",
)


def write_results(folder: str | Path, results: StudyResults) -> None:
    """Write ``results.md``, ``results.json`` and ``results.png``; the folder is made."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    plain = json.dumps(results.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(target / "results.json", plain.encode("utf-8", errors="replace"))
    write_atomic(target / "results.md", results_markdown(results).encode("utf-8", errors="replace"))
    buffer = io.BytesIO()
    results_figure(results).savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(target / "results.png", buffer.getvalue())


def results_markdown(results: StudyResults) -> str:
    """Return the results as a page of Markdown."""
    tables = {
        f"Answers to {results.items} items": _states(results),
        "Effect of seeing the looks": _effects(results.effects),
        "Usefulness of looks": _usefulness(results),
        "Agreement": _agreement(results.agreement),
    }
    parts = ["# Reader study", *NOTES]
    for heading, table in tables.items():
        parts += [f"## {heading}", table.markdown()]
    return "\n\n".join(parts) + "\n"


def results_figure(results: StudyResults) -> Figure:
    """Draw accuracy, confidence and trust with and without looks, and how useful looks were."""
    figure = Figure(figsize=(10.5, 3.6), dpi=130, layout="constrained")
    axes = figure.subplots(1, 4)
    for ax, name in zip(axes, ("accuracy", "confidence", "trust"), strict=False):
        _draw_effect(ax, results.effects[name], name)
    _draw_usefulness(axes[3], results)
    figure.supxlabel(
        "thin lines: readers; squares: means with their 95 % interval", fontsize=8, x=0.01, ha="left"
    )
    return figure


def _states(results: StudyResults) -> Table:
    rows = [
        (reader, *(str(counts[state]) for state in ("rated", "left", "open")))
        for reader, counts in results.states.items()
    ]
    return Table(("reader", "rated in full", "left without, and said so", "not rated"), tuple(rows))


def _effects(effects: Mapping[str, Effect]) -> Table:
    rows = []
    for name, effect in effects.items():
        percent = name.startswith(SHARES)
        values = (effect.shown, effect.hidden)
        changes = (effect.over_items, effect.over_readers)
        rows.append(
            (
                f"{name} (%)" if percent else name,
                *(_text(value, percent) for value in values),
                *(f"{_text(change, percent, signed=True)}, n = {change.count}" for change in changes),
            )
        )
    header = ("", "with looks", "without", "difference over items", "difference over readers")
    return Table(header, tuple(rows))


def _usefulness(results: StudyResults) -> Table:
    useful = results.usefulness
    named = {f"look {number}": mean for number, mean in useful.by_look.items()}
    named |= {"model right": useful.right, "model wrong": useful.wrong}
    return Table(
        ("", "ratings", "mean"), tuple((name, str(v.count), _text(v, False)) for name, v in named.items())
    )


def _agreement(agreement: Mapping[str, Estimate]) -> Table:
    rows = [(name, str(value.count), _text(value, False)) for name, value in agreement.items()]
    return Table(("", "units", "value"), tuple(rows))


def _text(value: Estimate, percent: bool, signed: bool = False) -> str:
    if math.isnan(value.value):
        return UNKNOWN
    factor, digits = (100, 1) if percent else (1, 2)
    sign = "+" if signed else ""
    middle, low, high = (f"{factor * v:{sign}.{digits}f}" for v in (value.value, value.low, value.high))
    return f"{middle} ({low} to {high})"


def _draw_effect(ax: Axes, effect: Effect, name: str) -> None:
    """Draw a thin line for each reader and a thick point with its interval for all."""
    factor = 100 if name == "accuracy" else 1
    for with_looks, without in effect.readers.values():
        ax.plot((0, 1), (factor * without, factor * with_looks), color="0.6", marker="o", ms=3, lw=1)
    for place, mean, colour in ((0, effect.hidden, HIDDEN), (1, effect.shown, SHOWN)):
        _draw_mean(ax, place, mean, colour, factor)
    ax.set_xticks((0, 1), ("without\nlooks", "with\nlooks"))
    ax.set(title=f"{name} (%)" if factor == 100 else name, xlim=(-0.5, 1.5))
    ax.set_ylim(*((-3, 103) if factor == 100 else (0.9, 5.1)))
    ax.spines[["top", "right"]].set_visible(False)
    change = effect.over_items
    if not math.isnan(change.value):
        ax.set_xlabel(f"difference over items\n{_text(change, factor == 100, signed=True)}", fontsize=8)


def _draw_usefulness(ax: Axes, results: StudyResults) -> None:
    means = results.usefulness.by_look
    for number, mean in means.items():
        _draw_mean(ax, number, mean, SHOWN, 1)
    ax.set_xticks(list(means))
    ax.set(title="usefulness of looks", xlabel="look", ylim=(0.9, 5.1))
    ax.set_xlim(0.5, max(means, default=1) + 0.5)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_mean(ax: Axes, place: float, mean: Estimate, colour: str, factor: float) -> None:
    if math.isnan(mean.value):
        return
    ends = factor * np.array([[mean.value - mean.low], [mean.high - mean.value]])
    ax.errorbar(
        [place], [factor * mean.value], yerr=ends.clip(0), color=colour, marker="s", ms=7, capsize=4, lw=2
    )
