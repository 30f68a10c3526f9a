"""What a benchmark brings to the teaching of a policy: questions, the words of findings, where to look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medeyes_monai.experts import Reader
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Finding, Scene

__all__ = ["Course", "Place", "told"]

Place = tuple[int, int, float, float]
"""Where something is in an overview: the token of the vision tower, which quarter of it, and how far from the
quarter's middle across and down, in quarters."""


@dataclass(frozen=True)
class Course:
    """What is taught about a benchmark.

    Args:
        reader: The benchmark's rule of how findings answer a question.
        look_families: Families that need looking; in others a scan mostly stops at once.
        vocabulary: The words of a finding, place by place; the last are the kinds.
        in_look: Which words a look shows, by their places.
        question: Draws a question and the kinds that it asks about.
        order: Of systematic scans: findings are looked at by rising values.
        region: Draws the region of a look at a finding, a little off.
        place: Where a finding is in the overview of a scene.
    """

    reader: Reader
    look_families: Sequence[str]
    vocabulary: Sequence[Sequence[str]]
    in_look: Sequence[int]
    question: Callable[[np.random.Generator], tuple[str, list[str]]]
    order: Callable[[Finding], Any]
    region: Callable[[Finding, Scene, np.random.Generator], Box]
    place: Callable[[Finding], Place]


def told(course: Course, kinds: Sequence[str], rng: np.random.Generator) -> str:
    """Return a finding in words, of any kind of some."""
    return " ".join(str(rng.choice(words)) for words in (*course.vocabulary[:-1], kinds))
