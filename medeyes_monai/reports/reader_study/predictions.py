"""The one place that knows the file of predictions that an evaluation leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.io.json_lines import object_of, whole_lines
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode, Fixation, Trajectory

__all__ = ["Prediction", "Questions", "case_of", "predictions_of", "read_predictions"]

PREDICTIONS = "medeyes predictions 1"
"""Layout of the files that are read, as their first line names it."""
WAY_OUT = "evaluate again, or take the line out"


class Questions(Protocol):
    """A data set of questions by number."""

    def __len__(self) -> int:
        """Number of questions."""

    def __getitem__(self, index: int) -> Case:
        """Return a question with its scene."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model did with one question.

    Args:
        item: Number of the question in its data, from 0.
        key: Name of the question.
        question: The question.
        path: Looks, boxes in voxels of the scene, and the answer.
        place: Where it was read, for messages.
    """

    item: int
    key: str
    question: str
    path: Trajectory
    place: str


def predictions_of(episodes: Sequence[Episode], cases: Sequence[Case]) -> list[Prediction]:
    """Return the predictions of an evaluator that has run, for its own cases as the data.

    Raises:
        ConfigError: If an episode belongs to none of the cases.
    """
    numbers = {case.key: number for number, case in enumerate(cases)}
    if stray := [episode.case for episode in episodes if episode.case not in numbers]:
        raise ConfigError(f"an episode is about {stray[0]!r}, which is none of the {len(cases)} cases")
    return [
        Prediction(number, ep.case, cases[number].question, ep.trajectory, f"episode of {ep.case}")
        for ep, number in ((episode, numbers[episode.case]) for episode in episodes)
    ]


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read the predictions of an evaluation.

    This is the only function that knows the file: a first line with its ``format`` and what the ``run``
    depends on, of which a ``condition`` is refused that changes what looks show; then a line for each
    question with ``item`` (its number in the data), ``key``, ``question``, ``answer``, ``reasoning`` and
    ``turns``, of which those that looked have ``box`` (corners in voxels) and ``reasoning``. Items that the
    evaluation skipped, and a last line without its end, are left out.

    Args:
        path: ``predictions.jsonl``, or the folder that holds it.

    Raises:
        ConfigError: If the file is missing, has another form, or was made under a condition; the message
            names the line.
    """
    file = Path(path) / "predictions.jsonl" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ConfigError(f"{file} does not exist; give the predictions.jsonl of an evaluation")
    rows = ((object_of(line, place, WAY_OUT), place) for line, place in whole_lines(file))
    header, _ = next(rows, ({}, ""))
    if header.get("format") != PREDICTIONS:
        raise ConfigError(f"{file.name}, line 1: wanted the format {PREDICTIONS!r}, got another")
    run = header.get("run")
    if isinstance(run, dict) and run.get("condition") is not None:
        raise ConfigError(
            f"{file.name}: the model was asked under the condition {run['condition']!r}, so its looks showed "
            "something else; give the predictions of the unchanged questions"
        )
    return [_predicted(row, place) for row, place in rows if "skipped" not in row]


def case_of(prediction: Prediction, data: Questions) -> Case:
    """Return the question of a prediction, with its image.

    Raises:
        ConfigError: If the data hold another question in its place.
    """
    if not 0 <= prediction.item < len(data):
        raise ConfigError(
            f"{prediction.place}: item {prediction.item} is not among the {len(data)} questions of the data; "
            "give the data that were evaluated"
        )
    case = data[prediction.item]
    if (case.key, case.question) != (prediction.key, prediction.question):
        raise ConfigError(
            f"{prediction.place}: item {prediction.item} of the data is another question; give the data that "
            "were evaluated"
        )
    return case


def _predicted(row: Mapping[str, Any], place: str) -> Prediction:
    try:
        looks = tuple(
            Fixation(_text(turn["reasoning"]), Box.from_corners(turn["box"]))
            for turn in row["turns"]
            if turn["box"] is not None
        )
        answer = None if row["answer"] is None else _text(row["answer"])
        path = Trajectory(looks, _text(row["reasoning"]), answer)
        return Prediction(int(row["item"]), _text(row["key"]), _text(row["question"]), path, place)
    except KeyError as error:
        raise ConfigError(f"{place}: lacks {error.args[0]!r}") from error
    except (TypeError, ValueError, GeometryError) as error:
        raise ConfigError(f"{place}: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"wanted text, got {type(value).__name__}")
    return value
