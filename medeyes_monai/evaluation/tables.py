"""The figures of a run as tables, by their captions."""

from __future__ import annotations

import math
from collections.abc import Mapping

from medeyes_monai.evaluation.abstention import Abstention
from medeyes_monai.evaluation.measures import Measured
from medeyes_monai.metrics import (
    Calibration,
    Estimate,
    Laterality,
    Selection,
    Share,
    Table,
    faithfulness_table,
    look_gain_table,
    look_table,
    score_table,
)

__all__ = ["markdown_of", "tables_of"]


def tables_of(found: Measured) -> dict[str, Table]:
    """Return all figures of a run as tables by their captions, in percent with 95 % intervals."""
    tables = {"Counts": _counts(found), "Answers": _answers(found), "Answers by family": _families(found)}
    if found.grounding is not None:
        tables["Looks against what is marked"] = _figures(found.grounding.figures, percent=True)
    if found.sought is not None:
        tables["Looks against what is sought, without what looks like it"] = _figures(
            found.sought.figures, percent=True
        )
    tables["How looks go on"] = _figures(found.progression.figures, percent=False)
    tables["Answers given within so many looks"] = look_table(found.curve)
    if found.gains:
        tables["How probable the reference answer is before and after a look"] = look_gain_table(
            found.gains, found.grey_gains
        )
    if found.changes:
        tables["Was looking real"] = faithfulness_table(found.changes)
    if found.laterality is not None:
        tables["Sides in the mirror"] = _laterality(found.laterality)
    if found.calibration is not None and found.abstention is not None:
        tables["Calibration"] = _calibration(found.calibration)
        tables["Unsure answers withheld"] = _abstention(found.abstention)
    return tables


def markdown_of(tables: Mapping[str, Table], notes: tuple[str, ...] = ()) -> str:
    """Return tables as Markdown, each under its caption."""
    parts = [f"## {caption}\n\n{table.markdown()}\n" for caption, table in tables.items()]
    return "\n".join([*parts, *(f"- {note}\n" for note in notes)])


def _counts(found: Measured) -> Table:
    counts = found.counts
    rows = [
        (name, str(counts[name])) for name in ("questions", "images", "answered", "looked") if name in counts
    ]
    rows += [("looks per question", f"{counts['looks']:.2f}"), ("seconds", f"{counts['seconds']:.1f}")]
    rows += [(f"defect: {name}", str(number)) for name, number in counts["defects"].items()]
    return Table(("", "n"), tuple(rows))


def _answers(found: Measured) -> Table:
    tables = [score_table({"score": scores}) for scores in found.scores.values()]
    return Table(tables[0].header, tuple(row for table in tables for row in table.rows))


def _families(found: Measured) -> Table:
    whole = {"all": Share.pooled(found.families.values())}
    shares = whole | dict(found.families)
    rows = [(name, str(share.count), share.percent()) for name, share in shares.items()]
    if found.majority is None:
        return Table(("family", "n", "right"), tuple(rows))
    always = {"all": Share.pooled(found.majority.values())} | dict(found.majority)
    return Table(
        ("family", "n", "right", "majority answer"),
        tuple((*row, always[name].percent()) for row, name in zip(rows, shares, strict=True)),
    )


def _figures(figures: Mapping[str, Estimate], *, percent: bool) -> Table:
    rows = [
        (name.replace("_", " "), str(mean.count), mean.percent() if percent else _plain(mean))
        for name, mean in figures.items()
    ]
    return Table(("", "n", "mean"), tuple(rows))


def _laterality(sides: Laterality) -> Table:
    shares = {"names the other side": sides.followed, "stays as it was": sides.stuck}
    rows = [(name, str(share.count), share.percent()) for name, share in shares.items()]
    return Table(("answers that name a side", "n", "share"), tuple(rows))


def _calibration(found: Calibration) -> Table:
    figures = {
        "mean confidence": float(found.confidence.mean()),
        "accuracy": float(found.right.mean()),
        "expected calibration error": found.ece,
        "Brier score": found.brier,
        "area under the risk-coverage curve": found.aurc,
    }
    rows = [(name, str(found.count), f"{value:.3f}") for name, value in figures.items()]
    return Table(("", "n", "value"), tuple(rows))


def _abstention(found: Abstention) -> Table:
    rows = [("the same answers", *_selection(found.whole))]
    rows += [("the other half of the images", *_selection(half)) for half in found.halves]
    header = (
        f"threshold for a risk of {100 * found.risk:g} %, chosen on",
        "n",
        "threshold",
        "answers given",
        "wrong of these",
    )
    return Table(header, tuple(rows))


def _selection(kept: Selection) -> tuple[str, str, str, str]:
    threshold = f"{kept.threshold:.3f}" if math.isfinite(kept.threshold) else "none"
    risk = "-" if math.isnan(kept.risk) else f"{100 * kept.risk:.1f}"
    return str(kept.count), threshold, f"{100 * kept.coverage:.1f}", risk


def _plain(mean: Estimate) -> str:
    return f"{mean.value:.2f} ({mean.low:.2f}-{mean.high:.2f})" if mean.count else "-"
