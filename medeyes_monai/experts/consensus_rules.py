"""How several experts' words become one: matching regions, and combining what is said of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from medeyes_monai.experts.base import Candidate
from medeyes_monai.geometry import Box

__all__ = ["Combine", "Vote", "combined", "elected", "fused_box", "majority_mask", "match", "spread"]

Combine = Literal["mean", "noisy_or"]
"""How confidences become one, see :func:`combined`."""


@dataclass(frozen=True, slots=True, eq=False)
class Vote:
    """What one expert says of one region.

    Args:
        expert: Number of the expert, from 0.
        weight: Weight of the expert; the weights of all experts that were asked sum to 1.
        candidate: Its words.
    """

    expert: int
    weight: float
    candidate: Candidate


def match(votes: Sequence[Vote], iou: float) -> list[list[Vote]]:
    """Group votes that mean one place.

    Greedy, as in weighted boxes fusion: from the most confident vote on, each joins the group whose first
    vote it overlaps most, by ``iou`` or more and if the group has no vote of its expert yet, else it opens
    one. So one expert's regions are never merged with each other.

    Example:
        >>> a, b = Candidate(Box((0, 0), (4, 4)), 0.9), Candidate(Box((0, 0), (4, 5)), 0.5)
        >>> [len(group) for group in match([Vote(0, 0.5, a), Vote(1, 0.5, b)], iou=0.5)]
        [2]
    """
    groups: list[list[Vote]] = []
    for vote in sorted(votes, key=_precedence):
        free = [group for group in groups if all(other.expert != vote.expert for other in group)]
        nearest = max(free, key=lambda group: _overlap(vote, group), default=None)
        if nearest is not None and _overlap(vote, nearest) >= iou:
            nearest.append(vote)
        else:
            groups.append([vote])
    return groups


def combined(confidences: Sequence[float], weights: Sequence[float], rule: Combine) -> float:
    """Return one confidence for several.

    ``mean`` is the weighted mean; ``noisy_or`` is ``1 - prod (1 - c_i) ** (n w_i)``, sure as soon as one
    expert is, for experts that see different things.

    Args:
        confidences: One for each expert that was asked, 0 for one that has no such region.
        weights: Weight of each; they sum to 1.
        rule: One of the two.

    Example:
        >>> combined((0.5, 0.0), (0.5, 0.5), "mean"), combined((0.5, 0.5), (0.5, 0.5), "noisy_or")
        (0.25, 0.75)
    """
    if rule == "mean":
        value = _mean(confidences, weights)
    else:
        powers = (len(weights) * w for w in weights)
        value = 1 - math.prod((1 - c) ** p for c, p in zip(confidences, powers, strict=True))
    return min(1.0, max(0.0, value))


def spread(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return twice the weighted population standard deviation of values in [0, 1], itself in [0, 1].

    It is 0 if all are equal, and 1 if half of the weight is at 0 and half at 1.

    Example:
        >>> spread((1.0, 0.0), (0.5, 0.5)), spread((0.7, 0.7), (0.5, 0.5))
        (1.0, 0.0)
    """
    if len(set(values)) < 2:
        return 0.0
    mean = _mean(values, weights)
    variance = _mean([(v - mean) ** 2 for v in values], weights)
    return min(1.0, 2 * math.sqrt(variance))


def elected(words: Sequence[str], weights: Sequence[float], confidences: Sequence[float]) -> str:
    """Return the text that has most weight; of equal ones the more confident, then the first by alphabet.

    An expert's confidence says how much a region matters, not how sure its words are, so it does not vote.
    An empty text is an abstention; the result is empty if all abstain.

    Example:
        >>> elected(("ring", "disc", "ring", ""), (0.2, 0.3, 0.2, 0.3), (0.1, 0.9, 0.1, 0.9))
        'ring'
    """
    tally: dict[str, list[tuple[float, float]]] = {}
    for word, weight, confidence in zip(words, weights, confidences, strict=True):
        if word:
            tally.setdefault(word, []).append((weight, weight * confidence))

    def rank(word: str) -> tuple[float, float, str]:
        votes, strengths = zip(*tally[word], strict=True)
        return -math.fsum(votes), -math.fsum(strengths), word

    return min(tally, key=rank, default="")


def fused_box(votes: Sequence[Vote]) -> Box:
    """Return the mean of the regions, each corner weighted by weight times confidence.

    Example:
        >>> votes = [Vote(n, 0.5, Candidate(Box((0, 0), (4, side)), 0.5)) for n, side in enumerate((4, 6))]
        >>> fused_box(votes)
        Box(start=(0, 0), stop=(4, 5))
    """
    strengths = [vote.weight * vote.candidate.confidence for vote in votes]
    if not any(strengths):
        strengths = [vote.weight for vote in votes]
    corners = zip(*(vote.candidate.box.corners for vote in votes), strict=True)
    return Box.from_corners([_mean(values, strengths) for values in corners])


def majority_mask(votes: Sequence[Vote], box: Box) -> npt.NDArray[np.bool_] | None:
    """Return the voxels of a region that more than half of the weight calls inside.

    Votes without a mask abstain. None if all do, or if no voxel has a majority.
    """
    masked = [(vote.weight, vote.candidate) for vote in votes if vote.candidate.mask is not None]
    tally = np.zeros(box.extent)
    for weight, candidate in masked:
        both = box.intersection(candidate.box)
        if both is not None and candidate.mask is not None:
            tally[_local(both, box).slices] += weight * candidate.mask[_local(both, candidate.box).slices]
    majority: npt.NDArray[np.bool_] = tally > math.fsum(weight for weight, _ in masked) / 2
    return majority if majority.any() else None


def _precedence(vote: Vote) -> tuple[float, tuple[int, ...], str, int]:
    candidate = vote.candidate
    return -candidate.confidence, candidate.box.corners, candidate.finding, vote.expert


def _overlap(vote: Vote, group: Sequence[Vote]) -> float:
    return vote.candidate.box.iou(group[0].candidate.box)


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    total = math.fsum(v * w for v, w in zip(values, weights, strict=True))
    return total / math.fsum(weights)


def _local(box: Box, frame: Box) -> Box:
    """Carry a region inside another into that one's own voxels."""
    start = tuple(a - o for a, o in zip(box.start, frame.start, strict=True))
    return Box(start, tuple(a + n for a, n in zip(start, box.extent, strict=True)))
