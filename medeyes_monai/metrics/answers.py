"""Answers scored by a named protocol: closed and open apart, with counts and intervals."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.figures import EpisodeFigures
from medeyes_monai.metrics.intervals import RESAMPLES, Estimate, Values, estimates
from medeyes_monai.metrics.scoring import OWN, Preset, preset
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["AnswerMetric", "Scores", "Section", "score"]

SectionName = Literal["all", "closed", "open"]


@dataclass(frozen=True, slots=True)
class Section:
    """Scores of all questions, of the closed, or of the open ones.

    Args:
        name: Which questions.
        measure: What the score is; where it is one thing of closed and another of open questions, both.
        score: Its mean, from 0 to 1.
        answered: Questions that got an answer; the others count as wrong.
    """

    name: SectionName
    measure: str
    score: Estimate
    answered: int


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a protocol says of a run, question by question and in sum.

    Args:
        preset: Name of the protocol.
        cases: Keys of the questions, each once, sorted; the other fields are in their order.
        images: Their images, which are what an interval resamples.
        answers: What was answered, None where nothing was.
        score: Score of each answer, from 0 to 1. Shape ``[questions]``.
        closed: Whether each question is closed. Shape ``[questions]``, bool.
        looks: Number of looks before each answer. Shape ``[questions]``.
        extras: What the protocol reports beside it, NaN for closed questions. Shape ``[questions, extras]``.
    """

    preset: str
    cases: tuple[str, ...]
    images: tuple[str, ...]
    answers: tuple[str | None, ...]
    score: Values
    closed: np.ndarray[Any, np.dtype[np.bool_]]
    looks: Values
    extras: Values

    def __len__(self) -> int:
        """Number of questions."""
        return len(self.cases)

    @property
    def binary(self) -> bool:
        """Whether every answer is either right or wrong."""
        return bool(np.isin(self.score, (0.0, 1.0)).all())

    def restrict(self, cases: Collection[str]) -> Scores:
        """Return the scores of some questions; those that are not here are left out.

        Raises:
            ConfigError: If none of them is here.
        """
        wanted = set(cases)
        keep = np.array([case in wanted for case in self.cases], dtype=bool)
        if not keep.any():
            raise ConfigError(f"none of {len(wanted)} questions is among the {len(self)} that were scored")
        rows = np.flatnonzero(keep)
        names: dict[str, Any] = {
            field: tuple(getattr(self, field)[n] for n in rows) for field in ("cases", "images", "answers")
        }
        numbers = {field: getattr(self, field)[rows] for field in ("score", "closed", "looks", "extras")}
        return replace(self, **names, **numbers)

    def sections(self, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[Section, ...]:
        """Return the scores of all questions, and closed and open apart where there are such."""
        answered = np.array([answer is not None for answer in self.answers])
        members: dict[SectionName, Any] = {
            "all": np.ones(len(self), dtype=bool),
            "closed": self.closed,
            "open": ~self.closed,
        }
        table = np.stack([np.where(rows, self.score, math.nan) for rows in members.values()], axis=1)
        means = estimates(table, self.images, resamples=resamples, seed=seed)
        return tuple(
            Section(name, self._measure(name), mean, int(answered[rows].sum()))
            for (name, rows), mean in zip(members.items(), means, strict=True)
            if mean.count
        )

    def overlaps(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Estimate]:
        """Return the means of what the protocol reports of open questions beside the score, by its name."""
        means = estimates(self.extras, self.images, resamples=resamples, seed=seed)
        return dict(zip(preset(self.preset).extras, means, strict=True))

    def scalars(self) -> dict[str, float]:
        """Return one number for each figure, for loggers that take names and floats."""
        return {part.name: part.score.value for part in self.sections()}

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the single questions as plain values that JSON can hold."""
        protocol = preset(self.preset)
        return {
            "preset": self.preset,
            "known": protocol.known,
            "assumed": protocol.assumed,
            "interval": f"95 %, {RESAMPLES} resamples of {len(set(self.images))} images",
            "sections": {
                section.name: {
                    "measure": section.measure,
                    **section.score.to_dict(),
                    "answered": section.answered,
                }
                for section in self.sections()
            },
            "open": {name: mean.to_dict() for name, mean in self.overlaps().items()},
        }

    def _measure(self, name: SectionName) -> str:
        measures = preset(self.preset).measures
        if name != "all":
            return measures[name]
        kinds: tuple[Literal["closed", "open"], ...] = ("closed", "open")
        here = [kind for kind in kinds if (self.closed == (kind == "closed")).any()]
        return " and ".join(dict.fromkeys(measures[kind] for kind in here))


class AnswerMetric(EpisodeFigures):
    """Scores answers by a named protocol, batch by batch and across processes.

    Args:
        preset: Name of the protocol, see :data:`~medeyes_monai.metrics.scoring.PRESETS`.

    Raises:
        ConfigError: If there is no such protocol.
    """

    def __init__(self, preset: str = OWN) -> None:
        """Look up the protocol."""
        super().__init__()
        self.preset = _preset(preset)
        self.columns = ("score", "closed", "looks", *self.preset.extras)

    def row(self, episode: Episode, case: Case) -> tuple[float, ...]:
        """Return what the protocol says of an episode's answer.

        Raises:
            ConfigError: If the case cannot be scored.
        """
        said = self.preset.judge(episode.trajectory.answer or "", case)
        score = 0.0 if episode.trajectory.answer is None else said.score
        unknown = (math.nan,) * len(self.preset.extras)
        looks = float(len(episode.trajectory.fixations))
        return (score, float(said.kind == "closed"), looks, *(said.extras or unknown))

    def aggregate(self) -> Scores:
        """Return the scores of all episodes since the last reset, of all processes.

        Raises:
            ConfigError: If there are none, or several of one question.
        """
        rows = self.collected()
        if len(set(rows.cases)) < len(rows.cases):
            raise ConfigError(
                f"{len(rows.cases)} episodes answer {len(set(rows.cases))} questions; score one of each"
            )
        order = sorted(range(len(rows.cases)), key=rows.cases.__getitem__)
        figures = rows.figures[order]
        return Scores(
            preset=self.preset.name,
            cases=tuple(rows.cases[n] for n in order),
            images=tuple(rows.images[n] for n in order),
            answers=tuple(rows.answers[n] for n in order),
            score=figures[:, 0],
            closed=figures[:, 1] == 1,
            looks=figures[:, 2],
            extras=figures[:, 3:],
        )


def score(episodes: Sequence[Episode], cases: Sequence[Case], preset: str = OWN) -> Scores:
    """Score one episode of each question by a named protocol, see :class:`AnswerMetric`.

    Raises:
        ConfigError: If there is no episode, one belongs to none of the cases, a case cannot be scored, or
            there is no such protocol.
    """
    metric = AnswerMetric(preset)
    metric(episodes, cases)
    return metric.aggregate()


def _preset(name: str) -> Preset:
    return preset(name)
