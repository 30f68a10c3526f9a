"""Was looking real: what becomes of the answers when looks show something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.answers import Scores
from medeyes_monai.metrics.paired import Paired, paired
from medeyes_monai.metrics.scoring import normalise
from medeyes_monai.metrics.share import Share
from medeyes_monai.metrics.table import Table
from medeyes_monai.scenes import mirror_text

__all__ = ["BLANKED", "MIRRORED", "Change", "Laterality", "answer_change", "faithfulness_table", "laterality"]

BLANKED = "blanked"
"""The condition under which looks show grey."""
MIRRORED = "mirrored"
"""The condition whose answers are expected to exchange left and right."""


@dataclass(frozen=True, slots=True)
class Change:
    """How answers change under a condition.

    Args:
        condition: What was changed.
        scores: The condition's scores less those of the unchanged run, paired.
        flipped: Answers that became another one; under ``mirrored``, another than the mirrored one.
        lost: Of the answers that were right, those that no longer are.
        gained: Of the answers that were wrong, those that now are right.
    """

    condition: str
    scores: Paired
    flipped: Share
    lost: Share
    gained: Share

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        shares = {"flipped": self.flipped, "lost": self.lost, "gained": self.gained}
        return {
            "condition": self.condition,
            "scores": self.scores.to_dict(),
            **{name: share.to_dict() for name, share in shares.items()},
        }


@dataclass(frozen=True, slots=True)
class Laterality:
    """What becomes of answers that name a side when the image is mirrored.

    Args:
        followed: Answers that name the other side, all else equal.
        stuck: Answers that stay as they were.
    """

    followed: Share
    stuck: Share


def answer_change(condition: str, seen: Scores, changed: Scores) -> Change:
    """Compare answers under a condition with those of the unchanged run.

    Only questions at which the policy looked are compared, as nothing else changes in most conditions;
    under ``mirrored``, all.

    Args:
        condition: Name of the condition.
        seen: Scores of the unchanged run.
        changed: Scores under the condition, of the same questions, against the references that the condition
            gives.

    Raises:
        ConfigError: If the runs cannot be compared, or the policy looked nowhere.
    """
    if condition != MIRRORED:
        looked = [case for case, looks in zip(seen.cases, seen.looks, strict=True) if looks]
        if not looked:
            raise ConfigError(
                f"the policy looked at none of {len(seen)} questions; {condition!r} changes nothing"
            )
        seen, changed = seen.restrict(looked), changed.restrict(looked)
    difference = paired(seen, changed)
    expected = mirror_text if condition == MIRRORED else str
    before, after = seen.score == 1, changed.score == 1
    return Change(
        condition,
        difference,
        flipped=Share.of(not same for same in _same(seen, changed, expected)),
        lost=Share.of(~after[before]),
        gained=Share.of(after[~before]),
    )


def laterality(seen: Scores, mirrored: Scores) -> Laterality:
    """Tell whether answers that name a side change it when the image is mirrored.

    Args:
        seen: Scores of the unchanged run.
        mirrored: Scores of the mirrored questions.

    Raises:
        ConfigError: If they are not of the same questions.
    """
    if seen.cases != mirrored.cases:
        raise ConfigError(f"laterality compares the same questions, got {len(seen)} and {len(mirrored)}")
    sided = [answer is not None and mirror_text(answer) != answer for answer in seen.answers]
    followed, stayed = _same(seen, mirrored, mirror_text), _same(seen, mirrored, str)
    return Laterality(
        followed=Share.of(same for same, counts in zip(followed, sided, strict=True) if counts),
        stuck=Share.of(same for same, counts in zip(stayed, sided, strict=True) if counts),
    )


def faithfulness_table(changes: Mapping[str, Change]) -> Table:
    """Return how answers change under some conditions, in percent, one row for each.

    Example:
        >>> faithfulness_table({}).header[0]
        'condition'
    """
    rows = [
        (
            name,
            str(change.flipped.count),
            change.scores.difference.points(),
            *(share.percent() for share in (change.flipped, change.lost, change.gained)),
            "-" if change.scores.p_value is None else f"{change.scores.p_value:.3g}",
        )
        for name, change in changes.items()
    ]
    header = ("condition", "n", "score difference", "flipped", "right, lost", "wrong, gained", "McNemar's p")
    return Table(header, tuple(rows))


def _same(first: Scores, second: Scores, expected: Callable[[str], str]) -> list[bool]:
    """Tell for each question whether the second answer is what is expected after the first."""
    pairs = zip(first.answers, second.answers, strict=True)
    return [_plain(None if one is None else expected(one)) == _plain(other) for one, other in pairs]


def _plain(answer: str | None) -> str | None:
    return None if answer is None else normalise(answer)
