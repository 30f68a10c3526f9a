"""How many words an answer shares with its reference: precision, recall, F1 and BLEU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ignite.metrics.nlp import Bleu

from medeyes_monai.metrics.scoring.words import words

__all__ = ["OVERLAPS", "bleu", "overlap", "overlap_of_words"]

OVERLAPS = ("precision", "recall", "f1", "bleu1", "bleu4")
"""What :func:`overlap` returns, in this order."""


def overlap(answer: str, reference: str) -> tuple[float, ...]:
    """Return precision, recall, F1, BLEU-1 and BLEU-4 of the words of an answer, each from 0 to 1.

    Words are those of :func:`~medeyes_monai.metrics.scoring.words`; one that occurs twice counts twice.
    An empty answer has 0 of everything.

    Example:
        >>> [round(value, 3) for value in overlap("in the left lung", "left lower lung")]
        [0.667, 0.667, 0.667, 0.667, 0.0]
    """
    given, wanted = words(answer), words(reference)
    return (*overlap_of_words(given, wanted), bleu(given, wanted, 1), bleu(given, wanted, 4))


def overlap_of_words(given: Sequence[str], wanted: Sequence[str]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of shared words.

    Example:
        >>> overlap_of_words(["left", "left", "lung"], ["left", "lung"])
        (0.6666666666666666, 1.0, 0.8)
    """
    shared = (Counter(given) & Counter(wanted)).total()
    if not shared:
        return 0.0, 0.0, 0.0
    precision, recall = shared / len(given), shared / len(wanted)
    return precision, recall, 2 * precision * recall / (precision + recall)


def bleu(given: Sequence[str], wanted: Sequence[str], order: int) -> float:
    """Return the BLEU score of one answer up to an order of n-grams, without smoothing (by ignite).

    Answers of fewer words than the order have 0, as NLTK gives without smoothing.

    Example:
        >>> words = ["left", "lower", "lobe"]
        >>> round(bleu(words, [*words, "mass"], 2), 4)  # all of it is there: exp(1 - 4 / 3)
        0.7165
    """
    metric = Bleu(ngram=order)
    metric.update(([list(given)], [[list(wanted)]]))
    return float(metric.compute())
