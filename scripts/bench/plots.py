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
PANEL_INCHES = (3.6, 2.7)


def draw(lines: Sequence[Line], path: Path) -> None:
    """Draw what was measured over sizes, and the ratios against their targets."""
    series = {name: [line for line in lines if line.detail.get("axis") == name] for name in AXES}
    series = {name: some for name, some in series.items() if some}
    ratios = [line for line in lines if line.unit == "x" and line.target is not None]
    panels = len(series) + bool(ratios)
    if not panels:
        return
    columns = min(COLUMNS, panels)
    rows = -(-panels // columns)
    size = (columns * PANEL_INCHES[0], rows * PANEL_INCHES[1])
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, some) in zip(axes, series.items(), strict=False):
        _scaling(ax, name, some)
    if ratios:
        _ratios(axes[len(series)], ratios)
    for ax in axes[panels:]:
        ax.remove()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def _scaling(ax: Axes, name: str, lines: Sequence[Line]) -> None:
    at = [line.detail["at"] for line in lines]
    values = [line.value for line in lines]
    ax.plot(at, values, "-o", color=BLUE, linewidth=1.5, markersize=4)
    for line in lines:
        for some in line.seconds.values() if line.unit == "s" else ():
            ax.plot([line.detail["at"]] * len(some), some, ".", color=BLUE, alpha=0.35, markersize=4)
    ax.plot(at, [values[0] * x / at[0] for x in at], "--", color=GREY, linewidth=0.9, label="in proportion")
    for line in lines:
        if line.target is not None:
            ax.axhline(
                line.target[1],
                color=VERMILION,
                linewidth=1,
                label=f"target {line.target[0]} {line.target[1]:g}",
            )
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(at))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.set_ylim(0, 1.15 * max(*values, *(line.target[1] for line in lines if line.target), 0))
    _dress(ax, *AXES[name])
    ax.legend(fontsize=7, frameon=False, loc="upper left")


def _ratios(ax: Axes, lines: Sequence[Line]) -> None:
    """Draw each ratio as its distance from its target; right of the line is better."""
    margins = [
        line.value / line.target[1] if line.target[0] == ">=" else line.target[1] / line.value
        for line in lines
        if line.target is not None
    ]
    places = range(len(lines))
    ax.barh(places, margins, color=[BLUE if m >= 1 else VERMILION for m in margins], height=0.6)
    ax.axvline(1, color=GREY, linewidth=1)
    ax.set_yticks(list(places), [_short(line.name) for line in lines])
    ax.set_ylim(len(lines) - 0.4, -0.6)
    _dress(ax, "times better than the target", "")


def _short(name: str) -> str:
    words = name.replace(" over generate() that reads all again each turn", "").split(", ")
    text, row = "", ""
    for word in words:
        if len(row) + len(word) > 30:
            text, row = f"{text}{row},\n", ""
        row = f"{row}, {word}" if row else word
    return text + row


def _dress(ax: Axes, below: str, beside: str) -> None:
    ax.set_xlabel(below, fontsize=8)
    ax.set_ylabel(beside, fontsize=8)
    ax.tick_params(labelsize=7)
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
