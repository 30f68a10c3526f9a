"""What is asked and about which series: a JSON or YAML list."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from medeyes_monai.errors import ConfigError
from medeyes_monai.io.literals import is_text

__all__ = ["Question", "read_questions"]

MAX_BYTES = 2**20
MOST_QUESTIONS = 100
RULE_TAGS = (
    "BodyPartExamined",
    "ImageOrientationPatient",
    "ImageType",
    "Modality",
    "ProtocolName",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SOPClassUID",
    "StudyDescription",
    "StudyInstanceUID",
)
"""Tags that a rule may ask for. None of them names a patient."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question and the rule that chooses its series.

    Args:
        question: The question, in words.
        name: Short name, unique in its list, where it is ``question 1`` and so on if not given.
        options: Answers to choose from.
        series: By name of a tag, a regular expression that is found in its value; values of several parts
            are joined by backslashes, as in DICOM. Empty takes any series with an image.
        slices: For a policy that reads pictures: ``"middle"``, ``"each"``, or numbers of slices from 0 in
            the order along the normal. Not read by a policy that reads volumes.

    Raises:
        ConfigError: If a question is empty, a tag is unknown, or an expression or a slice is wrong.
    """

    question: str
    name: str = "question"
    options: tuple[str, ...] = ()
    series: Mapping[str, str] = field(default_factory=dict)
    slices: str | tuple[int, ...] = "middle"

    def __post_init__(self) -> None:
        """Check what a file may get wrong."""
        if not isinstance(self.question, str) or not self.question.strip():
            raise ConfigError("a question needs words under the key 'question'")
        if not isinstance(self.name, str) or not all(isinstance(option, str) for option in self.options):
            raise ConfigError("the name of a question and its options are texts; put yes and no in quotes")
        if not all(map(is_text, (self.question, self.name, *self.options))):
            raise ConfigError("a question holds half a character or a null, which no text has; write UTF-8")
        for tag, pattern in self.series.items():
            _check_rule(tag, pattern)
        if isinstance(self.slices, str):
            if self.slices not in ("middle", "each"):
                raise ConfigError(f"slices are 'middle', 'each' or numbers, got {self.slices!r}")
        elif not self.slices or not all(type(k) is int and k >= 0 for k in self.slices):
            raise ConfigError("slices are 'middle', 'each' or numbers from 0")

    def fits(self, tags: Mapping[str, str]) -> bool:
        """Tell whether a series with these values is meant.

        Example:
            >>> question = Question("Is there a nodule?", series={"SeriesDescription": "(?i)lung"})
            >>> question.fits({"SeriesDescription": "Thin LUNG 1.0"}), question.fits({})
            (True, False)
        """
        return all(re.search(pattern, tags.get(tag, "")) for tag, pattern in self.series.items())

    def chosen(self, count: int) -> list[int]:
        """Return the slices of a series of ``count`` that are asked about.

        Raises:
            ConfigError: If there is no such slice.
        """
        if self.slices == "middle":
            return [count // 2]
        if isinstance(self.slices, str):
            return list(range(count))
        beyond = [k for k in self.slices if k >= count]
        if beyond:
            raise ConfigError(f"slice {beyond[0]} is asked for, and the series has {count}, from 0")
        return list(self.slices)


def read_questions(path: str | os.PathLike[str]) -> tuple[Question, ...]:
    r"""Read a list of questions.

    Args:
        path: A ``.json``, ``.yaml`` or ``.yml`` file with a list; see :class:`Question` for the keys.

    Raises:
        ConfigError: If the file is missing, too long, not a list, or a key is unknown.

    Example:
        >>> file = getfixture("tmp_path") / "questions.yaml"
        >>> _ = file.write_text("- question: Is there a nodule?\n  series: {Modality: CT}\n")
        >>> read_questions(file)[0].name
        'question 1'
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"{file} does not exist; give a .json or .yaml list of questions")
    if file.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{file.name} is longer than {MAX_BYTES:,} bytes")
    try:
        text = file.read_text("utf-8")  # YAML reads JSON too, but a letter beyond 16 bits as two halves
        rows = json.loads(text) if file.suffix.lower() == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file.name} is neither JSON nor YAML") from error
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST_QUESTIONS:
        raise ConfigError(f"{file.name} has to be a list of 1 to {MOST_QUESTIONS} questions")
    questions = tuple(_question(row, number, file.name) for number, row in enumerate(rows, start=1))
    names = [question.name for question in questions]
    double = {name for name in names if names.count(name) > 1}
    if double:
        raise ConfigError(f"{file.name}: the name {min(double)!r} is given twice")
    return questions


def _question(row: Any, number: int, file: str) -> Question:
    where = f"{file}, question {number}"
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: a question is a mapping with the key 'question'")
    known = [one.name for one in fields(Question)]
    for key in row:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            way_out = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {str(key)!r}; {way_out}")
    values: dict[str, Any] = {"question": "", "name": f"question {number}"} | row
    for key in ("options", "slices"):
        if isinstance(values.get(key), list):
            values[key] = tuple(values[key])
    if not isinstance(values.get("options", ()), tuple) or not isinstance(values.get("series", {}), dict):
        raise ConfigError(f"{where}: options are a list, and series maps tags to expressions")
    try:
        return Question(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_rule(tag: Any, pattern: Any) -> None:
    if tag not in RULE_TAGS:
        raise ConfigError(f"a series is chosen by {', '.join(RULE_TAGS)}; {str(tag)!r} is none of these")
    if not isinstance(pattern, str):
        raise ConfigError(f"the rule of {tag} is a text, a regular expression")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"the rule of {tag} is not a regular expression: {error.msg}") from error
