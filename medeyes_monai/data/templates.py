"""Questions made by templates from marked regions: for detection data, which have boxes but no questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medeyes_monai.geometry import Box
from medeyes_monai.seeding import numpy_generator

__all__ = ["Marked", "Noun", "templated"]

QUARTERS = ("upper left", "upper right", "lower left", "lower right")
MARGIN = 0.1
"""An object's centre must be this far from both middles of the image for its quarter to be asked for.
Unit: the image's size."""


Item = dict[str, Any]
"""A question in the keys of a datalist."""
Draw = np.random.Generator


@dataclass(frozen=True, slots=True)
class Noun:
    """What a class of objects is called.

    Args:
        one: In the singular, without article.
        many: In the plural.
    """

    one: str
    many: str


@dataclass(frozen=True, slots=True)
class Marked:
    """An image whose objects are marked.

    Args:
        key: Name of the image.
        boxes: The objects. Unit: pixels.
        labels: Their classes.
        size: ``(columns, rows)``; zeros if it is not known.
    """

    key: str
    boxes: tuple[Box, ...]
    labels: tuple[str, ...]
    size: tuple[int, int] = (0, 0)


Nouns = Mapping[str, Noun]


def templated(image: Marked, nouns: Nouns, seed: int = 0) -> list[Item]:
    """Return questions about an image as items of a datalist, each with the boxes that it is about.

    Of each image are asked:

    - ``presence``: whether there is an object of a class, ``closed``; yes and no are drawn with equal
      chances where the image allows both;
    - ``count``: how many objects of a class are marked, ``numeric`` without tolerance;
    - ``place``: in which quarter of the image the only object of a class is, ``choice``; only where it is
      clearly in one;
    - ``comparison``: whether there are more of one class than of another, ``closed``; only where they differ.

    Every item says ``templated`` in its metadata. Answers follow from the boxes alone: an object that was
    not marked is not counted.

    Args:
        image: The image with its marked objects.
        nouns: What the classes are called; all classes of the data set, present or not.
        seed: Another seed draws other classes.

    Example:
        >>> nouns = {"a": Noun("cyst", "cysts"), "b": Noun("nodule", "nodules")}
        >>> image = Marked("1", (Box((0, 0), (9, 9)), Box((9, 9), (12, 12))), ("a", "b"), size=(40, 40))
        >>> for item in templated(image, nouns):
        ...     print(item["family"], "|", item["question"], "|", item["answer"], "|", item["boxes"])
        presence | Is there a nodule in the image? | yes | [[9, 9, 12, 12]]
        count | How many nodules are visible in the image? | 1 | [[9, 9, 12, 12]]
        place | In which quarter of the image is the cyst? | upper left | [[0, 0, 9, 9]]
    """
    draw = numpy_generator("templates", seed, image.key)
    items = [ask(image, nouns, draw) for ask in (_presence, _count, _place, _comparison)]
    return [item for item in items if item is not None]


def _presence(image: Marked, nouns: Nouns, draw: Draw) -> Item | None:
    present = [label for label in nouns if label in image.labels]
    absent = [label for label in nouns if label not in image.labels]
    asked = absent if absent and (not present or draw.random() < 0.5) else present
    if not asked:
        return None
    label = str(draw.choice(asked))
    question = f"Is there {_article(nouns[label].one)} in the image?"
    return _item(image, "presence", question, "yes" if label in present else "no", {label})


def _count(image: Marked, nouns: Nouns, draw: Draw) -> Item | None:
    present = [label for label in nouns if label in image.labels]
    if not present:
        return None
    label = str(draw.choice(present))
    question = f"How many {nouns[label].many} are visible in the image?"
    number = str(image.labels.count(label))
    return {**_item(image, "count", question, number, {label}), "scoring": "numeric"}


def _place(image: Marked, nouns: Nouns, draw: Draw) -> Item | None:
    single = [label for label in nouns if image.labels.count(label) == 1]
    clear = [label for label in single if _quarter(image, label) is not None]
    if not clear:
        return None
    label = str(draw.choice(clear))
    question = f"In which quarter of the image is the {nouns[label].one}?"
    item = _item(image, "place", question, _quarter(image, label) or "", {label})
    return {**item, "scoring": "choice", "options": list(QUARTERS)}


def _quarter(image: Marked, label: str) -> str | None:
    """Return the quarter of the only object of a class, or None if it lies too near to a middle."""
    centre = image.boxes[image.labels.index(label)].centre
    off = [at / size - 0.5 if size else 0.0 for at, size in zip(centre, image.size, strict=True)]
    if min(map(abs, off)) < MARGIN:
        return None
    return QUARTERS[2 * (off[1] > 0) + (off[0] > 0)]


def _comparison(image: Marked, nouns: Nouns, draw: Draw) -> Item | None:
    if len(nouns) < 2:
        return None
    first, second = map(str, draw.choice(list(nouns), size=2, replace=False))
    more = image.labels.count(first) - image.labels.count(second)
    if more == 0:
        return None
    question = f"Are there more {nouns[first].many} than {nouns[second].many} in the image?"
    return _item(image, "comparison", question, "yes" if more > 0 else "no", {first, second})


def _item(image: Marked, family: str, question: str, answer: str, about: set[str]) -> Item:
    shown = [(box, label) for box, label in zip(image.boxes, image.labels, strict=True) if label in about]
    return {
        "id": f"{image.key}-{family}",
        "question": question,
        "answer": answer,
        "family": family,
        "scoring": "closed",
        "boxes": [list(box.corners) for box, _ in shown],
        "labels": [label for _, label in shown],
        "metadata": {"templated": True},
    }


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
