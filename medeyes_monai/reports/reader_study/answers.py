"""The answers of readers, as their browsers saved them, joined with the key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medeyes_monai.errors import ConfigError
from medeyes_monai.reports.reader_study.design import Key, KeyItem, Shown
from medeyes_monai.reports.reader_study.reading import check_schema, read_json, schema_of

__all__ = ["RatedCase", "State", "read_answers"]

State = Literal["rated", "left", "open"]
"""Rated in full; left without, and said so; neither."""


@dataclass(frozen=True, slots=True)
class RatedCase:
    """What one reader said of one item. Ratings are from 1 to 5, None where there is none.

    Args:
        reader: Name of the reader.
        item: Name of the item.
        path: Whether the reader saw the looks.
        right: Whether the model's answer is right.
        state: How far it was rated.
        correctness: Is the answer correct; 3 means that the reader cannot tell.
        confidence: How sure the reader is of it.
        trust: How far the reader would rely on the answer.
        usefulness: One for each look; empty without looks.
        comment: Free text.
    """

    reader: str
    item: str
    path: bool
    right: bool
    state: State
    correctness: int | None
    confidence: int | None
    trust: int | None
    usefulness: tuple[int | None, ...]
    comment: str

    @property
    def judgement(self) -> float:
        """What the reader takes the answer for: right 1, wrong -1, undecided 0; NaN if not rated.

        Example:
            >>> case = RatedCase("reader-1", "a", False, False, "rated", 2, 4, 1, (), "")
            >>> case.judgement, case.accuracy
            (-1.0, 1.0)
        """
        if self.correctness is None:
            return math.nan
        return math.copysign(1.0, self.correctness - 3) if self.correctness != 3 else 0.0

    @property
    def accuracy(self) -> float:
        """1 if the judgement is what the truth is, else 0, also if undecided; NaN if not rated."""
        if self.correctness is None:
            return math.nan
        return float(self.judgement == (1.0 if self.right else -1.0))


def read_answers(paths: Sequence[str | Path], key: Key) -> list[RatedCase]:
    """Read the answers of several readers and join them with the key.

    Args:
        paths: One file for each reader.
        key: The key of the study.

    Raises:
        ConfigError: If there is no file, or one is damaged, of another study, of a reader who is not in the
            key or comes twice, or says of a case what was not asked; the message names file and field.
    """
    if not paths:
        raise ConfigError("there are no answers; give the file of at least one reader")
    found: dict[str, str] = {}
    rated: list[RatedCase] = []
    for file in map(Path, paths):
        content = read_json(file)
        check_schema(content, schema_of("answers"), file.name)
        reader = content["reader"]
        if content["study"] != key.study:
            raise ConfigError(f"{file.name}: study: is of another study than the key, {key.study}")
        if reader not in key.readers:
            raise ConfigError(f"{file.name}: reader: is not one of the {len(key.readers)} in the key")
        if reader in found:
            raise ConfigError(f"{file.name}: reader: {reader} is also in {found[reader]}; give one of them")
        found[reader] = file.name
        rated += _cases(content["cases"], reader, key, file.name)
    return rated


def _cases(rows: Sequence[dict[str, Any]], reader: str, key: Key, place: str) -> list[RatedCase]:
    shown = key.readers[reader]
    if len(rows) != len(shown):
        raise ConfigError(f"{place}: cases: wanted {len(shown)}, got {len(rows)}")
    rated = []
    for n, (row, one) in enumerate(zip(rows, shown, strict=True)):
        if row["case"] != n + 1:
            raise ConfigError(f"{place}: cases[{n}].case: wanted {n + 1}, got {row['case']}")
        rated.append(_case(row, reader, one, key.items[one.item], f"{place}: cases[{n}]"))
    return rated


def _case(row: dict[str, Any], reader: str, shown: Shown, item: KeyItem, place: str) -> RatedCase:
    looks = len(item.boxes) if shown.path else 0
    if len(row["usefulness"]) != looks:
        raise ConfigError(
            f"{place}.usefulness: wanted {looks} ratings, one for each look that was shown, got "
            f"{len(row['usefulness'])}"
        )
    single = {name: row[name] for name in ("correctness", "confidence", "trust")}
    useful = tuple(row["usefulness"])
    full = None not in (*single.values(), *useful)
    state: State = "rated" if full else "left" if row["left"] else "open"
    return RatedCase(
        reader=reader,
        item=shown.item,
        path=shown.path,
        right=item.right,
        state=state,
        usefulness=useful,
        comment=row["comment"],
        **single,
    )
