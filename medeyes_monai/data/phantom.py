"""PhantomVQA: an unlimited, seeded benchmark in which the overview shows *that* and only a crop shows *what*.

Each image is a radiograph-like phantom (body, lungs, ribs, heart) with two to four candidate findings in the
lungs. A candidate is a lesion of one of four kinds or a benign look-alike. Kinds differ only in a texture of
four pixels' period, which averages out in an overview at a quarter of the resolution.

Patients are shown as in a radiograph: the patient's left is at larger x, and so is the heart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from medeyes_monai.data.phantom_image import (
    BENIGN,
    IN_DISTRIBUTION,
    KINDS,
    OUT_OF_DISTRIBUTION,
    Spot,
    Style,
    draw,
    free_place,
)
from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import Candidate, Reading
from medeyes_monai.scenes import Case, ImageScene, Scene
from medeyes_monai.seeding import numpy_generator

__all__ = ["FAMILIES", "LOOK_FAMILIES", "PhantomReader", "PhantomVQA"]

SIDES = ("left", "right")
LOOK_FAMILIES = ("attribute", "presence", "laterality", "count", "compare")
"""Families that need looking: a policy with one glance is at chance."""
FAMILIES = (*LOOK_FAMILIES, "candidates", "heart")
"""All families; the last two are answered by the overview."""
ANSWERS: dict[str, tuple[str, ...]] = {
    "attribute": KINDS,
    "presence": ("yes", "no"),
    "laterality": SIDES,
    "count": ("0", "1", "2", "3"),
    "compare": KINDS,
    "candidates": ("2", "3", "4"),
    "heart": ("yes", "no"),
}
QUESTIONS = {
    "attribute": "Which kind is the lesion?",
    "presence": "Is there a {0} lesion?",
    "laterality": "On which side is the {0} lesion?",
    "count": "How many {0} lesions?",
    "compare": "Which is larger, {0} or {1}?",
    "candidates": "How many candidates?",
    "heart": "Is the heart enlarged?",
}
_PATTERNS = {
    family: re.compile(re.escape(text).replace(r"\{0\}", r"(\w+)").replace(r"\{1\}", r"(\w+)"))
    for family, text in QUESTIONS.items()
}

Split = Literal["train", "val", "test", "ood"]


class PhantomVQA(Dataset[Case]):
    """Questions about phantoms, drawn by address: item ``i`` of a split is the same on every machine.

    Families take turns and so do the answers within a family, so that every answer is equally frequent.

    Args:
        split: ``"train"``, ``"val"``, ``"test"`` (one distribution, different seeds), or ``"ood"``: other
            anatomy, contrast, noise and lesion size.
        size: Number of questions.
        seed: Seed of the whole benchmark.
        families: Families that are asked, of :data:`FAMILIES`.
        scene: Makes the scene from an image ``(1, X, Y)``, ``key=`` and ``findings=``.

    Raises:
        ConfigError: If split, size or families are not available.

    Example:
        >>> case = PhantomVQA("val", size=7)[0]
        >>> case.question, case.scene.shape
        ('Which kind is the lesion?', (512, 512))
    """

    def __init__(
        self,
        split: Split = "train",
        size: int = 1000,
        seed: int = 0,
        families: Sequence[str] = FAMILIES,
        scene: Callable[..., Scene] = ImageScene,
    ) -> None:
        """Check the arguments; images are drawn when they are asked for."""
        if split not in ("train", "val", "test", "ood"):
            raise ConfigError(f"split must be train, val, test or ood, got {split!r}")
        if unknown := set(families) - set(FAMILIES):
            raise ConfigError(f"unknown families {sorted(unknown)}; available: {', '.join(FAMILIES)}")
        if size < 1 or not families:
            raise ConfigError(f"PhantomVQA needs at least one question and one family, got size {size}")
        self.split, self.size, self.seed = split, size, seed
        self.families, self.scene = tuple(families), scene
        self.style = OUT_OF_DISTRIBUTION if split == "ood" else IN_DISTRIBUTION

    def __len__(self) -> int:
        """Number of questions."""
        return self.size

    def __getitem__(self, index: int) -> Case:
        """Draw question ``index``."""
        if not 0 <= index < self.size:
            raise IndexError(f"PhantomVQA has {self.size} questions, asked for number {index}")
        family = self.families[index % len(self.families)]
        answers = ANSWERS[family]
        answer = answers[(index // len(self.families)) % len(answers)]
        rng = numpy_generator("phantom", self.seed, self.split, index)
        kinds, words = _kinds_for(family, answer, rng)
        spots = _place(kinds, self.style, rng, words, family, answer)
        big_heart = answer == "yes" if family == "heart" else bool(rng.random() < 0.5)
        image, heart = draw(spots, big_heart, self.style, rng)
        key = f"phantom-{self.seed}-{self.split}-{index}"
        findings = (*(spot.finding for spot in spots), heart)
        return Case(
            key=key,
            scene=self.scene(torch.from_numpy(image)[None], key=key, findings=findings),
            question=QUESTIONS[family].format(*words),
            answer=answer,
            family=family,
        )


class PhantomReader:
    """Reads an answer out of findings such as ``"left large solid"``: the benchmark's own rule.

    Example:
        >>> PhantomReader().read("Which kind is the lesion?", ["left small benign", "right large solid"], ())
        Reading(answer='solid', decisive=True)
    """

    def read(self, query: str, seen: Sequence[str], candidates: Sequence[Candidate]) -> Reading:
        """Answer a question of :data:`QUESTIONS` (see :class:`medeyes_monai.experts.Reader`).

        Raises:
            ConfigError: If the question is not one of this benchmark.
        """
        family, words = _family_of(query)
        found = [tuple(text.split()) for text in seen if text.count(" ") == 2]
        if family == "heart":
            hearts = [c.finding for c in candidates if c.finding.endswith("heart")]
            return (
                Reading("yes" if "enlarged heart" in hearts else "no", True)
                if hearts
                else Reading(None, False)
            )
        if family == "candidates":
            number = sum(not c.finding.endswith("heart") for c in candidates)
            return Reading(str(number), number > 0)
        if family == "attribute":
            lesions = [kind for _, _, kind in found if kind != BENIGN]
            return Reading(lesions[0], True) if lesions else Reading(None, False)
        if family == "compare":
            sizes = {kind: size for _, size, kind in found}
            both = [kind for kind in words if kind in sizes]
            large = [kind for kind in both if sizes[kind] == "large"]
            return Reading(large[0], True) if large else Reading(None, False)
        matches = [side for side, _, kind in found if kind == words[0]]
        if family == "count":
            return Reading(str(len(matches)), False)
        if family == "presence":
            return Reading("yes" if matches else "no", bool(matches))
        return Reading(matches[0], True) if matches else Reading(None, False)


def _family_of(query: str) -> tuple[str, tuple[str, ...]]:
    for family, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(query):
            return family, match.groups()
    raise ConfigError(f"not a question of PhantomVQA: {query!r}; use the data set's own reader or none")


def _kinds_for(family: str, answer: str, rng: np.random.Generator) -> tuple[list[str], tuple[str, ...]]:
    """Return the kinds of all candidates (the asked ones first) and the words of the question."""
    number = int(rng.integers(2, 5))
    asked = answer if family == "compare" else str(rng.choice(KINDS))
    others = [kind for kind in KINDS if kind != asked]
    if family == "attribute":
        return [answer, *[BENIGN] * (number - 1)], ()
    if family == "presence":
        first = [asked] if answer == "yes" else _some([*others, BENIGN], 1, rng)
        return [*first, *_some([*others, BENIGN], number - 1, rng)], (asked,)
    if family == "laterality":
        return [asked, *_some([*others, BENIGN], int(rng.choice([1, 3])), rng)], (asked,)
    if family == "count":
        matches, number = int(answer), int(rng.integers(3, 5))
        return [*[asked] * matches, *_some([*others, BENIGN], number - matches, rng)], (asked,)
    if family == "compare":
        rival = str(rng.choice(others))
        rest = [kind for kind in (*others, BENIGN) if kind != rival]
        words = (asked, rival) if rng.random() < 0.5 else (rival, asked)
        return [asked, rival, *_some(rest, number - 2, rng)], words
    if family == "candidates":
        number = int(answer)
    return _some([*KINDS, BENIGN], number, rng), ()


def _some(pool: Sequence[str], number: int, rng: np.random.Generator) -> list[str]:
    return [str(kind) for kind in rng.choice(pool, number)]


def _place(
    kinds: Sequence[str],
    style: Style,
    rng: np.random.Generator,
    words: tuple[str, ...],
    family: str,
    answer: str,
) -> list[Spot]:
    """Give each candidate a place in a lung, well apart from the others, and a size."""
    if family == "laterality":  # as many candidates on each side, so that a glance does not tell
        first = 1 if answer == "left" else -1
        half = len(kinds) // 2
        signs = [first, *rng.permutation([-first] * half + [first] * (half - 1)).tolist()]
    else:
        signs = rng.choice([-1, 1], len(kinds)).tolist()
    spots: list[Spot] = []
    for number, (kind, sign) in enumerate(zip(kinds, signs, strict=True)):
        size = ("small", "large")[int(rng.random() < 0.5)]
        if family == "compare" and number < 2:
            size = "large" if number == 0 else "small"
        radius = float(rng.uniform(*(style.small if size == "small" else style.large)))
        x, y = free_place(spots, int(sign), style, rng)
        spots.append(Spot(x, y, radius, size, kind))
    return [spots[i] for i in rng.permutation(len(spots))]
