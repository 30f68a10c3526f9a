"""A datalist as it is written: one checked item for each question, before any image is read."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scoring
from medeyes_monai.seeding import seed_of

__all__ = ["DatalistItem", "item_from", "read_datalist", "split_by_group"]

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
        ``scoring``, ``tolerance``, ``id`` or ``key``, ``group``, and ``metadata``, which is ignored. Without
        ``scoring``, options mean ``choice``, the answers yes and no ``closed``, and others ``exact``.

    Raises:
        ConfigError: If the file is missing, is no such list, is empty, or an item is wrong; the message names
            the item's number, from 0.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"datalist {file} does not exist; give the path of a .json or .jsonl file")
    try:
        text = file.read_text(encoding="utf-8-sig")
        rows = _rows_of_lines(text) if file.suffix == ".jsonl" else _rows_of_section(text, section)
        if not rows:
            raise ConfigError("holds no items; give at least one question")
        items = tuple(item_from(row, number) for number, row in enumerate(rows))
        _check_unique(items)
    except (ConfigError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"datalist {file.name}: {error}") from error
    return items


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


def split_by_group(
    items: Sequence[DatalistItem], fractions: Sequence[float], seed: int = 0
) -> tuple[tuple[DatalistItem, ...], ...]:
    """Split items so that no group (by default, no image) is in two parts.

    Which part a group falls into depends on its name and the seed, not on the order of the items.

    Args:
        items: What to split.
        fractions: Share of the items for each part; they sum to 1. A part misses its share by at most about
            the size of the largest group.
        seed: Another seed gives another split.

    Returns:
        One tuple for each fraction, items in their old order.

    Raises:
        ConfigError: If the fractions are not positive or do not sum to 1, or a part gets no group.
    """
    if not fractions or min(fractions) <= 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise ConfigError(f"fractions of a split are positive and sum to 1, got {list(fractions)}")
    sizes: dict[str, int] = {}
    for item in items:
        sizes[item.group] = sizes.get(item.group, 0) + 1
    edges = [sum(fractions[: n + 1]) * len(items) for n in range(len(fractions) - 1)]
    part_of, before = {}, 0
    for group in sorted(sizes, key=lambda name: (seed_of("split", seed, name), name)):
        part_of[group] = sum(before + sizes[group] / 2 >= edge for edge in edges)
        before += sizes[group]
    parts = tuple(tuple(item for item in items if part_of[item.group] == n) for n in range(len(fractions)))
    if not all(parts):
        raise ConfigError(f"{len(sizes)} groups are too few to split into parts of {list(fractions)}")
    return parts


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


def _check_unique(items: Collection[DatalistItem]) -> None:
    first: dict[str, int] = {}
    for item in items:
        if item.key in first:
            raise ConfigError(f"items {first[item.key]} and {item.number} have the same id {item.key!r}")
        first[item.key] = item.number


def _item(row: Any, number: int) -> DatalistItem:
    if not isinstance(row, Mapping):
        raise ConfigError(f"wanted an object with image and question, got {type(row).__name__}")
    _check_keys(row)
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
        scoring=_scoring(row.get("scoring"), answer, options),
        tolerance=_tolerance(row.get("tolerance", 0.0)),
        group=str(row.get("group", image)),
    )


def _check_keys(row: Mapping[str, Any]) -> None:
    for key in row:
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
