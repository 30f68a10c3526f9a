"""A datalist as it is written: one checked item for each question, before any image is read."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from medeyes_monai.data.texts import read_text
from medeyes_monai.data.wording import names_a_side, option_named
from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.io.literals import is_text
from medeyes_monai.scenes import Scoring

__all__ = ["DatalistItem", "check_unique", "item_from", "read_datalist"]

KEYS = (
    "image question answer options boxes labels mask family scoring tolerance id key group metadata".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class DatalistItem:
    """One question of a datalist.

    Args:
        number: Place in the datalist, from 0, for messages.
        key: Name of the question.
        image: Path of the image, relative to the base directory, as the datalist gives it.
        question: The question, in words.
        answer: The reference answer, or None.
        options: Answers to choose from.
        boxes: Regions of the image that the data mark. Unit: voxels of the image.
        labels: What the regions are, one word for each box or each value of the mask; empty if not said.
        mask: Path of a label image instead of boxes, relative to the base directory.
        family: Kind of question.
        scoring: Rule by which answers are compared.
        tolerance: Largest difference that counts as right under ``numeric`` scoring.
        group: Items of one group (by default, of one image) stay together in a split.
        metadata: What else the datalist says; never shown to a policy.
    """

    number: int
    key: str
    image: str
    question: str
    answer: str | None = None
    options: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    labels: tuple[str, ...] = ()
    mask: str | None = None
    family: str = "all"
    scoring: Scoring = "exact"
    tolerance: float = 0.0
    group: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def names_a_side(self) -> bool:
        """Whether left or right is named, so that the image must not be mirrored without the words."""
        return names_a_side(self.question, self.answer, *self.options)


def read_datalist(path: str | Path, section: str = "training") -> tuple[DatalistItem, ...]:
    """Read and check a datalist.

    Args:
        path: JSON with a list of items under each section's name, in the form of MONAI's
            ``load_decathlon_datalist`` (which itself is not used: it turns an answer into a path wherever a
            file of that name exists); or JSONL, one item a line, without sections.
        section: Section of a JSON file. JSONL ignores it.

    Returns:
        The items, in order. An item has ``image`` and ``question``, and may have ``answer``, ``options``,
        ``boxes`` (``[[x1, y1, x2, y2], …]`` or six numbers each), ``labels``, ``mask``, ``family``,
        ``scoring``, ``tolerance``, ``id`` or ``key``, ``group``, and ``metadata``. Without
        ``scoring``, options mean ``choice``, the answers yes and no ``closed``, and others ``exact``.

    Raises:
        ConfigError: If the file is missing, is no such list, is empty, or an item is wrong; the message names
            the item's number, from 0.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"datalist {file} does not exist; give the path of a .json or .jsonl file")
    text = read_text(file)
    try:
        rows = _rows_of_lines(text) if file.suffix == ".jsonl" else _rows_of_section(text, section)
        if not rows:
            raise ConfigError("holds no items; give at least one question")
        items = tuple(item_from(row, number) for number, row in enumerate(rows))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"datalist {file.name}: {error}") from error
    check_unique(items, f"datalist {file.name}")
    return items


def check_unique(items: Collection[DatalistItem], where: str) -> None:
    """Refuse items of which two have one name.

    Raises:
        ConfigError: If there are such; the message begins with ``where`` and gives both numbers.
    """
    first: dict[str, int] = {}
    for item in items:
        if item.key in first:
            numbers = f"items {first[item.key]} and {item.number}"
            raise ConfigError(f"{where}: {numbers} have the same id {item.key!r}; each needs its own")
        first[item.key] = item.number


def item_from(row: Any, number: int) -> DatalistItem:
    """Check one row of a datalist.

    Raises:
        ConfigError: If it is wrong; the message starts with the item's number.

    Example:
        >>> item_from({"image": "a.png", "question": "Is it?", "answer": "no"}, 0).scoring
        'closed'
        >>> item_from({"image": "a.png", "questoin": "Is it?"}, 7)
        Traceback (most recent call last):
        medeyes_monai.errors.ConfigError: item 7: unknown key 'questoin'; did you mean 'question'?
    """
    try:
        return _item(row, number)
    except (ConfigError, GeometryError) as error:
        raise ConfigError(f"item {number}: {error}") from error


def _rows_of_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _rows_of_section(text: str, section: str) -> list[Any]:
    content = json.loads(text)
    if not isinstance(content, dict) or not isinstance(content.get(section), list):
        raise ConfigError(f"wanted {{{section!r}: [items]}}, got {_shape_of(content)}")
    rows: list[Any] = content[section]
    return rows


def _shape_of(content: Any) -> str:
    return f"sections {sorted(content)}" if isinstance(content, dict) else type(content).__name__


def _item(row: Any, number: int) -> DatalistItem:
    if not isinstance(row, Mapping):
        raise ConfigError(f"wanted an object with image and question, got {type(row).__name__}")
    _check_keys(row)
    if isinstance(row.get("image"), list):
        raise ConfigError(
            f"has {len(row['image'])} images, and a question is about one; lay them side by side with "
            "medeyes_monai.data.tiling.tile"
        )
    image, answer = _text(row, "image"), row.get("answer")
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = str(answer)
    if answer is not None and (not isinstance(answer, str) or not answer.strip()):
        raise ConfigError(f"answer must be words or a number, got {type(answer).__name__}; or leave it out")
    options, labels = _texts(row, "options"), _texts(row, "labels")
    boxes = tuple(Box.from_corners(_numbers(corners)) for corners in _list(row, "boxes"))
    mask = _text(row, "mask") if row.get("mask") is not None else None
    if mask is not None and boxes:
        raise ConfigError("has boxes and a mask; give one of them")
    if mask is None and labels and len(labels) != len(boxes):
        raise ConfigError(f"has {len(labels)} labels for {len(boxes)} boxes")
    scoring = _scoring(row.get("scoring"), answer, options)
    if scoring == "choice" and options and answer is not None and option_named(answer, options) is None:
        raise ConfigError(
            f"the answer is none of the {len(options)} options; give an option's text or letter"
        )
    return DatalistItem(
        number=number,
        key=str(row.get("key", row.get("id", f"{Path(image).name}-{number}"))),
        image=image,
        question=_text(row, "question"),
        answer=answer,
        options=options,
        boxes=boxes,
        labels=labels,
        mask=mask,
        family=str(row.get("family", "all")),
        scoring=scoring,
        tolerance=_tolerance(row.get("tolerance", 0.0)),
        group=str(row.get("group", image)),
        metadata=_mapping(row, "metadata"),
    )


def _check_keys(row: Mapping[str, Any]) -> None:
    for key, value in row.items():
        texts = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
        if not all(map(is_text, texts)):
            raise ConfigError(f"{key} holds half a character or a null, which no text has; write it as UTF-8")
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1)
            way_out = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}"
            raise ConfigError(f"unknown key {key!r}; {way_out}")


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{key} must be text, got {type(value).__name__ if key in row else 'nothing'}")
    return value


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    value = row.get(key)
    if value is not None and not isinstance(value, list):
        raise ConfigError(f"{key} must be a list, got {type(value).__name__}")
    return value or []


def _mapping(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = row.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be an object, got {type(value).__name__}")
    return value or {}


def _texts(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return tuple(_text({key: value}, key) for value in _list(row, key))


def _numbers(values: Any) -> list[float]:
    if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
        raise ConfigError(f"wanted numbers, got {values!r}")
    return values


def _tolerance(given: Any) -> float:
    value = float(_numbers([given])[0])
    if not 0 <= value < math.inf:
        raise ConfigError(f"tolerance must be 0 or more, got {value}")
    return value


def _scoring(given: Any, answer: str | None, options: tuple[str, ...]) -> Scoring:
    if given is None:
        closed = answer is not None and answer.strip().casefold() in ("yes", "no")
        return "choice" if options else "closed" if closed else "exact"
    for known in get_args(Scoring):
        if given == known:
            rule: Scoring = known
            return rule
    raise ConfigError(f"unknown scoring {given!r}; choose one of {', '.join(get_args(Scoring))}")
