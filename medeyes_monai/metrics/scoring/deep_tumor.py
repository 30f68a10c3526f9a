"""How DeepTumorVQA 2.0 judges answers, written anew from what its public code does.

https://github.com/Schuture/DeepTumorVQA, ``src/deeptumorvqa/eval/metrics.py`` at commit 1df7460.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from medeyes_monai.metrics.scoring.options import is_option

__all__ = ["EXTRAS", "choice_is_right", "number_scores", "text_is_same", "yes_no_is_right"]

BANDS = (0.05, 0.10, 0.20, 0.50)
EXTRAS = tuple(f"within {band:.0%}" for band in BANDS)
"""What :func:`number_scores` returns after the relative accuracy, in this order."""
_THINKING = ("<think>", "</think>")
_NUMBER = re.compile(r"-?\d+\.?\d*")
_LETTER = re.compile(r"\b([A-D])\b")


def choice_is_right(answer: str, wanted: str, options: Sequence[str]) -> bool:
    """Judge a letter: the first character if it is A to D in either case, else the first such word.

    So "Because" is B. An answer that gives an option's text instead is wrong, unless it begins so.

    Example:
        >>> grades = ["none", "mild"]
        >>> [choice_is_right(said, "mild", grades) for said in ("the answer is B", "Because of", "mild")]
        [True, True, False]
    """
    said = _spoken(answer).upper()
    found = _LETTER.search(said)
    letter = said[0] if said[:1] and said[0] in "ABCD" else found[1] if found else ""
    number = is_option(wanted, options)
    return number is not None and letter == chr(ord("A") + number)


def yes_no_is_right(answer: str, wanted: str) -> bool:
    """Judge yes or no: how the answer begins, else the word that occurs, yes first.

    Example:
        >>> yes_no_is_right("Yes, clearly", "Yes"), yes_no_is_right("I think no", "yes")
        (True, False)
    """
    said, right = _polarity(_spoken(answer)), _polarity(wanted)
    return bool(said) and said == right


def number_scores(answer: str, wanted: str) -> tuple[float, ...]:
    """Return the relative accuracy ``max(0, 1 - |given - wanted| / |wanted|)`` and whether each band holds.

    The first number in a text counts, whatever its unit. Of a reference 0 only 0 is right.

    Example:
        >>> [round(score, 3) for score in number_scores("about 92 ml", "100")]
        [0.92, 0.0, 1.0, 1.0, 1.0]
    """
    given, right = _NUMBER.search(_spoken(answer)), _NUMBER.search(wanted)
    if given is None or right is None:
        return (0.0,) * (1 + len(BANDS))
    value, reference = float(given[0]), float(right[0])
    error = abs(value - reference) / abs(reference) if reference else (0.0 if value == 0 else math.inf)
    return (max(0.0, 1.0 - error), *(float(error <= band) for band in BANDS))


def text_is_same(answer: str, wanted: str) -> bool:
    """Judge a category: the same words, without case and marks but hyphens.

    Example:
        >>> text_is_same("Normal - no splenomegaly", "Normal (no splenomegaly)")
        False
        >>> text_is_same(" left. ", "Left")
        True
    """
    return _plain(_spoken(answer)) == _plain(wanted)


def _spoken(text: str) -> str:
    """Return what is said outside of ``<think>``, one that does not end included."""
    parts = []
    while True:
        before, opened, rest = text.partition(_THINKING[0])
        parts.append(before)
        if not opened:
            return "".join(parts).strip()
        _, closed, text = rest.partition(_THINKING[1])
        if not closed:
            return "".join(parts).strip()


def _polarity(text: str) -> str:
    plain = text.strip().lower()
    for word in ("yes", "no"):
        if plain.startswith(word):
            return word
    return next((word for word in ("yes", "no") if re.search(rf"\b{word}\b", plain)), "")


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"[^\w\s\-]", "", text.strip().lower()))
