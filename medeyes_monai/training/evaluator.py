"""The evaluator: every question once, scored, as a MONAI evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ignite.engine import Engine
from monai.engines import Evaluator
from monai.inferers import Inferer
from monai.utils import CommonKeys
from torch.utils.data import DataLoader, Dataset

from medeyes_monai.metrics import EpisodeFigures, Evaluation, evaluate
from medeyes_monai.policy import Policy
from medeyes_monai.scenes import BlankedScene, Case
from medeyes_monai.training.experience import Reward
from medeyes_monai.trajectory import Episode

__all__ = ["EpisodeEvaluator"]


class EpisodeEvaluator(Evaluator):
    """Asks a policy every question of a data set and scores what it does.

    After a run, :attr:`episodes` and :attr:`cases` hold everything that was done, and :attr:`evaluation` its
    summary. ``engine.state.output`` holds answer (``CommonKeys.PRED``) and accuracy of each episode,
    ``engine.state.metrics`` the summary so far.

    Args:
        policy: The policy.
        dataset: The questions.
        inferer: How the policy looks and answers.
        reward: Scores an episode; None for questions without reference answers.
        batch: Questions in an iteration.
        blank_looks: Show grey instead of pixels at every look, to see whether answers depend on them.
        gaze_families: Families whose looks count for the gaze figures; None for all.
        metrics: Further metrics by name, such as ``GroundingMetric()``; at the end of a run their figures are
            in ``engine.state.metrics`` as ``name/figure``.
        handlers: Ignite or MONAI handlers.
    """

    def __init__(
        self,
        policy: Policy,
        dataset: Dataset[Case],
        inferer: Inferer,
        reward: Reward | None = None,
        *,
        batch: int = 64,
        blank_looks: bool = False,
        gaze_families: Sequence[str] | None = None,
        metrics: Mapping[str, EpisodeFigures] | None = None,
        handlers: Sequence[Any] | None = None,
    ) -> None:
        """Set up the loader."""
        super().__init__(
            device=next(iter(policy.parameters())).device,
            val_data_loader=DataLoader(dataset, batch_size=batch, collate_fn=list),
            val_handlers=handlers,
            decollate=False,
        )
        self.policy, self.inferer, self.reward = policy, inferer, reward
        self.blank_looks, self.gaze_families = blank_looks, gaze_families
        self.metrics = dict(metrics or {})
        self.episodes: list[Episode] = []
        self.cases: list[Case] = []
        self._asked: set[str] = set()

    @property
    def evaluation(self) -> Evaluation:
        """Summary of the last run.

        Raises:
            ConfigError: If nothing was run, or the questions have no reference answers.
        """
        return evaluate(self.episodes, self.cases, self.gaze_families)

    def run(self, global_epoch: int = 1) -> None:
        """Ask every question once."""
        self.episodes, self.cases, self._asked = [], [], set()
        for metric in self.metrics.values():
            metric.reset()
        super().run(global_epoch)

    def _iteration(self, engine: Engine, batchdata: list[Case]) -> list[dict[str, Any]]:
        self.policy.train(False)
        # an unreadable item that was skipped repeats another question
        fresh = {case.key: case for case in batchdata}
        batchdata = [case for key, case in fresh.items() if key not in self._asked]
        self._asked |= fresh.keys()
        shown = batchdata
        if self.blank_looks:
            shown = [replace(case, scene=BlankedScene(case.scene)) for case in batchdata]
        episodes: list[Episode] = self.inferer(shown, self.policy)
        if self.reward is not None:
            by_key = {case.key: case for case in batchdata}
            episodes = [self.reward(episode, by_key[episode.case]) for episode in episodes]
        self.episodes += episodes
        self.cases += batchdata
        if self.reward is not None:
            engine.state.metrics = self.evaluation.scalars()
        for metric in self.metrics.values():
            metric(episodes, batchdata)
        if engine.state.iteration == engine.state.epoch_length:
            engine.state.metrics = {**engine.state.metrics, **self._figures()}
        return [
            {
                CommonKeys.PRED: episode.trajectory.answer,
                "accuracy": episode.reward_parts.get("accuracy", float("nan")),
            }
            for episode in episodes
        ]

    def _figures(self) -> dict[str, float]:
        """Return the figures of the further metrics."""
        return {
            f"{name}/{figure}": value
            for name, metric in self.metrics.items()
            for figure, value in metric.aggregate().scalars().items()
        }
