"""Which organs and lesions a question of SLAKE is about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from monai.transforms import BoundingRect

from medeyes_monai.data.tiling import open_picture
from medeyes_monai.errors import ConfigError

__all__ = ["Region", "boxes_named", "regions_of_mask"]

SIDES = frozenset({"left", "right"})


class Region(NamedTuple):
    """Something that is marked in an image.

    Args:
        label: What it is.
        box: ``(x1, y1, x2, y2)``, half-open. Unit: pixels.
    """

    label: str
    box: tuple[float, float, float, float]


def boxes_named(regions: Sequence[Region], text: str) -> tuple[Region, ...]:
    """Return the regions whose label a text names.

    All words of a label must occur, in the singular or plural. A side counts only against the other side:
    "lungs" names both lungs, "left lung" only the left one.

    Example:
        >>> lungs = [Region("Left Lung", (5, 0, 9, 9)), Region("Right Lung", (0, 0, 4, 9))]
        >>> [region.label for region in boxes_named(lungs, "Is the left lung healthy?")]
        ['Left Lung']
        >>> len(boxes_named(lungs, "Are the lungs healthy?")), len(boxes_named(lungs, "Is there a liver?"))
        (2, 0)
    """
    words = _words(text)
    sides = words & SIDES
    return tuple(
        region
        for region in regions
        if (label := _words(region.label)) - SIDES
        and label - SIDES <= words
        and (not sides or label & SIDES <= sides)
    )


def regions_of_mask(content: bytes, names: Mapping[int, str]) -> tuple[Region, ...]:
    """Return the bounding box of each named value of a mask, by ascending value.

    Args:
        content: A PNG with one value for each pixel; 0 is background.
        names: What the values mean; others are passed over.

    Raises:
        UnreadableImageError: If it is damaged.
        ConfigError: If it has several channels.
    """
    values = np.asarray(open_picture(content))
    if values.ndim != 2:
        raise ConfigError(f"a mask has one channel, this one has shape {values.shape}")
    rect, regions = BoundingRect(), []
    for value in sorted(set(np.unique(values).tolist()) & set(names) - {0}):
        top, bottom, left, right = np.asarray(rect((values == value)[None]))[0].tolist()
        regions.append(Region(names[value], (left, top, right, bottom)))
    return tuple(regions)


def _words(text: str) -> frozenset[str]:
    return frozenset(_singular(word) for word in re.findall(r"[^\W\d_]+", text.casefold()))


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
