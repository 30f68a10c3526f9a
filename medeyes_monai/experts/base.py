"""The contract of an expert: whoever can point at regions of an image and say how sure it is.

What holds for every expert, and is checked by ``checked`` at each call and by ``contract.check_expert`` as a
whole:

- A scan returns regions inside the scene, best first, and none where nothing is suspicious. A drill takes any
  region inside the scene, from one voxel to the whole image.
- A confidence is a finite float in [0, 1]. What it measures differs from expert to expert, and so does
  whether it is calibrated (of all regions with confidence 0.7, do seven in ten matter?); the class says
  both. The navigator compares confidences of one expert only.
- The same scene, query and box give the same reply, whatever was asked before and in whatever process: draws
  are seeded by what is asked. A name tells experts apart whose replies differ, so a setting that changes
  replies changes the name.
- An expert for pictures or for volumes alone says so (``axes``), and is not asked about others.
- Replies depend on what an image shows, not on its key; an expert for which this does not hold, because it
  draws by the key, has an attribute ``reads_key = True``.
- What cannot be done is an ``ExpertError``, never a made-up reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from medeyes_monai.errors import ExpertError
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene

__all__ = ["ANY_AXES", "Candidate", "Expert", "Reader", "Reading", "Verdict", "axes_of"]

ANY_AXES = (2, 3)
"""Pictures and volumes."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A region that an expert proposes in a scan.

    Args:
        box: The region. Unit: voxels of the scene.
        confidence: How sure the expert is that the region matters, in [0, 1]. The expert's class says what
            it is and whether it is calibrated.
        finding: What the expert sees there at first glance, in words.
        mask: Optional outline, bool, of the shape of ``box.extent``, axes as the box's.
        disagreement: How far several experts are apart about the region, in [0, 1]; 0 for one expert.
    """

    box: Box
    confidence: float
    finding: str = ""
    mask: npt.NDArray[np.bool_] | None = None
    disagreement: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an expert says after looking closely at one region.

    Args:
        confidence: How sure the expert is that this region settles the question, in [0, 1].
        finding: What it sees there, in words.
        answer: Its answer to the question from this region alone, if it gives one.
        disagreement: How far several experts are apart about the region, in [0, 1]; 0 for one expert.
    """

    confidence: float
    finding: str
    answer: str | None = None
    disagreement: float = 0.0


@runtime_checkable
class Expert(Protocol):
    """A frozen model, or the data's annotations, that can search an image.

    Both calls are deterministic: the same scene, box and query give the same result. An expert that takes
    pictures only has an attribute ``axes = (2,)``, one for volumes only ``axes = (3,)``; without it, it
    takes both (see :func:`axes_of`).

    Example:
        >>> class Centre:
        ...     name = "centre"
        ...     def scan(self, scene, query):
        ...         whole = Box.whole(scene.shape)
        ...         return [Candidate(whole.expand(scene.shape, factor=0.5), 0.5, "the middle")]
        ...     def drill(self, scene, box, query):
        ...         return Verdict(0.5, "the middle")
        >>> isinstance(Centre(), Expert), axes_of(Centre())
        (True, (2, 3))
    """

    @property
    def name(self) -> str:
        """Short name for messages and memo files; other settings, other name."""

    def scan(self, scene: Scene, query: str) -> Sequence[Candidate]:
        """Locate all regions of the whole image that may matter for a query (method, section 2).

        Returns:
            Candidates inside the scene, best first; empty where nothing is suspicious.
        """

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Judge one region on its crop (method, section 2)."""


def axes_of(expert: Expert) -> tuple[int, ...]:
    """Return the numbers of spatial axes that an expert takes: its ``axes``, or both where it has none.

    Raises:
        ExpertError: If ``axes`` is something else than 2, 3 or both; the message names the expert.
    """
    axes = getattr(expert, "axes", ANY_AXES)
    if not isinstance(axes, tuple) or not axes or not set(axes) <= set(ANY_AXES):
        raise ExpertError(f"{expert.name}: axes is (2,), (3,) or (2, 3), got {axes!r}")
    return axes


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader makes of the findings so far.

    Args:
        answer: The answer that the findings support, or None where they support none.
        decisive: True if no further look can change the answer.
    """

    answer: str | None
    decisive: bool


@runtime_checkable
class Reader(Protocol):
    """Knows how findings answer a question: a data set's own rule."""

    def read(self, query: str, seen: Sequence[str], candidates: Sequence[Candidate]) -> Reading:
        """Answer a query from findings.

        Args:
            query: The question, in words.
            seen: Findings of the regions looked at closely, in order.
            candidates: What the scan of the whole image proposed.
        """
