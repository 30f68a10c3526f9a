"""Did the looks go where something is: gaze against boxes or masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.metrics.figures import EpisodeFigures
from medeyes_monai.metrics.intervals import Estimate, estimates
from medeyes_monai.metrics.regions import Truth, overlap_of_regions, pieces, size_of
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["Grounding", "GroundingMetric", "TruthOf", "agreement", "is_hit", "marked_findings"]

TruthOf = Callable[[Case], Truth]
"""Tells where a look at a case should go; nothing marked there means that it is not counted."""


@dataclass(frozen=True, slots=True)
class Grounding:
    """How well looks agree with what is marked, over the cases in which something is marked.

    An episode without a look counts with 0 everywhere.

    Args:
        figures: Mean and interval by name, from 0 to 1. ``iou`` and ``dice``: the union of all looks against
            everything marked. ``best_iou``: the best look against one thing. ``found``: share of the things
            that some look hits. ``pointing``: the last look hits. ``first_look``: the first does.
            ``hit@k``: one of the first k does.
        count: Number of episodes.
        without_looks: How many of them looked nowhere.
    """

    figures: Mapping[str, Estimate]
    count: int
    without_looks: int

    def scalars(self) -> dict[str, float]:
        """Return one number for each figure, for loggers that take names and floats."""
        return {name: mean.value for name, mean in self.figures.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        figures = {name: mean.to_dict() for name, mean in self.figures.items()}
        return {"count": self.count, "without_looks": self.without_looks, "figures": figures}


class GroundingMetric(EpisodeFigures):
    """Compares looks with what is marked, batch by batch and across processes.

    Args:
        truth: Tells what is marked; None takes the subtle findings of the scene. For masks, hand in a
            function that returns one for a case, in the voxels of its scene.
        looks: Largest k of ``hit@k``.
        least_iou: A look hits a thing if it overlaps it this much; None: if its centre lies inside, as in the
            pointing game.
        families: Families that are counted; None for all. Leave out those that one glance answers.

    Raises:
        ConfigError: If ``looks`` is below 1 or ``least_iou`` not in (0, 1].
    """

    def __init__(
        self,
        truth: TruthOf | None = None,
        looks: int = 4,
        least_iou: float | None = None,
        families: Collection[str] | None = None,
    ) -> None:
        """Check the settings."""
        super().__init__()
        if looks < 1 or (least_iou is not None and not 0 < least_iou <= 1):
            raise ConfigError(
                f"grounding needs looks of at least 1 and an overlap in (0, 1], got {looks} and {least_iou}"
            )
        self.truth = marked_findings if truth is None else truth
        self.looks, self.least_iou = looks, least_iou
        self.families = None if families is None else frozenset(families)
        hits = [f"hit@{k}" for k in range(1, looks + 1)]
        self.columns = ("iou", "dice", "best_iou", "found", "pointing", "first_look", *hits, "looked")

    def row(self, episode: Episode, case: Case) -> tuple[float, ...]:
        """Return the figures of an episode, NaN where nothing is marked.

        Raises:
            GeometryError: If looks and truth have different axes.
        """
        counted = self.families is None or case.family in self.families
        truth = self.truth(case) if counted else ()
        boxes = episode.trajectory.boxes
        if not size_of(truth):
            return (math.nan,) * len(self.columns)
        iou, dice = agreement(boxes, truth)
        things = pieces(truth)
        hit = [[is_hit(box, thing, self.least_iou) for thing in things] for box in boxes]
        any_hit = [any(row) for row in hit]
        return (
            iou,
            dice,
            max((agreement([box], thing)[0] for box in boxes for thing in things), default=0.0),
            float(np.any(hit, axis=0).mean()) if hit else 0.0,
            float(any(any_hit[-1:])),
            float(any(any_hit[:1])),
            *(float(any(any_hit[:k])) for k in range(1, self.looks + 1)),
            float(bool(boxes)),
        )

    def aggregate(self) -> Grounding:
        """Summarise all episodes since the last reset, of all processes.

        Raises:
            ConfigError: If there are none.
        """
        rows = self.collected()
        *means, looked = estimates(rows.figures, rows.images)
        figures = dict(zip(self.columns[:-1], means, strict=True))
        seen = round(looked.value * looked.count) if looked.count else 0
        return Grounding(MappingProxyType(figures), looked.count, looked.count - seen)


def marked_findings(case: Case, look_alikes: Collection[str] = ()) -> list[Box]:
    """Return the boxes of a scene's subtle findings, those that only a close look shows.

    Args:
        case: The question.
        look_alikes: Words of the labels of findings that only look like what is sought, and are left out.
    """
    marked = [finding for finding in case.scene.findings if finding.subtle]
    return [finding.box for finding in marked if not set(finding.label.split()) & set(look_alikes)]


def agreement(looks: Sequence[Box], truth: Truth) -> tuple[float, float]:
    """Return IoU and Dice of the union of some looks with everything that is marked; 0 without looks.

    Raises:
        GeometryError: If nothing is marked, or looks and truth have different axes.

    Example:
        >>> agreement([Box((0, 0), (4, 4))], [Box((2, 0), (6, 4))])  # 8 of 24; 2 * 8 of 32
        (0.3333333333333333, 0.5)
    """
    marked, seen, both = size_of(truth), size_of(looks), overlap_of_regions(looks, truth)
    if not marked:
        raise GeometryError("looks agree with something only if something is marked; leave the case out")
    return both / (marked + seen - both), 2 * both / (marked + seen)


def is_hit(look: Box, thing: Truth, least_iou: float | None = None) -> bool:
    """Tell whether a look hits a thing: its centre lies inside, or it overlaps enough.

    Args:
        look: The look.
        thing: A mask, or the boxes of a thing.
        least_iou: Least overlap; None asks for the centre.

    Raises:
        GeometryError: If they have different axes.

    Example:
        >>> look, thing = Box((0, 0), (4, 4)), [Box((2, 0), (6, 4))]
        >>> is_hit(look, thing), is_hit(look, thing, least_iou=0.5)
        (True, False)
    """
    if least_iou is not None:
        return agreement([look], thing)[0] >= least_iou
    if not isinstance(thing, np.ndarray):
        return any(box.contains(look.centre) for box in thing)
    if thing.ndim != look.ndim:
        raise GeometryError(f"a {look.ndim}D look cannot hit a mask of {thing.ndim} axes")
    voxel = tuple(math.floor(value) for value in look.centre)
    return Box.whole(thing.shape).contains(voxel) and bool(thing[voxel])
