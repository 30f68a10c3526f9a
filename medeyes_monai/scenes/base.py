"""The contract of a scene: the only thing that knows whether pixels are a picture or a volume."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from medeyes_monai.geometry import Box
from medeyes_monai.trajectory import Picture

__all__ = ["Case", "Finding", "Scene", "Scoring", "View"]

Scoring = Literal["exact", "choice", "closed", "numeric", "open"]
"""How an answer is compared with the reference: a data set's own rule (see ``metrics.scoring``)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the data say is in an image.

    Args:
        box: Where. Unit: voxels of the scene.
        label: What, in words.
        subtle: True if only a close look shows what it is; False if the overview does.
    """

    box: Box
    label: str
    subtle: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What one look brings back.

    Args:
        pixels: The picture, ``uint8 (rows, columns, 3)``, sides fitting the policy's patch grid.
        box: The region that the picture shows, after context and limits. Unit: voxels of the scene.
    """

    pixels: Picture
    box: Box


@runtime_checkable
class Scene(Protocol):
    """An image that can be looked at: as a whole, or one region at a time.

    Navigator, sampler, rollout, rewards and trainer know images only through this protocol, and boxes may
    have two or three axes.
    """

    @property
    def key(self) -> str:
        """Name of the image, unique within its data set, free of patient data."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of the image, one per spatial axis, ``(x, y)`` or ``(x, y, z)``. Unit: voxels."""

    @property
    def frame(self) -> tuple[int, ...]:
        """Extent of the frame in which a policy that speaks in pixels gives boxes, one per spatial axis.

        Of a picture, this is the size of its overview as the policy sees it, ``(columns, rows)``; of a
        volume, the size of a cell of its contact sheet and the number of slices.
        """

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the data say is in the image; empty where nothing is known."""

    def overview(self) -> View:
        """Return the whole image at the resolution of a first glance."""

    def look(self, box: Box) -> View:
        """Return the pixels of a region, at a resolution that the overview did not have.

        Args:
            box: The region that is asked for. Unit: voxels of the scene. It is clipped to the image.

        Raises:
            GeometryError: If the box lies outside the image or has another number of axes.
        """

    def to_world(self, box: Box) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return two opposite outer corners of a box in millimetres of the image's world frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A question about a scene.

    Args:
        key: Name of the question, unique within its data set, free of patient data.
        scene: The image that is asked about.
        question: The question, in words.
        answer: The reference answer; None where only an answer is wanted (inference).
        options: Answers to choose from, in order; empty for a free question.
        family: Kind of question, for tables that tell kinds apart.
        scoring: Rule by which answers are compared with the reference.
        tolerance: Largest difference that counts as right under ``numeric`` scoring. Unit: the answer's.
    """

    key: str
    scene: Scene
    question: str
    answer: str | None = None
    options: tuple[str, ...] = field(default=())
    family: str = "all"
    scoring: Scoring = "exact"
    tolerance: float = 0.0
