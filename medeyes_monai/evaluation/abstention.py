"""Withholding unsure answers: a threshold that is chosen on one half of the images and tried on the other."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medeyes_monai.metrics import Calibration, Selection, abstain, choose_threshold

__all__ = ["Abstention", "abstention"]


@dataclass(frozen=True, slots=True)
class Abstention:
    """What is left when unsure answers are withheld to keep a risk.

    Args:
        risk: The largest share of wrong answers that is accepted.
        whole: On all answers, with the threshold chosen on the same: an upper bound of what can be had.
        halves: On each half of the images, with the threshold that was chosen on the other.
    """

    risk: float
    whole: Selection
    halves: tuple[Selection, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; an infinite threshold, which gives no answer, is None."""
        return {
            "risk": self.risk,
            "chosen_on_the_same": _plain(self.whole),
            "chosen_on_the_other_half": [_plain(half) for half in self.halves],
        }


def abstention(found: Calibration, images: Sequence[str], risk: float) -> Abstention:
    """Choose thresholds for a risk and say what they keep.

    Args:
        found: Confidences and whether each answer is right.
        images: Name of each answer's image; questions about one image are in one half.
        risk: The largest share of wrong answers that is accepted.

    Raises:
        ConfigError: If the risk is no share.
    """
    whole = _selected(found, np.ones(found.count, bool), np.ones(found.count, bool), risk)
    first = np.array([_in_first_half(image) for image in images])
    halves = [
        _selected(found, one, other, risk)
        for one, other in ((first, ~first), (~first, first))
        if one.any() and other.any()
    ]
    return Abstention(risk, whole, tuple(halves))


def _selected(found: Calibration, chosen_on: Any, tried_on: Any, risk: float) -> Selection:
    threshold = choose_threshold(found.confidence[chosen_on], found.right[chosen_on], risk)
    return abstain(found.confidence[tried_on], found.right[tried_on], threshold)


def _in_first_half(image: str) -> bool:
    return hashlib.blake2b(image.encode("utf-8", errors="replace"), digest_size=1).digest()[0] < 128


def _plain(selection: Selection) -> dict[str, float | int | None]:
    figures = {"threshold": selection.threshold, "coverage": selection.coverage, "risk": selection.risk}
    return {name: v if math.isfinite(v) else None for name, v in figures.items()} | {"count": selection.count}
