"""Numbers about the paths that were drawn: how many are kept, how long and how different they are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from medeyes_monai.sampler.paths import DrawnPath
from medeyes_monai.trajectory import Trajectory

__all__ = ["describe_paths", "diversity"]


def describe_paths(questions: Sequence[Sequence[DrawnPath]]) -> dict[str, float]:
    """Return what to log about the paths of some questions.

    Args:
        questions: For each question all that was drawn.

    Returns:
        ``yield``, the share of drawn paths that are kept; and of kept paths ``looks``, their mean length;
        ``distinct``, the mean over questions of the share of different ones; ``diversity``, the mean over
        questions of :func:`diversity`; ``disagreement``, the mean over looks of how far several experts are
        apart, where they are. What cannot be said, because there is nothing of it, is left out.

    Example:
        >>> path = DrawnPath(Trajectory((), "2 candidates", "2"))
        >>> describe_paths([[path, path, DrawnPath(Trajectory(), fate="unanswered")]])
        {'yield': 0.6666666666666666, 'looks': 0.0, 'distinct': 0.5}
    """
    drawn = sum(map(len, questions))
    if not drawn:
        return {}
    kept = [[path.trajectory for path in paths if path.fate == "kept"] for paths in questions]
    kept = [paths for paths in kept if paths]
    numbers = {"yield": sum(map(len, kept)) / drawn}
    if kept:
        numbers["looks"] = fmean(len(path.boxes) for paths in kept for path in paths)
        numbers["distinct"] = fmean(len(set(paths)) / len(paths) for paths in kept)
    spread = [value for paths in kept if (value := diversity(paths)) is not None]
    looks = [look for paths in kept for path in paths for look in path.fixations]
    apart = [look.disagreement for look in looks if look.disagreement is not None]
    if spread:
        numbers["diversity"] = fmean(spread)
    if any(apart):
        numbers["disagreement"] = fmean(apart)
    return numbers


def diversity(paths: Sequence[Trajectory]) -> float | None:
    """Return how different the places are at which several paths look.

    Returns:
        The mean of 1 - IoU over all pairs of looks of two different paths: 0 if all look at one place, 1 if
        no look of one meets a look of another; None where no two paths look.

    Example:
        >>> from medeyes_monai.geometry import Box
        >>> from medeyes_monai.trajectory import Fixation
        >>> one, other = (Trajectory((Fixation("", Box((x, 0), (x + 4, 4))),)) for x in (0, 2))
        >>> diversity([one, one]), round(diversity([one, other]), 3)  # 8 of 24 pixels are shared
        (0.0, 0.667)
    """
    apart = [1 - a.iou(b) for one, other in combinations(paths, 2) for a in one.boxes for b in other.boxes]
    return fmean(apart) if apart else None
