"""Plots of the ablation: bars with every seed, learning curves, and gain against the starting accuracy."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablation.tables import Line, blocks_of, rows_of
from medeyes_monai.io.atomic import write_atomic

__all__ = ["draw"]

BLUE, VERMILION, GREY, LIGHT = "#0072B2", "#D55E00", "#4D4D4D", "#B8B8B8"
"""Of Okabe and Ito's palette, told apart by every kind of colour vision, and greys."""
SERIES = {"test": BLUE, "ood": VERMILION}
COLUMNS = 4
PANEL_INCHES = (2.7, 2.0)
ROW_INCHES = 0.42
MARKERS = "osD^vP*X"

Rows = Mapping[str, Mapping[int, Line]]


def draw(lines: Sequence[Line], folder: Path) -> list[Path]:
    """Draw each block, and the warm starts where there are some; return what was written."""
    rows, written = rows_of(lines), []
    for block, names in blocks_of(lines).items():
        written.append(_save(_bars(block, names, rows), folder / f"bars_{block}.png"))
        written.append(_save(_curves(block, names, rows), folder / f"curves_{block}.png"))
    starts = [name for name, by_seed in rows.items() if next(iter(by_seed.values()))["warm_start"]]
    if starts:
        written.append(_save(_gains(starts, rows), folder / "gain_by_start.png"))
    return written


def _save(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())
    return path


def _bars(block: str, names: Sequence[str], rows: Rows) -> Figure:
    """Draw the mean of each row as a bar and each seed as a point, in distribution and out of it."""
    figure = Figure(figsize=(7.0, 1.3 + ROW_INCHES * len(names)), dpi=120, layout="constrained")
    ax = figure.subplots()
    for n, name in enumerate(names):
        for shift, (series, colour) in zip((-0.19, 0.19), SERIES.items(), strict=True):
            values = [100 * line["accuracy"][series] for line in rows[name].values()]
            label = "in distribution" if series == "test" else "out of distribution"
            ax.barh(
                n + shift,
                fmean(values),
                height=0.36,
                color=colour,
                alpha=0.55,
                label=label if n == 0 else None,
            )
            ax.plot(values, [n + shift] * len(values), "o", color=GREY, markersize=3.5, markeredgewidth=0)
        starts = [100 * line["accuracy"]["start"] for line in rows[name].values()]
        ax.plot(
            [fmean(starts)] * 2,
            [n - 0.4, n + 0.4],
            color="black",
            linewidth=1.2,
            label="warm start, in distribution" if n == 0 else None,
        )
    ax.set_yticks(range(len(names)), [_label(rows[name]) for name in names])
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.set_xlim(0, 100)
    _dress(ax, "accuracy where looking is needed [%]; points are seeds", "")
    figure.suptitle(block.replace("_", " "), fontsize=10)
    figure.legend(loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure


def _curves(block: str, names: Sequence[str], rows: Rows) -> Figure:
    """Draw a panel for each row: every seed thin, their mean bold, the reference's mean in grey behind."""
    columns = min(COLUMNS, len(names))
    high = -(-len(names) // columns)
    size = (columns * PANEL_INCHES[0], high * PANEL_INCHES[1] + 0.5)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.subplots(high, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for ax, name in zip(axes, names, strict=False):
        line = next(iter(rows[name].values()))
        if line["reference"] in rows:
            ax.plot(*_mean_curve(rows[line["reference"]]), color=LIGHT, linewidth=2.5)
        for one in rows[name].values():
            ax.plot(*_curve(one), color=BLUE, linewidth=0.7, alpha=0.4)
        ax.plot(*_mean_curve(rows[name]), color=BLUE, linewidth=1.8)
        ax.set_title(_label(rows[name]), fontsize=8, loc="left")
        _dress(ax, "", "")
    for ax in axes[len(names) :]:
        ax.remove()
    for ax in axes[max(0, len(names) - columns) : len(names)]:
        ax.tick_params(labelbottom=True)
    figure.supxlabel("update (grey: the reference; thin: seeds)", fontsize=8)
    figure.supylabel("validation accuracy [%]", fontsize=8)
    figure.suptitle(block.replace("_", " "), fontsize=10)
    return figure


def _curve(line: Line) -> tuple[list[float], list[float]]:
    return [update for update, _ in line["validation"]], [100 * value for _, value in line["validation"]]


def _mean_curve(by_seed: Mapping[int, Line]) -> tuple[list[float], list[float]]:
    """Return the mean over seeds at each update that all of them have."""
    points: dict[float, list[float]] = {}
    for line in by_seed.values():
        for update, value in zip(*_curve(line), strict=True):
            points.setdefault(update, []).append(value)
    whole = {update: fmean(some) for update, some in sorted(points.items()) if len(some) == len(by_seed)}
    return list(whole), list(whole.values())


def _gains(names: Sequence[str], rows: Rows) -> Figure:
    """Draw what training adds against where it began: a point for each seed, a line through the means."""
    figure = Figure(figsize=(5.2, 3.6), dpi=120, layout="constrained")
    ax = figure.subplots()
    methods: dict[str, list[str]] = {}
    for name in names:
        methods.setdefault(name.rpartition(".")[0], []).append(name)
    for n, (method, variants) in enumerate(methods.items()):
        colour = (BLUE, VERMILION, GREY)[n % 3]
        means = sorted((fmean(_starts(rows[v])), fmean(_gain(rows[v]))) for v in variants)
        label = _label(rows[variants[0]]).rpartition(":")[0] or method
        ax.plot(*zip(*means, strict=True), "-", color=colour, linewidth=1.5, label=label)
        for variant in variants:
            ax.plot(
                _starts(rows[variant]), _gain(rows[variant]), MARKERS[n % 8], color=colour, markersize=4.5
            )
    ax.axhline(0, color=GREY, linewidth=0.8)
    _dress(ax, "accuracy of the warm start [%]", "gain by training [points]")
    ax.legend(fontsize=8, frameon=False)
    return figure


def _starts(by_seed: Mapping[int, Line]) -> list[float]:
    return [100 * line["accuracy"]["start"] for line in by_seed.values()]


def _gain(by_seed: Mapping[int, Line]) -> list[float]:
    return [100 * (line["accuracy"]["test"] - line["accuracy"]["start"]) for line in by_seed.values()]


def _label(by_seed: Mapping[int, Line]) -> str:
    return str(next(iter(by_seed.values()))["label"])


def _dress(ax: Axes, below: str, beside: str) -> None:
    ax.set_xlabel(below, fontsize=8)
    ax.set_ylabel(beside, fontsize=8)
    ax.tick_params(labelsize=7)
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
