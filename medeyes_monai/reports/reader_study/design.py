"""Which reader sees which item in which condition and order, and the key that undoes the blinding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from medeyes_monai.errors import ConfigError
from medeyes_monai.io import write_atomic
from medeyes_monai.reports.reader_study.items import StudyItem
from medeyes_monai.reports.reader_study.reading import check_schema, read_json, schema_of
from medeyes_monai.seeding import numpy_generator

__all__ = ["Key", "KeyItem", "Shown", "design_study", "read_key", "write_key"]

KEY_FORMAT = "medeyes reader study key 1"


@dataclass(frozen=True, slots=True)
class Shown:
    """One case of a reader; its number is its place in the reader's list, from 1.

    Args:
        item: Name of the item.
        path: Whether the reader sees the looks.
    """

    item: str
    path: bool


@dataclass(frozen=True, slots=True)
class KeyItem:
    """What the organiser knows of an item and readers do not.

    Args:
        question: The question.
        family: Its kind.
        answer: The model's answer.
        reference: The reference answer.
        right: Whether the answer is right.
        boxes: Corners of each look. Unit: voxels of the scene.
    """

    question: str
    family: str
    answer: str
    reference: str
    right: bool
    boxes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Key:
    """What undoes the blinding of a study.

    Args:
        study: Digest of the items and the seed, which questionnaires and answers carry.
        seed: Seed of conditions and orders.
        items: The items by name.
        readers: What each reader sees, in the reader's order.
    """

    study: str
    seed: int
    items: dict[str, KeyItem]
    readers: dict[str, tuple[Shown, ...]]


def design_study(items: Sequence[StudyItem], readers: int, seed: int) -> Key:
    """Assign conditions and orders to readers.

    The items are divided by chance into two halves with as many right answers in each, give or take one.
    Readers with odd numbers see the looks of the first half, those with even numbers of the second, each in
    an order of their own. So each reader sees half of the items with looks, and each item is seen in both
    conditions equally often, if the number of readers is even.

    Args:
        items: The items.
        readers: Number of readers, who are called ``reader-1`` and so on.
        seed: Seed.

    Raises:
        ConfigError: If there are fewer than two items or no reader, or two items have one name.
    """
    keys = [item.key for item in items]
    if len(keys) < 2 or readers < 1 or len(set(keys)) < len(keys):
        raise ConfigError(
            f"a reader study needs two items with different names and a reader, got {len(keys)} items with "
            f"{len(set(keys))} names and {readers} readers"
        )
    first = _first_half(items, seed)
    known = {item.key: _known(item) for item in items}
    lists = {}
    for number in range(1, readers + 1):
        order = numpy_generator("reader study", "order", seed, number).permutation(len(keys))
        lists[f"reader-{number}"] = tuple(
            Shown(keys[int(n)], (keys[int(n)] in first) == (number % 2 == 1)) for n in order
        )
    return Key(_digest(known, seed), seed, known, lists)


def write_key(key: Key, path: Path) -> None:
    """Write the key, which only the organiser may see.

    Raises:
        ConfigError: If there is a file already: without its key, a study that is under way is lost.
    """
    if path.exists():
        raise ConfigError(f"{path} exists; a key is not overwritten, give another folder")
    content = {"format": KEY_FORMAT, **asdict(key)}
    write_atomic(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="replace"))


def read_key(path: str | Path) -> Key:
    """Read a key.

    Raises:
        ConfigError: If the file is missing or not a key; the message names file and field.
    """
    file = Path(path)
    content: dict[str, Any] = read_json(file)
    check_schema(content, schema_of("key"), file.name)
    items = {
        name: KeyItem(**known | {"boxes": tuple(map(tuple, known["boxes"]))})
        for name, known in content["items"].items()
    }
    readers = {name: tuple(Shown(**one) for one in shown) for name, shown in content["readers"].items()}
    for name, shown in readers.items():
        if sorted(one.item for one in shown) != sorted(items):
            raise ConfigError(f"{file.name}: readers.{name}: does not list each of {len(items)} items once")
    return Key(content["study"], content["seed"], items, readers)


def _first_half(items: Sequence[StudyItem], seed: int) -> set[str]:
    """Return every second item, right answers first, by chance within right and wrong."""
    order = [items[int(n)] for n in numpy_generator("reader study", "halves", seed).permutation(len(items))]
    order.sort(key=lambda item: not item.right)
    return {item.key for item in order[::2]}


def _known(item: StudyItem) -> KeyItem:
    boxes = tuple(look.box.corners for look in item.looks)
    return KeyItem(item.question, item.family, item.answer, item.reference, item.right, boxes)


def _digest(items: dict[str, KeyItem], seed: int) -> str:
    content = json.dumps([seed, {name: asdict(known) for name, known in items.items()}], sort_keys=True)
    return blake2b(content.encode(), digest_size=8).hexdigest()
