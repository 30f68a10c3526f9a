"""Makes one reply of several draws of a model: who else points there, who else says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medeyes_monai.experts.base import Candidate, Verdict
from medeyes_monai.experts.vlm_reading import Opinion
from medeyes_monai.geometry import Box

__all__ = ["Vote", "elect", "settle"]

SAME_IOU = 0.5
"""From this IoU on, boxes of two draws are one place."""


@dataclass(frozen=True, slots=True)
class Vote:
    """A box of one draw.

    Args:
        draw: Number of the draw among those that could be read.
        box: The region. Unit: voxels of the scene.
        label: What the draw calls it.
        weight: What the draw gives to it, in [0, 1].
    """

    draw: int
    box: Box
    label: str
    weight: float


def elect(votes: Sequence[Vote], draws: int) -> tuple[Candidate, ...]:
    """Return the places that the draws point at, the most confident first.

    The box that most weight stands behind is taken with its label, all boxes at its place are gone, and so
    on. A draw counts once at a place, by its heaviest box there.

    Args:
        votes: The boxes of all draws.
        draws: Number of draws, those that could not be read included.

    Example:
        >>> there, near, apart = Box((0, 0), (10, 10)), Box((0, 0), (10, 8)), Box((50, 0), (60, 10))
        >>> votes = [Vote(0, there, "ring", 1.0), Vote(1, near, "disc", 1.0), Vote(1, apart, "dot", 1.0)]
        >>> [(c.finding, c.confidence) for c in elect(votes, draws=4)]
        [('ring', 0.5), ('dot', 0.25)]
    """
    left, places = list(votes), []
    while left:
        best = max(left, key=lambda vote: _support(vote, left))  # of equals the first
        places.append(Candidate(best.box, _support(best, left) / draws, best.label))
        left = [vote for vote in left if vote.box.iou(best.box) < SAME_IOU]
    return tuple(sorted(places, key=lambda c: (-c.confidence, c.box.corners)))


def settle(said: Sequence[tuple[Opinion, float]], draws: int) -> Verdict:
    """Return the opinion that most weight stands behind.

    Opinions are the same if their answers are, or their findings where neither has an answer; case and
    spaces aside. The confidence is the weight of those of them that call the region relevant.

    Args:
        said: Opinions that could be read, each with its weight in [0, 1].
        draws: Number of draws, those that could not be read included.

    Example:
        >>> yes, no = Opinion(True, "ring", "yes", ()), Opinion(False, "fat", "no", ())
        >>> settle([(no, 1.0), (yes, 1.0), (yes, 1.0)], draws=4)
        Verdict(confidence=0.5, finding='ring', answer='yes', disagreement=0.0)
    """
    weights: dict[tuple[bool, str], float] = {}
    for opinion, weight in said:
        weights[_meaning(opinion)] = weights.get(_meaning(opinion), 0.0) + weight
    most = max(weights, key=lambda meaning: weights[meaning])  # of equals the first
    alike = [(opinion, weight) for opinion, weight in said if _meaning(opinion) == most]
    first = next((opinion for opinion, _ in alike if opinion.relevant), alike[0][0])
    confidence = sum(weight for opinion, weight in alike if opinion.relevant) / draws
    return Verdict(min(1.0, confidence), first.finding, first.answer)


def _support(vote: Vote, votes: Sequence[Vote]) -> float:
    heaviest: dict[int, float] = {}
    for other in votes:
        if other.box.iou(vote.box) >= SAME_IOU:
            heaviest[other.draw] = max(other.weight, heaviest.get(other.draw, 0.0))
    return sum(heaviest.values())


def _meaning(opinion: Opinion) -> tuple[bool, str]:
    said = opinion.finding if opinion.answer is None else opinion.answer
    return opinion.answer is None, " ".join(said.casefold().split())
