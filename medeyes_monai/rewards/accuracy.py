"""Is the answer right, by the data set's own rule (``r_acc`` of equation 4)."""

from __future__ import annotations

from medeyes_monai.metrics.scoring import answers_match, normalise
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["accuracy", "answers_match", "normalise"]


def accuracy(episode: Episode, case: Case) -> float:
    """Return 1 if the episode's answer is right and 0 if it is wrong or missing.

    The rule is that of the tables, :func:`~medeyes_monai.metrics.scoring.answers_match`.

    Raises:
        ConfigError: If the case cannot be scored.
    """
    answer = episode.trajectory.answer
    return float(answer is not None and answers_match(answer, case))
