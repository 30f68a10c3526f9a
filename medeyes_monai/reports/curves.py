"""Curves of a training run: one small panel for each diagnostic, the two streams in one panel."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medeyes_monai.errors import ConfigError

__all__ = ["curves_png", "panels_of", "read_records"]

STREAM_COLOURS = {"policy": "#0072B2", "expert": "#D55E00"}
"""Blue and vermilion of Okabe and Ito's palette, told apart by every kind of colour vision."""
OTHER_COLOUR = "#4D4D4D"
COLUMNS = 4
PANEL_INCHES = (3.1, 1.9)
SMOOTHED_FROM = 20
"""Steps from which a running mean is drawn over the single values."""

Panels = dict[str, dict[str, npt.NDArray[np.float64]]]


def read_records(path: Path) -> list[dict[str, float]]:
    """Read diagnostics, one JSON object of names and numbers in each line.

    Raises:
        ConfigError: If the file is missing, or a line is not such an object.
    """
    if not path.is_file():
        raise ConfigError(
            f"{path.name}: no such file of training diagnostics; train first, or name the run's folder"
        )
    records = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            records.append({str(name): float(value) for name, value in record.items() if value is not None})
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path.name}, line {number}: wanted one JSON object of numbers") from error
    return records


def panels_of(records: Sequence[Mapping[str, float]]) -> Panels:
    """Sort diagnostics into panels: ``policy/x`` and ``expert/x`` share panel ``x``, others have their own.

    Args:
        records: One mapping for each step; ``step`` is its number, else they are counted from 1. Of a step
            that was logged again after a resume, the last values count.

    Returns:
        For each panel, rewards first, the series by stream (or ``""``). Each is ``[2, points]``: steps and
        values, without the steps that lack a finite value. Kinds of defects that never occurred have none.

    Example:
        >>> panels = panels_of([{"gradient_cosine": 0.1, "policy/reward": 0.5, "expert/reward": 0.9}])
        >>> {name: sorted(series) for name, series in panels.items()}
        {'reward': ['expert', 'policy'], 'gradient_cosine': ['']}
    """
    points: dict[str, dict[str, dict[float, float]]] = {}
    for number, record in enumerate(records, start=1):
        step = record.get("step", number)
        for name, value in record.items():
            if name == "step" or not math.isfinite(value):
                continue
            head, slash, rest = name.partition("/")
            stream, panel = (head, rest) if slash and head in STREAM_COLOURS else ("", name)
            points.setdefault(panel, {}).setdefault(stream, {})[float(step)] = float(value)
    names = sorted(
        (name for name in points if not name.startswith("defect/") or _any_above_zero(points[name])),
        key=lambda name: not name.startswith("reward"),
    )
    return {
        name: {stream: np.array(sorted(values.items())).T for stream, values in points[name].items()}
        for name in names
    }


def _any_above_zero(series: Mapping[str, Mapping[float, float]]) -> bool:
    return any(value > 0 for values in series.values() for value in values.values())


def curves_png(records: Sequence[Mapping[str, float]], title: str = "") -> bytes:
    """Draw the diagnostics of a run.

    Args:
        records: One mapping of names to numbers for each step, see :func:`panels_of`.
        title: Text above the panels.

    Returns:
        A PNG file.

    Raises:
        ConfigError: If there is nothing to draw.
    """
    panels = panels_of(records)
    if not panels:
        raise ConfigError("there are no diagnostics to draw; train at least one step")
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(
        figsize=(columns * PANEL_INCHES[0], rows * PANEL_INCHES[1] + 0.7), dpi=100, layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for ax, (name, series) in zip(axes, panels.items(), strict=False):
        _draw_panel(ax, name, series)
    for ax in axes[len(panels) :]:
        ax.remove()
    for ax in axes[max(0, len(panels) - columns) : len(panels)]:
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("step", fontsize=8)
    figure.suptitle(title, fontsize=11, parse_math=False)
    handles = {label: line for ax in axes[: len(panels)] for line, label in _labelled(ax)}
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper right", ncols=3, fontsize=8, frameon=False
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_panel(ax: Any, name: str, series: Mapping[str, npt.NDArray[np.float64]]) -> None:
    for stream in sorted(
        series, reverse=True
    ):  # the dashed expert stream last, so that both show where they meet
        steps, values = series[stream]
        colour = STREAM_COLOURS.get(stream, OTHER_COLOUR)
        label = f"{stream} stream" if stream else "overall" if len(series) > 1 else None
        style = "--" if stream == "expert" else "-"
        if len(steps) < SMOOTHED_FROM:
            ax.plot(steps, values, style, color=colour, linewidth=1.5, marker=".", markersize=4, label=label)
        else:
            ax.plot(steps, values, "-", color=colour, linewidth=0.7, alpha=0.3)
            ax.plot(steps, _running_mean(values), style, color=colour, linewidth=1.8, label=label)
    ax.set_title(name.replace("_", " "), fontsize=9, loc="left", parse_math=False)
    ax.tick_params(labelsize=7)
    ax.yaxis.get_offset_text().set_fontsize(7)
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    low, high = ax.get_ylim()
    if low < 0 < high:
        ax.axhline(0, color="#888888", linewidth=0.8)


def _running_mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over a window centred on each step, a tenth of the run wide, shorter at the ends."""
    half = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    centre = np.arange(len(values))
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half + 1, len(values))
    mean: npt.NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return mean


def _labelled(ax: Any) -> list[tuple[Any, str]]:
    return list(zip(*ax.get_legend_handles_labels(), strict=True))
