"""How LLaVA-Med judges answers, written anew from what its public code does.

https://github.com/microsoft/LLaVA-Med, ``llava/eval/run_eval.py`` at commit b9a98a7; the words are folded as
in the evaluation of VQA v2.
"""

from __future__ import annotations

import re
from collections import Counter

from medeyes_monai.metrics.scoring.overlap import bleu
from medeyes_monai.metrics.scoring.words import CARDINALS

__all__ = ["EXTRAS", "closed_is_right", "folded_words", "open_scores"]

EXTRAS = ("precision", "f1", "bleu4")
"""What :func:`open_scores` returns after recall, in this order."""
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGITS = {word: digits for word, digits in CARDINALS.items() if int(digits) <= 10} | {"none": "0"}
_ARTICLES = ("a", "an", "the")


def folded_words(text: str) -> list[str]:
    """Return the words of an answer: without articles and punctuation, numbers up to ten as digits.

    A mark is dropped where it stands beside a space somewhere in the text (or the text has a comma between
    digits), and is a space elsewhere; points stay only before digits. Unlike the original, apostrophes are
    not put into contractions written without one.

    Example:
        >>> folded_words("In the left-lower lobe (two nodules).")
        ['in', 'left', 'lower', 'lobe', '2', 'nodules']
    """
    lower = text.lower()
    grouped = re.search(r"[0-9],[0-9]", lower) is not None
    plain = lower
    for mark in _PUNCTUATION:
        beside = f"{mark} " in lower or f" {mark}" in lower
        plain = plain.replace(mark, "" if beside or grouped else " ")
    plain = re.sub(r"\.(?![0-9])", "", plain)
    counted = [_DIGITS.get(word, word) for word in plain.split()]
    return [word for word in counted if word not in _ARTICLES]


def closed_is_right(response: str, answer: str) -> bool:
    """Judge a closed question: "yes" or "no" occurs anywhere, and so does the answer.

    So "yes or no" is right whatever the answer, and a closed question about a side is right only if "no"
    happens to occur.

    Example:
        >>> closed_is_right("Yes, there is", "yes"), closed_is_right("left", "left")
        (True, False)
    """
    given, wanted = " ".join(folded_words(response)), " ".join(folded_words(answer))
    return ("yes" in given or "no" in given) and wanted in given


def open_scores(response: str, answer: str) -> tuple[float, ...]:
    """Return recall, precision, F1 and BLEU-4 of the words of an answer to an open question.

    A shared word counts as often as the answer has it.
    """
    given, wanted = folded_words(response), folded_words(answer)
    mine, theirs = Counter(given), Counter(wanted)
    shared = sum(count for word, count in mine.items() if word in theirs)
    if not shared:
        return 0.0, 0.0, 0.0, 0.0
    missed = sum(count for word, count in theirs.items() if word not in mine)
    recall, precision = shared / (shared + missed), shared / len(given)
    return recall, precision, 2 * precision * recall / (precision + recall), bleu(given, wanted, 4)
