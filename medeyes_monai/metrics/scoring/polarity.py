"""What an answer states, and whether it says yes or no."""

from __future__ import annotations

import re
from typing import Literal

from medeyes_monai.metrics.scoring.words import words

__all__ = ["polarity", "stated"]

_LEAD = re.compile(
    r"\W*(?:(?:the|my)\s+)?(?:(?:final|correct|right|best)\s+)?answer\b[\s:*]*(?:(?:is|would be)\b[\s:*]*)?",
    re.IGNORECASE,
)


def stated(text: str) -> str:
    """Return an answer without "the answer is" at its beginning.

    Example:
        >>> stated("The final answer is: -3.5"), stated("Answer: B"), stated("unanswered")
        ('-3.5', 'B', 'unanswered')
    """
    lead = _LEAD.match(text)
    return text[lead.end() :] if lead else text


def polarity(text: str) -> Literal["yes", "no"] | None:
    """Return "yes" or "no" if a text begins with it and does not also say the other.

    What a sentence means is not read: "there is no effusion" may deny or confirm what was asked.

    Example:
        >>> polarity("Yes, on the left."), polarity("The answer is no"), polarity("There is no effusion")
        ('yes', 'no', None)
    """
    found = words(stated(text))
    if "yes" in found[:1] and "no" not in found:
        return "yes"
    return "no" if "no" in found[:1] and "yes" not in found else None
