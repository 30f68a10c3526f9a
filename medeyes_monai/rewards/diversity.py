"""Do the looks go to different places (``r_div`` of equation 4)."""

from __future__ import annotations

from itertools import combinations

from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["SAME_PLACE_IOU", "diversity"]

SAME_PLACE_IOU = 0.5
"""Two looks that overlap this much are at the same place (method, section 4)."""


def diversity(episode: Episode, case: Case) -> float:
    """Return the share of pairs of looked-at regions with IoU below :data:`SAME_PLACE_IOU`.

    Fewer than two looks earn 0. The case is not read.
    """
    pairs = list(combinations(episode.trajectory.boxes, 2))
    return sum(a.iou(b) < SAME_PLACE_IOU for a, b in pairs) / len(pairs) if pairs else 0.0
