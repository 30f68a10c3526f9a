"""What is needed of a vision-language model to make an expert of it: text in reply to a picture and text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from medeyes_monai.trajectory import Picture

__all__ = ["Chat", "Reply", "TokenSpan"]

TokenSpan = tuple[int, int, float]
"""A token of a reply: first and last (exclusive) character, and the log-probability with which it came."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model wrote.

    Args:
        text: The text.
        tokens: Its tokens in order, or None where the model does not tell their probabilities.
    """

    text: str
    tokens: tuple[TokenSpan, ...] | None = None

    def probability(self, spans: Sequence[tuple[int, int]], counts: Callable[[str], bool]) -> float | None:
        """Return the geometric mean of the probabilities of the tokens in some stretches of the text.

        Args:
            spans: The stretches: first and last (exclusive) character.
            counts: Tells from one character whether a token that holds it counts.

        Returns:
            A number in [0, 1]; None where the tokens are not known or none counts.

        Example:
            >>> tokens = ((0, 1, -9.0), (1, 3, 0.0), (3, 5, -9.0), (5, 6, -2.0), (6, 7, -9.0))
            >>> Reply("[10, 5]", tokens).probability([(1, 6)], str.isdigit) == math.exp(-1.0)
            True
        """
        inside = [
            logprob
            for start, stop, logprob in self.tokens or ()
            if any(max(start, a) < min(stop, b) for a, b in spans) and any(map(counts, self.text[start:stop]))
        ]
        return min(1.0, math.exp(sum(inside) / len(inside))) if inside else None


class Chat(Protocol):
    """A vision-language model that replies to one picture and one text."""

    @property
    def name(self) -> str:
        """Name of the model and of every setting that changes its replies."""

    @property
    def grid(self) -> int:
        """Side of the squares that the sides of a picture are multiples of. Unit: pixels."""

    def ask(self, picture: Picture, text: str, seeds: Sequence[int | None]) -> Sequence[Reply]:
        """Return one reply for each seed; None asks for the likeliest words.

        Raises:
            ExpertError: If the model cannot be asked.
        """
