"""How MedEvalKit judges answers, written anew from what its public code does.

https://github.com/alibaba-damo-academy/MedEvalKit, commit 9b12e3b, without its language-model judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from medeyes_monai.metrics.scoring.overlap import bleu

__all__ = ["EXTRAS", "choice_is_right", "open_extras", "read", "text_is_same", "yes_no_is_right"]

EXTRAS = ("precision", "recall", "f1", "bleu1", "bleu2", "bleu3", "bleu4")
"""What :func:`open_extras` returns, in this order."""
_MARKERS = (
    "**answer**:",
    "**answer**",
    "*answer*:",
    "**answer:**",
    "answer is",
    "answer:",
    "答案:",
    "final answer",
    "final answer is",
)
_LONGEST_CHOICE = 2000
"""Longest answer that is compared letter by letter with the options (our limit; the time is quadratic)."""


def read(response: str) -> str:
    r"""Return the part of a response that counts: in ``\boxed{}``, or behind the last "answer is".

    Example:
        >>> read("It is round. The answer is B"), read("so \\boxed{left {upper} lobe}")
        (' b', 'left {upper} lobe')
    """
    text = response.lower()
    if "boxed" in text:
        text = _boxed(text)
    for marker in _MARKERS:
        text = text.rsplit(marker, maxsplit=1)[-1]
    return text


def yes_no_is_right(response: str, answer: str) -> bool:
    """Judge a yes/no question: only one of the letters "yes" and "no" occurs anywhere, and it is the answer.

    So "yes, a nodule" is wrong: "nodule" has "no" in it.

    Example:
        >>> yes_no_is_right("Yes.", "yes"), yes_no_is_right("yes, a nodule", "yes")
        (True, False)
    """
    text = _bare(read(response))
    return (("yes" in text) != ("no" in text)) and answer.lower() in text


def text_is_same(response: str, answer: str) -> bool:
    """Judge another closed question: the same but for capitals, points and line ends."""
    return _bare(read(response)) == answer.lower()


def open_extras(response: str, answer: str) -> tuple[float, ...]:
    """Return precision, recall and F1 of the sets of words, and BLEU-1 to BLEU-4.

    MedEvalKit returns F1, precision and recall in this order and unpacks them as precision, recall and F1.
    So its column "precision" is F1, "recall" is precision, and "f1" is recall; here they have their names.
    """
    given, wanted = read(response), answer.lower()
    mine, theirs = set(given.split()), set(wanted.split())
    shared = len(mine & theirs)
    precision, recall = shared / max(1, len(mine)), shared / max(1, len(theirs))
    f1 = 2 * precision * recall / (precision + recall) if shared else 0.0
    said, right = (text.replace(".", " .").split(" ") for text in (given, wanted))
    return (precision, recall, f1, *(bleu(said, right, order) for order in (1, 2, 3, 4)))


def choice_is_right(response: str, answer: str, options: Sequence[str]) -> bool:
    """Judge a question with options: by letter, by text, or else by the most similar option.

    An answer that names nothing is thus taken for some option, often the first.

    Args:
        response: The answer that was given.
        answer: Text or letter of the right option.
        options: The options' texts.
    """
    letters = [chr(ord("a") + n) for n in range(len(options))]
    choices, wanted = [option.lower() for option in options], answer.strip().lower()
    text = response.lower()
    paragraphs = text.split("\n\n")
    if paragraphs[0] in letters:
        text = paragraphs[0]
    elif paragraphs[-1].split(".")[0] in letters:
        text = paragraphs[-1].split(".")[0]
    text = read(text).strip().replace("\n", "")
    head = text.split(".")[0].split(":")[-1]
    if head == wanted:
        return True
    if head in letters:
        return choices[letters.index(head)] == wanted
    if head in choices:
        return wanted in letters and choices[letters.index(wanted)] == head
    nearest = _most_similar(text[:_LONGEST_CHOICE], choices)
    return wanted in (letters[nearest], choices[nearest])


def _boxed(text: str) -> str:
    r"""Return what stands in the last ``\boxed{}``, braces paired; "None" where there is none."""
    _, box, rest = text.rpartition(r"\boxed{")
    depth = 0
    for place, char in enumerate(rest if box else ""):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth < 0:
            return rest[:place].strip()
    return "None"


def _bare(text: str) -> str:
    return re.sub(r"[\n.]", "", text)


def _most_similar(text: str, choices: Sequence[str]) -> int:
    ratios = [SequenceMatcher(None, choice, text).ratio() for choice in choices]
    return ratios.index(max(ratios))
