"""What a navigator decided on a path, and why: one small record for each look."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from medeyes_monai.geometry import Box
from medeyes_monai.navigator.state import Mode
from medeyes_monai.trajectory import Trajectory

__all__ = ["Decision", "Reason", "Search"]

Reason = Literal[
    "gain",
    "no_gain",
    "smallest",
    "mode",
    "decisive",
    "xi",
    "max_steps",
    "budget",
    "nothing_new",
    "nothing",
]
"""Why a search went on as it did.

``gain`` and ``no_gain``: equation 3. ``smallest``: a gain, but the region cannot get smaller. ``mode``: an
ablation that knows one mode only. ``decisive``: no further look can change the reading. ``xi``: the drill is
confident enough. ``max_steps``: no look is left. ``budget``: no time is left. ``nothing_new``: the re-scan
brought up no new place. ``nothing``: the first scan brought up none.
"""


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of a search.

    Args:
        step: Number of the look that it follows, from 1; 0 where the search ended without a look.
        mode: How the region was chosen: ``scan``, among all; ``drill``, as a closer look.
        region: The region that was drilled; None at step 0. Unit: voxels of the scene.
        before: ``c_t``, the confidence in the region before the drill.
        after: ``c_{t+1}``, the drill's confidence.
        gain: ``dc`` of equation 3.
        decision: ``drill``: closer into this region; ``scan``: elsewhere; ``stop``.
        reason: Why.
    """

    step: int
    mode: Mode
    region: Box | None
    before: float | None
    after: float | None
    gain: float | None
    decision: Literal["drill", "scan", "stop"]
    reason: Reason

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON can hold it, the region by its corners.

        Example:
            >>> Decision(0, "scan", None, None, None, None, "stop", "nothing").to_dict()["reason"]
            'nothing'
        """
        return asdict(self) | {"region": None if self.region is None else list(self.region.corners)}


@dataclass(frozen=True, slots=True)
class Search:
    """A search from its first scan to its end.

    Args:
        trajectory: The path. Boxes in voxels of the scene.
        decisions: One for each look, in order; a single one at step 0 where there was no look.
    """

    trajectory: Trajectory
    decisions: tuple[Decision, ...] = ()
