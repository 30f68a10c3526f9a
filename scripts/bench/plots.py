"""The plot of a benchmark: a panel for each size that a figure was measured over."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from bench.results import Line
from medeyes_monai.io.atomic import write_atomic

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#4D4D4D"
"""Of Okabe and Ito's palette, told apart by every kind of colour vision."""
AXES = {
    "draws": ("draws of one question", "rollout [s]"),
    "turns": ("turns", "rollout [s]"),
    "side": ("side of each picture [px]", "rollout [s]"),
    "tokens": ("tokens of a turn", "rollout [s]"),
    "episodes": ("episodes scored in one pass", "peak resident memory [GiB]"),
}
COLUMNS = 3
PANEL_INCHES = (3.6, 2.5)
RATIO_INCHES = 0.28
"""Height of a bar with its gap."""


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw what was measured over sizes, and below it the ratios against their targets."""
    series = {name: [line for line in lines if line.detail.get("axis") == name] for name in AXES}
    series = {name: some for name, some in series.items() if some}
    ratios = [line for line in lines if line.target is not None]
    rows = -(-len(series) // COLUMNS)
    heights = [PANEL_INCHES[1]] * rows + ([0.7 + RATIO_INCHES * len(ratios)] if ratios else [])
    if not heights:
        return
    figure = Figure(figsize=(COLUMNS * PANEL_INCHES[0], sum(heights)), dpi=120)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    some = list(series.items())
    for row in range(rows):
        axes = parts[row].subplots(1, COLUMNS)
        parts[row].subplots_adjust(left=0.07, right=0.98, top=0.95, bottom=0.19, wspace=0.28)
        for number, ax in enumerate(axes, start=row * COLUMNS):
            if number < len(some):
                _scaling(ax, *some[number])
            else:
                ax.remove()
    if ratios:
        _ratios(parts[-1].subplots(), ratios)
        parts[-1].subplots_adjust(left=0.48, right=0.98, top=1 - 0.1 / heights[-1], bottom=0.5 / heights[-1])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def _scaling(ax: Axes, name: str, lines: Sequence[Line]) -> None:
    """Draw medians and every repeat; times on logarithmic axes, on which proportion is a straight line."""
    at = [line.detail["at"] for line in lines]
    ax.plot(at, [line.value for line in lines], "-o", color=BLUE, linewidth=1.5, markersize=4)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(at))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(_plain)
    if name == "episodes":
        top = [line.value for line in lines] + [line.target[1] for line in lines if line.target]
        ax.set_ylim(0, 1.2 * max(top))
        for sense, limit in (line.target for line in lines if line.target):
            ax.axhline(limit, color=VERMILION, linewidth=1, label=f"target {sense} {limit:g}")
    else:
        for line in lines:
            repeats = line.seconds["ours"]
            ax.plot([line.detail["at"]] * len(repeats), repeats, ".", color=BLUE, alpha=0.35, markersize=4)
        proportion = [lines[0].value * x / at[0] for x in at]
        ax.plot(at, proportion, "--", color=GREY, linewidth=0.9, label="in proportion")
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter(_plain)
    _dress(ax, *AXES[name])
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=7, frameon=False, loc="best")


def _plain(value: float, place: float | None = None) -> str:
    return f"{value:.3g}"


def _ratios(ax: Axes, lines: Sequence[Line]) -> None:
    """Draw by which factor each figure is better than its target; right of the line the target is met."""
    margins = [
        line.value / line.target[1] if line.target[0] == ">=" else line.target[1] / line.value
        for line in lines
        if line.target is not None
    ]
    places = range(len(lines))
    ax.barh(places, margins, color=[BLUE if m >= 1 else VERMILION for m in margins], height=0.6)
    ax.axvline(1, color=GREY, linewidth=1)
    ax.set_yticks(list(places), [line.name.replace(" that reads all again each turn", "") for line in lines])
    ax.set_ylim(len(lines) - 0.4, -0.6)
    _dress(ax, "times better than the target", "")


def _dress(ax: Axes, below: str, beside: str) -> None:
    ax.set_xlabel(below, fontsize=8)
    ax.set_ylabel(beside, fontsize=8)
    ax.tick_params(labelsize=7)
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
