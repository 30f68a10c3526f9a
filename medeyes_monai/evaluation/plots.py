"""The figures of a run as pictures: answers, looks, faithfulness and calibration."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from medeyes_monai.evaluation.abstention import Abstention
from medeyes_monai.evaluation.measures import Measured
from medeyes_monai.metrics import Calibration, Change, Estimate, Grounding, LookGain, LookStep, Share

__all__ = ["plots_png"]

COLOUR, OTHER = "#0072B2", "#D55E00"
"""Blue and vermilion of Okabe and Ito's palette."""
PANEL_INCHES = (4.2, 3.2)
MOST_FAMILIES = 14


def plots_png(found: Measured) -> bytes:
    """Draw the figures of a run, one panel for each thing that was measured; returns a PNG file."""
    panels: list[Callable[[Any], None]] = [
        lambda ax: _families(ax, found.families, found.majority),
        lambda ax: _by_looks(ax, found.curve, found.grounding),
    ]
    if found.gains:
        panels.append(lambda ax: _gains(ax, found.gains))
    if found.changes:
        panels.append(lambda ax: _changes(ax, found.changes))
    sure, withheld = found.calibration, found.abstention
    if sure is not None and withheld is not None:
        panels.append(lambda ax: _reliability(ax, sure))
        panels.append(lambda ax: _risk_coverage(ax, sure, withheld))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(
        figsize=(columns * PANEL_INCHES[0], rows * PANEL_INCHES[1]), dpi=100, layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, draw in zip(axes, panels, strict=False):
        draw(ax)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[len(panels) :]:
        ax.remove()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _families(ax: Any, families: Mapping[str, Share], majority: Mapping[str, Share] | None) -> None:
    most = sorted(families, key=lambda name: (-families[name].count, name))[:MOST_FAMILIES]
    names = sorted(most, reverse=True)
    places = range(len(names))
    ax.barh(places, [100 * families[name].value for name in names], color=COLOUR, height=0.6)
    ax.errorbar(
        [100 * families[name].value for name in names],
        places,
        xerr=_reach([(families[n].value, *families[n].interval) for n in names]),
        fmt="none",
        ecolor="#333333",
        linewidth=1,
    )
    if majority is not None:
        values = [100 * majority[name].value for name in names]
        ax.plot(values, places, "D", color=OTHER, markersize=5, label="majority answer")
        ax.legend(fontsize=7, frameon=False, loc="lower right")
    ax.set_yticks(places, [name[:24] for name in names], parse_math=False)
    ax.set_xlim(0, 100)
    _title(ax, "right answers by family", "percent, 95 % interval")


def _by_looks(ax: Any, curve: tuple[LookStep, ...], grounding: Grounding | None) -> None:
    _line(ax, [step.looks for step in curve], [step.score for step in curve], COLOUR, "score, looks cut at k")
    if grounding is not None:
        hits = {int(name[4:]): mean for name, mean in grounding.figures.items() if name.startswith("hit@")}
        _line(ax, list(hits), list(hits.values()), OTHER, "hit at k looks", "--")
    ax.set_ylim(0, 100)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(fontsize=7, frameon=False, loc="best")
    _title(ax, "answers and hits within k looks", "looks (k)", "percent")


def _gains(ax: Any, gains: tuple[LookGain, ...]) -> None:
    looks = [gain.look for gain in gains]
    for gain in gains:
        ends = [100 * gain.before.value, 100 * gain.after.value]
        ax.plot([gain.look - 0.1, gain.look + 0.1], ends, color="#888888", linewidth=1)
    _line(ax, [k - 0.1 for k in looks], [gain.before for gain in gains], OTHER, "before the look", " ")
    _line(ax, [k + 0.1 for k in looks], [gain.after for gain in gains], COLOUR, "after it", " ")
    ax.set_ylim(0, 103)
    ax.set_xticks(looks, [f"{gain.look}\nn = {gain.gain.count}" for gain in gains])
    ax.legend(fontsize=7, frameon=False, loc="best")
    _title(ax, "reference answer before and after a look", "look", "mean probability, percent")


def _changes(ax: Any, changes: Mapping[str, Change]) -> None:
    names = list(changes)[::-1]
    values = [100 * changes[name].scores.difference.value for name in names]
    means = [changes[name].scores.difference for name in names]
    ax.barh(range(len(names)), values, color=COLOUR, height=0.6)
    ax.errorbar(
        values,
        range(len(names)),
        xerr=_reach([(mean.value, mean.low, mean.high) for mean in means]),
        fmt="none",
        ecolor="#333333",
        linewidth=1,
    )
    ax.axvline(0, color="#333333", linewidth=0.8)
    ax.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    ax.set_ylim(-0.75, max(len(names), 4) - 0.25)
    _title(ax, "score under a condition, less the score as is", "points, 95 % interval")


def _reliability(ax: Any, found: Calibration) -> None:
    filled = [part for part in found.bins if part.count]
    sizes = [20 + 180 * part.count / found.count for part in filled]
    ax.plot([0, 100], [0, 100], color="#888888", linewidth=0.8)
    ax.plot(
        [100 * part.confidence for part in filled], [100 * part.accuracy for part in filled], color=COLOUR
    )
    ax.scatter(
        [100 * part.confidence for part in filled],
        [100 * part.accuracy for part in filled],
        s=sizes,
        color=COLOUR,
    )
    ax.set_xlim(0, 103)
    ax.set_ylim(0, 103)
    _title(ax, f"calibration (ECE {100 * found.ece:.1f})", "confidence, percent", "right, percent")


def _risk_coverage(ax: Any, found: Calibration, withheld: Abstention) -> None:
    ax.plot(100 * found.coverage, 100 * found.risk, color=COLOUR)
    ax.axhline(100 * withheld.risk, color="#888888", linewidth=0.8, linestyle=":")
    tried = [half for half in withheld.halves if half.coverage]
    ax.plot(
        [100 * half.coverage for half in tried],
        [100 * half.risk for half in tried],
        "D",
        color=OTHER,
        markersize=5,
        label=f"threshold for {100 * withheld.risk:g} % from the other half",
    )
    if tried:
        ax.legend(fontsize=7, frameon=False, loc="lower right")
    ax.set_xlim(0, 103)
    ax.set_ylim(bottom=0)
    _title(
        ax, f"risk and coverage (area {found.aurc:.2f})", "answers given, percent", "wrong of these, percent"
    )


def _line(
    ax: Any, at: Sequence[float], means: list[Estimate], colour: str, label: str, style: str = "-"
) -> None:
    values = [100 * mean.value for mean in means]
    ends = _reach([(mean.value, mean.low, mean.high) for mean in means])
    ax.errorbar(
        at, values, yerr=ends, fmt=style, marker="o", markersize=4, color=colour, label=label, capsize=2
    )


def _reach(means: list[tuple[float, float, float]]) -> list[list[float]]:
    """Return how far intervals reach to each side. Unit: percent."""
    return [
        [100 * max(0.0, value - low) for value, low, _ in means],
        [100 * max(0.0, high - value) for value, _, high in means],
    ]


def _title(ax: Any, title: str, x: str, y: str = "") -> None:
    ax.set_title(title, fontsize=9, loc="left")
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
