"""The policy's own earlier episodes in the place of an expert's paths: the control for an expert."""

from __future__ import annotations

from typing import Literal

from medeyes_monai.errors import ConfigError
from medeyes_monai.sampler import DrawnPath
from medeyes_monai.scenes import Case
from medeyes_monai.training.experience import Reward
from medeyes_monai.trajectory import Episode, Trajectory

__all__ = ["Replay"]


class Replay:
    """Remembers what the policy did on each question, and hands it back as the second stream.

    It is given to a trainer twice: as its reward, which it passes on, and as its sampler. A question has a
    history from the second time that it is asked, so the data must be small enough to be asked again. The
    history lives in memory; a run that is resumed begins without one.

    Args:
        reward: Scores an episode.
        n_paths: Largest number of episodes that are handed back for a question.
        order: Which ones: the latest (``recency``), or those of the highest reward, of equal ones the latest.

    Raises:
        ConfigError: If an argument is out of its range.
    """

    def __init__(
        self, reward: Reward, n_paths: int = 6, order: Literal["recency", "reward"] = "recency"
    ) -> None:
        """Begin without a history."""
        if n_paths < 1 or order not in ("recency", "reward"):
            raise ConfigError(
                f"n_paths is at least 1 and order 'recency' or 'reward', got {n_paths} and {order!r}"
            )
        self.reward, self.n_paths, self.order = reward, n_paths, order
        self._past: dict[str, list[tuple[float, Trajectory]]] = {}
        self._now: dict[str, list[tuple[float, Trajectory]]] = {}

    def __call__(self, episode: Episode, case: Case) -> Episode:
        """Score an episode, and remember a readable one of the policy."""
        scored = self.reward(episode, case)
        if scored.stream == "policy" and scored.defect is None and scored.trajectory.answer is not None:
            self._now.setdefault(case.key, []).append((scored.reward, scored.trajectory))
        return scored

    @property
    def name(self) -> str:
        """``replay`` with the order."""
        return f"replay by {self.order}"

    def draw(self, case: Case, step: int = 0) -> list[DrawnPath]:
        """Return what :meth:`paths` returns, as a trainer asks a sampler for it."""
        return [DrawnPath(path) for path in self.paths(case, step)]

    def paths(self, case: Case, step: int = 0) -> list[Trajectory]:
        """Return earlier episodes on a question, without those of this step.

        Args:
            case: The question.
            step: Not read; part of a sampler's signature.
        """
        past = self._past.get(case.key, [])
        self._past[case.key] = [*past, *self._now.pop(case.key, [])]
        latest = past[::-1]
        if self.order == "reward":
            latest.sort(key=lambda remembered: -remembered[0])
        return [trajectory for _, trajectory in latest[: self.n_paths]]
