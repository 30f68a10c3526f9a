"""Numbers about each episode, collected batch by batch and across processes: what the metrics here share."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import Cumulative, Metric
from monai.utils import string_list_all_gather

from medeyes_monai.errors import ConfigError
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["Collected", "EpisodeFigures", "Summary"]


class Summary(Protocol):
    """What a metric makes of all its episodes."""

    def scalars(self) -> dict[str, float]:
        """Return one number for each figure, for loggers that take names and floats."""


@dataclass(frozen=True, slots=True, eq=False)
class Collected:
    """Numbers about episodes, with what they belong to, one row for each episode.

    Args:
        figures: The numbers. Shape ``[episodes, columns]``, float64.
        cases: Key of each episode's question.
        families: Its family.
        images: Key of its scene.
        answers: The answer that was given, or None.
    """

    figures: npt.NDArray[np.float64]
    cases: tuple[str, ...]
    families: tuple[str, ...]
    images: tuple[str, ...]
    answers: tuple[str | None, ...]


class EpisodeFigures(Cumulative, Metric):
    """Base of metrics that make a row of numbers of each episode and summarise all rows.

    Used as any MONAI metric: call it with episodes and cases, ``aggregate``, ``reset``.
    """

    columns: tuple[str, ...] = ()
    """Names of the numbers."""

    @abstractmethod
    def row(self, episode: Episode, case: Case) -> Sequence[float]:
        """Return the numbers of an episode, in the order of :attr:`columns`."""

    @abstractmethod
    def aggregate(self) -> Summary:
        """Summarise all episodes since the last reset, of all processes."""

    def reset(self) -> None:
        """Forget all episodes."""
        super().reset()
        self._rows: list[str] = []

    def __call__(self, y_pred: Sequence[Episode], y: Sequence[Case]) -> torch.Tensor:
        """Add episodes.

        Args:
            y_pred: Episodes, any number for each case.
            y: The cases that they belong to, in any order.

        Returns:
            The numbers of each episode. Shape ``[episodes, columns]``, float64.

        Raises:
            ConfigError: If an episode belongs to none of the cases, or cannot be judged.
        """
        cases = {case.key: case for case in y}
        asked = [_case_of(episode, cases) for episode in y_pred]
        rows = [self.row(episode, case) for episode, case in zip(y_pred, asked, strict=True)]
        figures = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(self.columns))
        if rows:
            pairs = zip(y_pred, asked, strict=True)
            self._rows += [json.dumps(_named(episode, case)) for episode, case in pairs]
            self.extend(figures)
        return figures

    def collected(self) -> Collected:
        """Return all rows since the last reset, of all processes.

        Raises:
            ConfigError: If there are none.
        """
        figures = self.get_buffer()
        if figures is None:
            raise ConfigError(
                "there are no episodes to evaluate; call the metric with episodes and cases first"
            )
        rows = [json.loads(row) for row in string_list_all_gather(self._rows)]
        cases, families, images, answers = zip(*rows, strict=True)
        return Collected(figures.cpu().numpy(), cases, families, images, answers)


def _named(episode: Episode, case: Case) -> list[Any]:
    return [case.key, case.family, case.scene.key, episode.trajectory.answer]


def _case_of(episode: Episode, cases: Mapping[str, Case]) -> Case:
    if episode.case not in cases:
        raise ConfigError(f"no case with key {episode.case!r} for an episode; pass the cases that were asked")
    return cases[episode.case]
