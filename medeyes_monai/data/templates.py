"""Questions made by templates from marked regions: for detection data, which have boxes but no questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medeyes_monai.geometry import Box
from medeyes_monai.seeding import numpy_generator

__all__ = ["Marked", "Noun", "templated"]

LARGER = 1.5
"""The largest object must have this many times the area of the largest of any other kind to be asked for."""


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
    """

    key: str
    boxes: tuple[Box, ...]
    labels: tuple[str, ...]


def templated(image: Marked, nouns: Mapping[str, Noun], seed: int = 0) -> list[dict[str, Any]]:
    """Return questions about an image as items of a datalist, each with the boxes that it is about.

    Of each image are asked:

    - ``presence``: whether there is an object of a class, ``closed``; yes and no are drawn with equal
      chances where the image allows both;
    - ``count``: how many objects of a class are marked, ``numeric`` without tolerance;
    - ``largest``: of which class the largest object is, ``choice``; only where it is clearly the largest;
    - ``comparison``: whether there are more of one class than of another, ``closed``; only where they differ.

    Every item says ``templated`` in its metadata. Answers follow from the boxes alone: an object that was
    not marked is not counted.

    Args:
        image: The image with its marked objects.
        nouns: What the classes are called; all classes of the data set, present or not.
        seed: Another seed draws other classes.

    Example:
        >>> nouns = {"a": Noun("cyst", "cysts"), "b": Noun("nodule", "nodules")}
        >>> image = Marked("1", (Box((0, 0), (9, 9)), Box((9, 9), (12, 12))), ("a", "a"))
        >>> for item in templated(image, nouns):
        ...     print(item["family"], "|", item["question"], "|", item["answer"], "|", item["boxes"])
        presence | Is there a nodule in the image? | no | []
        count | How many cysts are visible in the image? | 2 | [[0, 0, 9, 9], [9, 9, 12, 12]]
        largest | Of which kind is the largest object in the image? | cyst | [[0, 0, 9, 9]]
        comparison | Are there more nodules than cysts in the image? | no | [[0, 0, 9, 9], [9, 9, 12, 12]]
    """
    draw = numpy_generator("templates", seed, image.key)
    counts = Counter(image.labels)
    present = [label for label in nouns if counts[label]]
    absent = [label for label in nouns if not counts[label]]
    items = []
    if asked := absent if absent and (not present or draw.random() < 0.5) else present:
        label = str(draw.choice(asked))
        question = f"Is there {_article(nouns[label].one)} in the image?"
        items.append(_item(image, "presence", question, "yes" if counts[label] else "no", {label}))
    if present:
        label = str(draw.choice(present))
        question = f"How many {nouns[label].many} are visible in the image?"
        items.append(_item(image, "count", question, str(counts[label]), {label}, scoring="numeric"))
    if (place := _largest(image)) is not None:
        options = [noun.one for noun in nouns.values()]
        answer = nouns[image.labels[place]].one
        item = _item(
            image,
            "largest",
            "Of which kind is the largest object in the image?",
            answer,
            (),
            scoring="choice",
        )
        only = {"boxes": [list(image.boxes[place].corners)], "labels": [image.labels[place]]}
        items.append({**item, **only, "options": options})
    if len(nouns) > 1 and present:
        first, second = map(str, draw.choice(list(nouns), size=2, replace=False))
        if counts[first] != counts[second]:
            question = f"Are there more {nouns[first].many} than {nouns[second].many} in the image?"
            answer = "yes" if counts[first] > counts[second] else "no"
            items.append(_item(image, "comparison", question, answer, {first, second}))
    return items


def _item(
    image: Marked,
    family: str,
    question: str,
    answer: str,
    about: set[str] | Sequence[str],
    scoring: str = "closed",
) -> dict[str, Any]:
    shown = [(box, label) for box, label in zip(image.boxes, image.labels, strict=True) if label in about]
    return {
        "id": f"{image.key}-{family}",
        "question": question,
        "answer": answer,
        "family": family,
        "scoring": scoring,
        "boxes": [list(box.corners) for box, _ in shown],
        "labels": [label for _, label in shown],
        "metadata": {"templated": True},
    }


def _largest(image: Marked) -> int | None:
    """Return the place of the largest object if no object of another class comes near its size."""
    if not image.boxes:
        return None
    sizes = [box.size for box in image.boxes]
    place = sizes.index(max(sizes))
    others = [s for s, label in zip(sizes, image.labels, strict=True) if label != image.labels[place]]
    return place if sizes[place] >= LARGER * max(others, default=0) else None


def _article(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
