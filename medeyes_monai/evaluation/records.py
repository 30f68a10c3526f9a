"""One answered question as it is written down: a line of JSON from which every measure can be made again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.metrics import turn_confidences
from medeyes_monai.metrics.confidence import turn_spans
from medeyes_monai.scenes import Case, Finding, View
from medeyes_monai.trajectory import Episode, Fixation, Trajectory

__all__ = ["Answered", "Record", "RecordedScene", "cases_and_episodes", "record_of"]

_DIGITS = 6
"""Decimals of log-probabilities and seconds in a file."""


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """What was said to one question.

    Args:
        episode: The episode; where a server does not tell token ids they are 0, and without log-probabilities
            it has no tokens.
        confidence: Probability of the answer from 0 to 1; None where it is not known.
        seconds: Time that it took, of a batch the even share.
    """

    episode: Episode
    confidence: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class RecordedScene:
    """What a file of predictions keeps of an image: everything but the pixels.

    Args:
        key: Name of the image.
        shape: Its extent. Unit: voxels.
        findings: What the data say is in it.
    """

    key: str
    shape: tuple[int, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def frame(self) -> tuple[int, ...]:
        """Extent of the image."""
        return self.shape

    def overview(self) -> View:
        """Refuse: pixels are not kept."""
        self._refuse()

    def look(self, box: Box) -> View:
        """Refuse: pixels are not kept."""
        self._refuse()

    def to_world(self, box: Box) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Refuse: the place in the world is not kept."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            f"{self.key}: a file of predictions holds no pixels; ask the data set for the image"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """An answered question.

    Args:
        item: Its number in the data set, from 0.
        case: The question; its scene has no pixels.
        episode: What was done; without pictures. Token ids between turns are 0, one for each turn.
        confidence: Probability of the answer, or None where it is not known.
        seconds: Time that it took.
        early: Probability of the reference answer after 0, 1, … n looks; empty where it is not known.
    """

    item: int
    case: Case
    episode: Episode
    confidence: float | None
    seconds: float
    early: tuple[float, ...] = ()

    def to_row(self) -> dict[str, Any]:
        """Return it as JSON can hold it.

        Keys: ``item``, ``key``, ``image``, ``shape``, ``question``, ``options``, ``reference``, ``family``,
        ``scoring``, ``tolerance``, ``findings`` (``box``, ``label``, ``subtle``), ``answer``, ``reasoning``
        (before the answer), ``defect``, ``confidence``, ``seconds``, ``early``, and ``turns``, each with
        ``text``, ``box`` (where it looked, or null), ``reasoning``, ``confidence``, ``tokens`` and
        ``logprobs``. Boxes are corners, half-open, in voxels of the image.
        """
        case, path = self.case, self.episode.trajectory
        return {
            "item": self.item,
            "key": case.key,
            "image": case.scene.key,
            "shape": list(case.scene.shape),
            "question": case.question,
            "options": list(case.options),
            "reference": case.answer,
            "family": case.family,
            "scoring": case.scoring,
            "tolerance": case.tolerance,
            "findings": [
                {"box": list(found.box.corners), "label": found.label, "subtle": found.subtle}
                for found in case.scene.findings
            ],
            "answer": path.answer,
            "reasoning": path.reasoning,
            "defect": self.episode.defect,
            "confidence": self.confidence,
            "seconds": round(self.seconds, _DIGITS),
            "early": [round(chance, _DIGITS) for chance in self.early],
            "turns": _turns(self.episode),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Record:
        """Read what :meth:`to_row` gives.

        Raises:
            KeyError: If something is missing.
            TypeError: If something is of another type.
            ValueError: If something cannot be, such as a probability above 1 or a box without extent.
        """
        case = Case(
            key=_text(row["key"]),
            scene=RecordedScene(
                _text(row["image"]), tuple(map(int, row["shape"])), tuple(map(_finding, row["findings"]))
            ),
            question=_text(row["question"]),
            answer=_text(row["reference"]),
            options=tuple(map(_text, row["options"])),
            family=_text(row["family"]),
            scoring=row["scoring"],
            tolerance=float(row["tolerance"]),
        )
        sure = None if row["confidence"] is None else float(row["confidence"])
        episode, early = _episode(row, case.key), tuple(map(float, row.get("early", ())))
        looks = len(episode.trajectory.fixations)
        if len(early) not in (0, looks + 1) or not all(0 <= chance <= 1 for chance in early):
            raise ValueError(
                f"early: wanted none or {looks + 1} probabilities from 0 to 1 for {looks} looks, got {early}"
            )
        return cls(int(row["item"]), case, episode, sure, float(row["seconds"]), early)


def record_of(item: int, case: Case, answered: Answered, early: Sequence[float] = ()) -> Record:
    """Return what is kept of an answered question; it holds no pixels.

    Args:
        item: Its number in the data set.
        case: The question.
        answered: What was said to it.
        early: Probability of the reference answer after 0, 1, … n looks, where it is known.

    Raises:
        ConfigError: If the case has no reference answer, or a probability is no number.
    """
    if case.answer is None:
        raise ConfigError(
            f"item {item} ({case.key}) has no reference answer, which an evaluation needs; leave such items "
            "out, or ask them by the verb infer"
        )
    if not bool(torch.isfinite(answered.episode.behaviour_logprobs).all()):
        raise ConfigError(
            f"item {item} ({case.key}): probabilities of tokens are no numbers; are the weights whole?"
        )
    scene = RecordedScene(case.scene.key, tuple(case.scene.shape), tuple(case.scene.findings))
    episode = replace(answered.episode, pictures=())
    return Record(
        item, replace(case, scene=scene), episode, answered.confidence, answered.seconds, tuple(early)
    )


def _turns(episode: Episode) -> list[dict[str, Any]]:
    looks = episode.trajectory.fixations
    spans, sure = turn_spans(episode), turn_confidences(episode)
    rows = []
    for number, text in enumerate(episode.turns):
        look = looks[number] if number < len(looks) else None
        start, stop = spans[number] if number < len(spans) else (0, 0)
        rows.append(
            {
                "text": text,
                "box": None if look is None else list(look.box.corners),
                "reasoning": None if look is None else look.reasoning,
                "confidence": round(sure[number], _DIGITS) if number < len(sure) else None,
                "tokens": episode.token_ids[start:stop].tolist(),
                "logprobs": [round(v, _DIGITS) for v in episode.behaviour_logprobs[start:stop].tolist()],
            }
        )
    return rows


def _episode(row: Mapping[str, Any], key: str) -> Episode:
    tokens: list[int] = []
    mask: list[bool] = []
    chances: list[float] = []
    for turn in row["turns"]:
        tokens += [0, *map(int, turn["tokens"])]
        mask += [False, *[True] * len(turn["tokens"])]
        chances += [0.0, *map(float, turn["logprobs"])]
    if not len(tokens) == len(chances) or not all(v <= 0 and math.isfinite(v) for v in chances):
        raise ValueError("wanted one log-probability of at most 0 for each token")
    looks = [
        Fixation(_text(turn["reasoning"]), Box.from_corners(turn["box"]))
        for turn in row["turns"]
        if turn["box"] is not None
    ]
    answer = None if row["answer"] is None else _text(row["answer"])
    return Episode(
        case=key,
        stream="policy",
        draw=0,
        token_ids=torch.tensor(tokens, dtype=torch.long),
        response_mask=torch.tensor(mask, dtype=torch.bool),
        behaviour_logprobs=torch.tensor(chances, dtype=torch.float32),
        pictures=(),
        turns=tuple(_text(turn["text"]) for turn in row["turns"]),
        trajectory=Trajectory(tuple(looks), _text(row["reasoning"]), answer),
        defect=None if row["defect"] is None else _text(row["defect"]),
    )


def _finding(row: Mapping[str, Any]) -> Finding:
    return Finding(Box.from_corners(row["box"]), _text(row["label"]), bool(row["subtle"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"wanted text, got {type(value).__name__}")
    return value


def cases_and_episodes(records: Sequence[Record]) -> tuple[list[Episode], list[Case]]:
    """Return episodes and questions of some records, as metrics take them."""
    return [record.episode for record in records], [record.case for record in records]
