"""How sure a policy was, from the probabilities of the tokens that it drew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from medeyes_monai.protocol import ANSWER, REASONING
from medeyes_monai.trajectory import Episode

__all__ = ["Decode", "answer_confidence", "turn_confidences", "turn_spans"]

Decode = Callable[[Sequence[int]], str]
"""Turns token ids into text, as ``Policy.decode``."""


def turn_spans(episode: Episode) -> list[tuple[int, int]]:
    """Return where each turn's tokens begin and end in an episode.

    Example:
        >>> from medeyes_monai.trajectory import Trajectory
        >>> mask = torch.tensor([False, True, True, False, True])
        >>> nothing = torch.zeros(5)
        >>> turn_spans(Episode("q", "policy", 0, nothing.long(), mask, nothing, (), (), Trajectory()))
        [(1, 3), (4, 5)]
    """
    outside = torch.zeros(1, dtype=torch.int)
    edges = torch.diff(episode.response_mask.int(), prepend=outside, append=outside)
    return list(zip((edges > 0).nonzero()[:, 0].tolist(), (edges < 0).nonzero()[:, 0].tolist(), strict=True))


def turn_confidences(episode: Episode) -> list[float]:
    """Return the geometric mean probability of each turn's tokens, from 0 to 1."""
    chances = episode.behaviour_logprobs
    return [math.exp(float(chances[start:stop].mean())) for start, stop in turn_spans(episode)]


def answer_confidence(episode: Episode, decode: Decode, *, per_token: bool = False) -> float:
    """Return the probability of the answer's own tokens, given all before, from 0 to 1.

    The tokens of ``<answer>`` and ``</answer>`` do not count, except where one holds a part of the answer. An
    episode without an answer, or with an empty one, has 0. Probabilities are those that tokens were drawn
    with: of the temperature and the words allowed then.

    Args:
        episode: An episode that the policy drew.
        decode: The policy's ``decode``.
        per_token: Take the geometric mean over tokens, which does not fall with length, instead of their
            product.
    """
    if not episode.trajectory.answer or not episode.turns:
        return 0.0
    start, stop = turn_spans(episode)[-1]
    tokens = episode.token_ids[start:stop].tolist()
    first, last = _answer_place(episode.turns[-1])
    ends = [len(decode(tokens[:n])) for n in range(len(tokens) + 1)]
    inside = [n for n in range(len(tokens)) if ends[n] < last and ends[n + 1] > first]
    chances = episode.behaviour_logprobs[start:stop][inside].double()
    if not inside:
        return 0.0
    return math.exp(float(chances.mean() if per_token else chances.sum()))


def _answer_place(turn: str) -> tuple[int, int]:
    """Return where the answer of a turn begins and ends in its text."""
    first = turn.find(ANSWER[0], turn.find(REASONING[1])) + len(ANSWER[0])
    last = turn.find(ANSWER[1], first)
    return first, last if last >= 0 else len(turn)
