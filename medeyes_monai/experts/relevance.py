"""How much a finding matters for a question, by the data set's own rule."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from medeyes_monai.experts.base import Reader

__all__ = ["NOTHING", "Relevance", "relevance_of"]

NOTHING = "normal"
"""What a drill says where it finds nothing."""

_SHORTEST_WORD = 4  # letters from which a word that finding and question share is taken to mean something


@dataclass(frozen=True, slots=True)
class Relevance:
    """What a finding means for a question.

    Args:
        level: ``decisive`` if it settles the question, ``supporting`` if it changes the answer or shares a
            word with the question, else ``other``.
        answer: The answer that it supports, if any.
    """

    level: Literal["decisive", "supporting", "other"]
    answer: str | None = None


def relevance_of(reader: Reader | None, query: str, finding: str) -> Relevance:
    """Tell how much one finding matters for a question.

    Without a reader, every finding settles the question, except that there is nothing, and none answers it.

    Example:
        >>> relevance_of(None, "where?", "ring"), relevance_of(None, "where?", NOTHING)
        (Relevance(level='decisive', answer=None), Relevance(level='other', answer=None))
    """
    if reader is None:
        return Relevance("other" if finding == NOTHING else "decisive")
    reading = reader.read(query, (finding,), ())
    if reading.decisive:
        return Relevance("decisive", reading.answer)
    changes = reading.answer != reader.read(query, (), ()).answer
    supports = changes or bool(_words(finding) & _words(query))
    return Relevance("supporting" if supports else "other", reading.answer)


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) >= _SHORTEST_WORD}
