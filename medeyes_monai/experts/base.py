"""The contract of an expert: whoever can point at regions of an image and say how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene

__all__ = ["Candidate", "Expert", "Reader", "Reading", "Verdict"]


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A region that an expert proposes in a scan.

    Args:
        box: The region. Unit: voxels of the scene.
        confidence: How sure the expert is that the region matters, in [0, 1].
        finding: What the expert sees there at first glance, in words.
        mask: Optional outline, bool, of the shape of ``box.extent``.
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

    Both calls are deterministic: the same scene, box and query give the same result.
    """

    @property
    def name(self) -> str:
        """Short name for messages and memo files."""

    def scan(self, scene: Scene, query: str) -> Sequence[Candidate]:
        """Locate all regions of the whole image that may matter for a query (method, section 2).

        Returns:
            Candidates inside the scene, best first; empty where nothing is suspicious.
        """

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Judge one region on its crop (method, section 2)."""


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
