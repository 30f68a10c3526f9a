"""Evaluations side by side, as a table of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.evaluation import Evaluation
from medeyes_monai.metrics.share import Share, pool_groups

__all__ = ["Table", "compare", "compare_table"]

UNKNOWN = "-"
"""Cell of what is not known."""


@dataclass(frozen=True, slots=True)
class Table:
    """Cells of text under a header.

    Args:
        header: One text for each column.
        rows: One text for each column, row by row.

    Example:
        >>> print(Table(("", "n"), (("all", "12"),)).markdown())
        |     |  n |
        |:----|---:|
        | all | 12 |
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Return the table as Markdown that is also aligned as plain text, numbers to the right."""
        cells = [[_one_line(text) for text in row] for row in (self.header, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for row in cells:
            rest = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("| " + " | ".join([row[0].ljust(widths[0]), *rest]) + " |")
        rule = [":" + "-" * (widths[0] + 1), *("-" * (width + 1) + ":" for width in widths[1:])]
        return "\n".join([lines[0], "|" + "|".join(rule) + "|", *lines[1:]])


def compare(evaluations: Mapping[str, Evaluation], baseline: Mapping[str, Share] | None = None) -> Table:
    """Put evaluations side by side: accuracy by group and family, format, looks, gaze, reward.

    Shares are in percent with their 95 % interval. ``n`` is the number of episodes that a row is about, one
    number for each evaluation where they differ.

    Args:
        evaluations: Evaluations by the name of their column, in order.
        baseline: Shares by family, such as ``majority_accuracy`` returns; makes a column more.

    Raises:
        ConfigError: If there is no evaluation.
    """
    if not evaluations:
        raise ConfigError("a comparison needs at least one evaluation, got none")
    columns = list(evaluations.values())
    always = _accuracies(baseline) if baseline is not None else {}
    accuracies = [_accuracies(ev.families) for ev in columns]
    names = [*dict.fromkeys(name for column in accuracies for name in column)]
    rows = [_share_row(name, [column.get(name) for column in accuracies], always.get(name)) for name in names]
    everyone = [ev.count for ev in columns]
    aimed = [ev.gaze_hit.count for ev in columns]
    rows.append(_share_row("format rate", [ev.format for ev in columns]))
    rows.append(_number_row("looks per episode", [ev.looks for ev in columns], everyone))
    rows.append(_share_row("gaze hit rate", [ev.gaze_hit for ev in columns]))
    rows.append(_number_row("best IoU of a look", [ev.gaze_iou for ev in columns], aimed))
    rows.append(_number_row("reward", [ev.reward for ev in columns], everyone))
    if baseline is None:
        return Table(("", "n", *evaluations), tuple(row[:-1] for row in rows))
    return Table(("", "n", *evaluations, "majority answer"), tuple(rows))


def compare_table(evaluations: Mapping[str, Evaluation], baseline: Mapping[str, Share] | None = None) -> str:
    """Return :func:`compare` as Markdown.

    Example:
        >>> before = Evaluation(Share(1, 4), {"size": Share(1, 4)}, Share(4, 4), 1.5, Share(2, 4), 0.25, 0.4)
        >>> print(compare_table({"before": before}).splitlines()[2])
        | accuracy           | 4 |    25.0 (4.6-69.9) |
    """
    return compare(evaluations, baseline).markdown()


def _accuracies(families: Mapping[str, Share]) -> dict[str, Share]:
    shares = {"accuracy": Share.pooled(families.values())}
    shares |= {f"accuracy, {name}": share for name, share in pool_groups(families).items()}
    return shares | {f"accuracy, {name}": share for name, share in families.items()}


def _share_row(label: str, shares: Sequence[Share | None], baseline: Share | None = None) -> tuple[str, ...]:
    counts = [share.count if share else 0 for share in shares]
    return (label, _counts(counts), *map(_percent, shares), _percent(baseline))


def _number_row(label: str, values: Sequence[float], counts: Sequence[int]) -> tuple[str, ...]:
    texts = [UNKNOWN if math.isnan(value) else f"{value:.2f}" for value in values]
    return (label, _counts(counts), *texts, UNKNOWN)


def _counts(counts: Sequence[int]) -> str:
    return " / ".join(map(str, counts if len(set(counts)) > 1 else counts[:1]))


def _percent(share: Share | None) -> str:
    return UNKNOWN if share is None else share.percent()


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
