"""The card of a prepared data set: its numbers, its traps, its licence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from medeyes_monai.data.releases import About, Count

__all__ = ["Found", "card_of", "mismatches"]

MOST_LISTED = 50
"""Rows that were left out and are named in the card; further ones are counted."""


class Found(NamedTuple):
    """Numbers of one split.

    Args:
        questions: Questions.
        images: Different images.
        families: Questions of each family.
        polar: Questions whose answer is yes or no.
        answered: Questions with an answer.
        boxed: Questions with boxes.
        sided: Questions whose words name a side.
        shared: Questions whose image or group occurs in another split as well.
    """

    questions: int
    images: int
    families: Mapping[str, int]
    polar: int
    answered: int
    boxed: int
    sided: int
    shared: int

    def number(self, kind: str) -> int:
        """Return the number of a :class:`Count`'s kind."""
        plain = {"questions": self.questions, "images": self.images, "yes/no": self.polar}
        return plain[kind] if kind in plain else self.families.get(kind, 0)


def mismatches(counts: Sequence[Count], found: Mapping[str, Found]) -> list[str]:
    """Return what does not agree with a whole copy, one sentence each, with both numbers.

    Example:
        >>> split = Found(9, 3, {"closed": 9}, 9, 9, 0, 0, 0)
        >>> counts = [Count("test", "closed", (272, 271)), Count("test", "images", (3,))]
        >>> mismatches(counts, {"test": split})
        ['test has 9 closed, a whole copy has 272 or 271']
        >>> mismatches(counts[1:], {})
        ['test is missing, a whole copy has 3 images']
    """
    sentences = []
    for count in counts:
        wanted = " or ".join(f"{number:,}" for number in count.wanted)
        if count.split not in found:
            sentences.append(f"{count.split} is missing, a whole copy has {wanted} {count.kind}")
        elif (number := found[count.split].number(count.kind)) not in count.wanted:
            sentences.append(f"{count.split} has {number:,} {count.kind}, a whole copy has {wanted}")
    return sentences


def card_of(
    about: About, form: str, found: Mapping[str, Found], warnings: Sequence[str], left_out: Sequence[str]
) -> str:
    """Return the card as Markdown."""
    agree = "All counts that are known of a whole copy agree." if about.counts else "No counts are known."
    parts = [
        f"# {about.title}",
        f"Prepared from: {form}. Homepage: {about.homepage or 'none'}.",
        _table(found),
        "\n".join(f"- **Differs from a whole copy**: {warning}." for warning in warnings) or agree,
        "## Traps\n\n" + "\n".join(f"- {trap}" for trap in (*about.traps, *_general(found))),
        *_left_out(left_out),
        f"## Licence, as published\n\n{about.licence}.",
        f"## Citation\n\n```bibtex\n{about.citation}\n```" if about.citation else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(found: Mapping[str, Found]) -> str:
    families = sorted({family for numbers in found.values() for family in numbers.families})
    heads = ["split", "questions", "images", *families, "yes/no", "with boxes", "name a side", "shared"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for split, n in found.items():
        shown = [n.questions, n.images, *(n.families.get(f, 0) for f in families), n.polar, n.boxed]
        lines.append([split, *(f"{number:,}" for number in (*shown, n.sided, n.shared))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _general(found: Mapping[str, Found]) -> list[str]:
    """Return what holds for every data set, with its numbers."""
    sided = sum(numbers.sided for numbers in found.values())
    traps = [
        f"{sided:,} questions name left or right (`names_a_side`): their images must not be mirrored unless "
        "the words are mirrored as well.",
        "*Shared* counts questions whose image, by content, or whose group also occurs in another split "
        "(`in_other_splits`).",
    ]
    if missing := sum(numbers.questions - numbers.answered for numbers in found.values()):
        traps.append(f"{missing:,} questions have no answer.")
    return traps


def _left_out(left_out: Sequence[str]) -> list[str]:
    if not left_out:
        return []
    lines = [f"- {reason}" for reason in left_out[:MOST_LISTED]]
    if len(left_out) > MOST_LISTED:
        lines.append(f"- and {len(left_out) - MOST_LISTED:,} more")
    return [f"## Left out\n\n{len(left_out):,} rows could not be used.\n\n" + "\n".join(lines)]
