"""Did several experts agree on the path that one of them shows: an optional part of the reward."""

from __future__ import annotations

from statistics import fmean

from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["agreement"]


def agreement(episode: Episode, case: Case) -> float:
    """Return 1 minus the mean disagreement of the experts over an episode's looks, in [0, 1].

    It weighs expert paths against each other: a path through regions on which a ``ConsensusExpert`` is
    divided earns less. Episodes of the policy have no experts to disagree, nor have paths of one expert, and
    get 1: a constant shifts no advantage within a stream, and against the policy's mean (``on_baseline``) a
    contested path then falls below an agreed one, and no expert path is favoured over the policy's. Not part
    of the paper's reward; places on which experts differ may be those worth learning from, so its weight
    should be small. The case is not read.

    Example:
        >>> import torch
        >>> from medeyes_monai.geometry import Box
        >>> from medeyes_monai.trajectory import Fixation, Trajectory
        >>> looks = tuple(Fixation("", Box((0, 0), (9, 9)), disagreement=d) for d in (0.0, 0.5))
        >>> none = torch.zeros(0)
        >>> agreement(Episode("q", "expert", 0, none, none, none, (), (), Trajectory(looks)), None)
        0.75
    """
    apart = [look.disagreement for look in episode.trajectory.fixations if look.disagreement is not None]
    return 1.0 - fmean(apart) if apart else 1.0
