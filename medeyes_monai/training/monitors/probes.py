"""Monitors that ask a fixed set of questions now and then: do looks matter, and do paths carry over?"""

from __future__ import annotations

from collections.abc import Collection
from statistics import fmean, pvariance
from typing import Any

from ignite.engine import Engine

from medeyes_monai.errors import ConfigError
from medeyes_monai.rewards.accuracy import normalise
from medeyes_monai.training.evaluator import EpisodeEvaluator
from medeyes_monai.training.monitors.base import Monitor, Verdict
from medeyes_monai.trajectory import Episode

__all__ = ["MemorisedPaths", "Probe", "SuperficialFocusing", "gap_growth"]

_Accuracies = tuple[dict[str, float], dict[str, float]]
"""Accuracy of each question, in distribution and out of it."""


class Probe:
    """An evaluator that is run again only when the policy has changed, so that monitors can share it.

    Args:
        evaluator: Asks the questions; one episode for each.
    """

    def __init__(self, evaluator: EpisodeEvaluator) -> None:
        """Remember that nothing was asked yet."""
        self.evaluator = evaluator
        self._weights: tuple[tuple[int, int], ...] | None = None

    def ask(self) -> dict[str, Episode]:
        """Return the episode of each question, as the policy is now."""
        weights = tuple((p.data_ptr(), p._version) for p in self.evaluator.policy.parameters())
        if weights != self._weights:
            self.evaluator.run()
            self._weights = weights
        return {episode.case: episode for episode in self.evaluator.episodes}

    def accuracies(self) -> dict[str, float]:
        """Return the accuracy of each question, as the policy is now.

        Raises:
            ConfigError: If the episodes have no accuracy.
        """
        asked = self.ask()
        if missing := [key for key, episode in asked.items() if "accuracy" not in episode.reward_parts]:
            raise ConfigError(f"{len(missing)} probe episodes have no accuracy; give the evaluator a reward")
        return {key: episode.reward_parts["accuracy"] for key, episode in asked.items()}


class SuperficialFocusing(Monitor):
    """Warns when the policy looks, but answers the same when every look shows grey.

    Questions at which it did not look are left out: nothing can change there.

    Args:
        seeing: Asks the questions.
        blanked: Asks the same questions with ``blank_looks``.
        interval: Updates from one probe to the next.
        share: Least share of answers that stay the same. Of the embedded policy, whose looks matter, 0.43 do.
        families: Families of questions that need looking; None for all.
        least: Number of questions with a look below which nothing is said.

    Raises:
        ConfigError: If the evaluators are not one with looks and one without.
    """

    def __init__(
        self,
        seeing: Probe,
        blanked: Probe,
        interval: int = 25,
        share: float = 0.8,
        families: Collection[str] | None = None,
        least: int = 10,
    ) -> None:
        """Check the evaluators."""
        super().__init__("superficial_focusing", interval)
        if seeing.evaluator.blank_looks or not blanked.evaluator.blank_looks:
            raise ConfigError("the first probe must show its looks and the second needs blank_looks: true")
        self.seeing, self.blanked, self.share = seeing, blanked, share
        self.families = None if families is None else frozenset(families)
        self.least = least

    def judge(self, output: dict[str, Any]) -> Verdict | None:
        """Ask twice and compare the answers."""
        seen, blind = self.seeing.ask(), self.blanked.ask()
        family = {case.key: case.family for case in self.seeing.evaluator.cases}
        looked = [
            key
            for key, episode in seen.items()
            if episode.trajectory.fixations and (self.families is None or family[key] in self.families)
        ]
        if len(looked) < self.least:
            return None
        same = fmean(_answer(seen[key]) == _answer(blind[key]) for key in looked)
        text = f"{same:.0%} of answers to {len(looked)} questions stay the same when looks show grey"
        return Verdict(same, same >= self.share, text)


class MemorisedPaths(Monitor):
    """Warns when accuracy rises where the policy was trained and stays behind elsewhere.

    The gap between the two accuracies may be there from the start; what counts is its growth since then. The
    same questions are asked every time, so the growth is a difference of changes, and its standard error is
    that of the changes of single questions.

    Args:
        known: Asks questions of the training's distribution.
        ood: Asks questions of another distribution.
        interval: Updates from one probe to the next.
        growth: Least growth of the gap.
        errors: It is also at least this many standard errors.
    """

    def __init__(
        self, known: Probe, ood: Probe, interval: int = 25, growth: float = 0.1, errors: float = 2.0
    ) -> None:
        """Set the limits."""
        super().__init__("memorised_paths", interval)
        self.known, self.ood = known, ood
        self.growth, self.errors = growth, errors
        self._start: _Accuracies = ({}, {})

    def judge(self, output: dict[str, Any]) -> Verdict:
        """Ask and compare with the start."""
        now = (self.known.accuracies(), self.ood.accuracies())
        growth, error = gap_growth(self._start, now)
        known, ood = (fmean(accuracies.values()) for accuracies in now)
        seen = (
            f"accuracy {known:.0%} in distribution and {ood:.0%} out of it, a gap that grew by "
            f"{growth:.2f} since the start (standard error {error:.2f})"
        )
        return Verdict(growth, growth >= self.growth and growth >= self.errors * error, seen)

    def begin(self, engine: Engine) -> None:
        """Ask for the first time, unless the run is too short for a second."""
        super().begin(engine)
        state = engine.state
        if state.iteration // self.interval < state.max_epochs * state.epoch_length // self.interval:
            self._start = (self.known.accuracies(), self.ood.accuracies())


def gap_growth(start: _Accuracies, now: _Accuracies) -> tuple[float, float]:
    """Return by how much the gap between two accuracies has grown, and the standard error of that.

    Args:
        start: Accuracy of each question in distribution, and out of it.
        now: The same questions later.

    Example:
        >>> gap_growth(({"a": 0.0, "b": 0.0}, {"c": 0.0}), ({"a": 1.0, "b": 1.0}, {"c": 0.0}))
        (1.0, 0.0)
    """
    known, ood = (
        [after[key] - before[key] for key in after] for before, after in zip(start, now, strict=True)
    )
    error = (pvariance(known) / len(known) + pvariance(ood) / len(ood)) ** 0.5
    return fmean(known) - fmean(ood), float(error)


def _answer(episode: Episode) -> str | None:
    said = episode.trajectory.answer
    return None if said is None else normalise(said)
