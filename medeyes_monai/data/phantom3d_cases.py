"""Which lesions a question of PhantomVQA-3D needs, so that a glance does not tell its answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medeyes_monai.data.phantom3d_image import LEVELS, ORGANS, SHAPE, Anatomy, Lesion, Organ
from medeyes_monai.data.phantom3d_words import MEASURE_FAMILIES_3D
from medeyes_monai.data.phantom_image import BENIGN, KINDS

__all__ = ["Wanted", "placed_lesions", "wanted_lesions"]

DIAMETERS_MM = (28.0, 36.0, 46.0, 58.0)
"""Ranges in which diameters of measured lesions lie, by their middles, in a body of the usual size. No number
is within a tenth of two."""
DENSITIES_HU = (100.0, 125.0, 150.0, 175.0)
"""The same of densities; no number is within 10 HU of two."""
RATIOS = (1.27**-2, 1.27**-1, 1.27, 1.27**2)
"""Ratios that are asked for; three lesions have sizes in these proportions whichever the answer is."""
JITTER = 0.01
"""A measured lesion is off the middle of its range by at most this share."""
APART = (17.0, 17.0, 8.0)
"""Centres are this far apart along one axis at least, so that a look shows one of them. Unit: voxels."""
REACH = 0.72
"""Centres lie within this share of an organ."""
EDGE = 1.5
"""Centres keep this far from the border of two levels. Unit: slices."""
TRIES = 60

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A lesion that has no place yet; what is None is drawn."""

    kind: str
    diameter_mm: float
    hu: float
    organ: str | None = None
    side: str | None = None
    level: str | None = None


class _Draws:
    """Draws what a question leaves open."""

    def __init__(self, anatomy: Anatomy, rng: np.random.Generator) -> None:
        self.anatomy, self.rng = anatomy, rng

    def kinds(self, pool: Sequence[str], number: int) -> list[str]:
        return [str(kind) for kind in self.rng.choice(pool, number)]

    def lesion(self, kind: str, large: bool | None = None, dense: bool | None = None) -> Wanted:
        """Return a lesion of a kind, its size and density drawn unless they are given."""
        large = self.rng.random() < 0.5 if large is None else large
        dense = self.rng.random() < 0.5 if dense is None else dense
        size = self.anatomy.large if large else self.anatomy.small
        density = self.anatomy.dense if dense else self.anatomy.faint
        diameter_mm = float(self.rng.uniform(*size)) * self.anatomy.growth
        return Wanted(kind, diameter_mm, float(self.rng.uniform(*density)))

    def near(self, value: float) -> float:
        return float(value * self.rng.uniform(1 - JITTER, 1 + JITTER))


def wanted_lesions(
    family: str, answer: str, anatomy: Anatomy, rng: np.random.Generator
) -> tuple[list[Wanted], Words]:
    """Return the lesions of a question, those that are asked about first, and the words of the question.

    Args:
        family: The family.
        answer: The answer, one of ``ANSWERS_3D``.
        anatomy: Sizes and densities.
        rng: Where the draws come from.
    """
    draws = _Draws(anatomy, rng)
    asked = answer if family in ("larger", "denser") else str(rng.choice(KINDS))
    others = [*(kind for kind in KINDS if kind != asked), BENIGN]
    if family in MEASURE_FAMILIES_3D:
        return _measured(family, answer, asked, others, draws)
    if family in ("larger", "denser"):
        return _compared(family, asked, others, draws)
    if family == "count":
        return _counted(int(answer), asked, others, draws)
    if family == "level":
        rest = [level for level in LEVELS if level != answer]
        kinds = [asked, *draws.kinds(others, 2)]
        return [
            replace(draws.lesion(kind), level=level)
            for kind, level in zip(kinds, (answer, *rest), strict=True)
        ], (asked,)
    if family == "side":
        number = int(rng.choice([2, 4]))
        other = "right" if answer == "left" else "left"
        kinds = [asked, *draws.kinds(others, number - 1)]
        sides = [answer, *rng.permutation([other] * (number // 2) + [answer] * (number // 2 - 1))]
        return [replace(draws.lesion(k), side=str(s)) for k, s in zip(kinds, sides, strict=True)], (asked,)
    words: Words = ()
    number = int(answer) if family == "candidates" else int(rng.integers(2, 5))
    if family == "kind":
        kinds = [answer, *[BENIGN] * (number - 1)]
    elif family == "presence":
        first = [asked] if answer == "yes" else draws.kinds(others, 1)
        kinds, words = [*first, *draws.kinds(others, number - 1)], (asked,)
    else:
        kinds = draws.kinds((*KINDS, BENIGN), number)
    return [draws.lesion(kind) for kind in kinds], words


def _measured(
    family: str, answer: str, asked: str, others: Sequence[str], draws: _Draws
) -> tuple[list[Wanted], Words]:
    """Have one lesion in each range, so that only their kinds tell which of them is asked about."""
    if family == "ratio":
        return _in_proportion(int(answer), asked, others, draws)
    is_density = family in ("density", "density rule")
    ranges = DENSITIES_HU if is_density else tuple(v * draws.anatomy.growth for v in DIAMETERS_MM)
    words: Words = (asked,)
    if family.endswith("rule"):
        cut = int(draws.rng.integers(1, len(ranges)))
        middle = (ranges[cut - 1] + ranges[cut]) / 2
        words = (asked, str(round(middle)))
        place = int(draws.rng.integers(cut, len(ranges)) if answer == "yes" else draws.rng.integers(cut))
    else:
        place = int(answer)
    order = [place, *(n for n in range(len(ranges)) if n != place)]
    kinds = [asked, *draws.kinds(others, len(ranges) - 1)]
    lesions = []
    for kind, number in zip(kinds, order, strict=True):
        value, lesion = draws.near(ranges[number]), draws.lesion(kind)
        lesions.append(replace(lesion, hu=value) if is_density else replace(lesion, diameter_mm=value))
    return lesions, words


def _in_proportion(
    number: int, asked: str, others: Sequence[str], draws: _Draws
) -> tuple[list[Wanted], Words]:
    """Have three lesions of which each is 1.27 times as wide as the next, and ask for two of them."""
    step = round(math.log(RATIOS[number], 1.27))
    steps = {1: [(1, 0), (2, 1)], 2: [(2, 0)]}[abs(step)]
    high, low = steps[int(draws.rng.integers(len(steps)))]
    first, second = (high, low) if step > 0 else (low, high)
    rest = next(n for n in range(3) if n not in (first, second))
    rival = str(draws.rng.choice([kind for kind in others if kind != BENIGN]))
    third = draws.kinds([kind for kind in others if kind != rival], 1)[0]
    base = float(draws.rng.uniform(28.0, 35.0)) * draws.anatomy.growth
    sizes = [base * 1.27**n for n in (first, second, rest)]
    lesions = [
        replace(draws.lesion(kind), diameter_mm=size)
        for kind, size in zip((asked, rival, third), sizes, strict=True)
    ]
    return lesions, (asked, rival)


def _compared(family: str, asked: str, others: Sequence[str], draws: _Draws) -> tuple[list[Wanted], Words]:
    rival = str(draws.rng.choice([kind for kind in others if kind != BENIGN]))
    rest = draws.kinds([kind for kind in others if kind != rival], int(draws.rng.integers(0, 3)))
    which = "large" if family == "larger" else "dense"
    lesions = [draws.lesion(asked, **{which: True}), draws.lesion(rival, **{which: False})]
    words = (asked, rival) if draws.rng.random() < 0.5 else (rival, asked)
    return [*lesions, *map(draws.lesion, rest)], words


def _counted(number: int, asked: str, others: Sequence[str], draws: _Draws) -> tuple[list[Wanted], Words]:
    """Have three lesions in the organ that is asked about, whichever they are, and perhaps one elsewhere."""
    organ = str(draws.rng.choice(["liver", "spleen", "kidney"]))
    kinds = [*[asked] * number, *draws.kinds(others, 3 - number)]
    lesions = [replace(draws.lesion(kind, large=False), organ=organ) for kind in kinds]
    if draws.rng.random() < 0.5:
        elsewhere = str(draws.rng.choice([o for o in ("liver", "spleen", "kidney") if o != organ]))
        lesions.append(replace(draws.lesion(draws.kinds((asked, *others), 1)[0]), organ=elsewhere))
    return lesions, (asked, organ)


def placed_lesions(
    wanted: Sequence[Wanted], spacing_mm: Sequence[float], rng: np.random.Generator
) -> list[Lesion]:
    """Give each lesion a place inside an organ, apart from the others.

    Args:
        wanted: The lesions.
        spacing_mm: Size of a voxel.
        rng: Where the draws come from.

    Returns:
        The lesions in a random order.
    """
    while True:
        lesions: list[Lesion] = []
        for one in wanted:
            lesion = _place(one, lesions, spacing_mm, rng)
            if lesion is None:
                break
            lesions.append(lesion)
        else:
            return [lesions[i] for i in rng.permutation(len(lesions))]


def _place(
    wanted: Wanted, taken: Sequence[Lesion], spacing_mm: Sequence[float], rng: np.random.Generator
) -> Lesion | None:
    """Try to find a place for one lesion."""
    organs = [o for o in ORGANS if wanted.organ in (None, o.name) and wanted.side in (None, o.side)]
    for _ in range(TRIES):
        organ = organs[int(rng.integers(len(organs)))]
        lesion = Lesion(
            _point(organ, rng), wanted.diameter_mm, wanted.hu, wanted.kind, organ.name, organ.side
        )
        third = SHAPE[2] / 3
        off_border = min(abs(lesion.centre[2] - third), abs(lesion.centre[2] - 2 * third)) > EDGE
        if (
            off_border
            and wanted.level in (None, lesion.level)
            and all(_are_apart(lesion, other, spacing_mm) for other in taken)
        ):
            return lesion
    return None


def _point(organ: Organ, rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw a point, evenly over the inner part of an organ."""
    direction = rng.normal(size=3)
    share = REACH * rng.random() ** (1 / 3) * direction / np.linalg.norm(direction)
    x, y, z = (
        float(n * (c + h * s)) for n, c, h, s in zip(SHAPE, organ.centre, organ.half, share, strict=True)
    )
    return (x, y, z)


def _are_apart(lesion: Lesion, other: Lesion, spacing_mm: Sequence[float]) -> bool:
    off = [abs(a - b) for a, b in zip(lesion.centre, other.centre, strict=True)]
    far = math.dist((0, 0, 0), [v * mm for v, mm in zip(off, spacing_mm, strict=True)])
    touch = (lesion.diameter_mm + other.diameter_mm) / 2 + max(spacing_mm)
    return far > touch and any(v > least for v, least in zip(off, APART, strict=True))
