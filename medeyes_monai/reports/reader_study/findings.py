"""What a reader study can find, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medeyes_monai.metrics.intervals import Estimate

__all__ = ["Effect", "StudyResults", "Usefulness"]


@dataclass(frozen=True, slots=True)
class Effect:
    """An outcome with and without the looks.

    Args:
        shown: Mean of all ratings with looks; the interval resamples items.
        hidden: Mean of all ratings without.
        over_items: Mean over items of their mean with looks less their mean without, which other readers
            gave. Readers cancel out in a full crossover, since each is on one side for half of the items and
            on the other for the rest. The interval resamples items and says nothing of other readers.
        over_readers: Mean over readers of the same difference, where items cancel out; the interval
            resamples readers and is of little worth for few.
        readers: Mean with and without of each reader, NaN where there is none.
    """

    shown: Estimate
    hidden: Estimate
    over_items: Estimate
    over_readers: Estimate
    readers: Mapping[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        names = ("shown", "hidden", "over_items", "over_readers")
        readers = {name: [None if math.isnan(v) else v for v in pair] for name, pair in self.readers.items()}
        return {name: getattr(self, name).to_dict() for name in names} | {"readers": readers}


@dataclass(frozen=True, slots=True)
class Usefulness:
    """How useful looks were.

    Args:
        by_look: Mean by the number of the look, from 1; the interval resamples items.
        right: Mean where the model was right.
        wrong: Mean where it was wrong.
        each: Mean rating and number of ratings of every look, by item; NaN where nobody rated it.
    """

    by_look: Mapping[int, Estimate]
    right: Estimate
    wrong: Estimate
    each: Mapping[str, tuple[tuple[float, int], ...]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        each = {
            item: [{"mean": None if math.isnan(mean) else mean, "count": count} for mean, count in looks]
            for item, looks in self.each.items()
        }
        return {
            "by_look": {str(number): mean.to_dict() for number, mean in self.by_look.items()},
            "right": self.right.to_dict(),
            "wrong": self.wrong.to_dict(),
            "each": each,
        }


@dataclass(frozen=True, slots=True)
class StudyResults:
    """What a study found.

    Args:
        states: Of each reader, how many cases are rated, left or open.
        items: Number of items.
        agreement: Agreement by its name; the count is that of units.
        effects: The effect of seeing the looks, by outcome.
        usefulness: How useful looks were.
    """

    states: Mapping[str, Mapping[str, int]]
    items: int
    agreement: Mapping[str, Estimate]
    effects: Mapping[str, Effect]
    usefulness: Usefulness

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; what is not known is None."""
        return {
            "items": self.items,
            "states": {reader: dict(counts) for reader, counts in self.states.items()},
            "agreement": {name: value.to_dict() for name, value in self.agreement.items()},
            "effects": {name: effect.to_dict() for name, effect in self.effects.items()},
            "usefulness": self.usefulness.to_dict(),
        }
