"""Text-prompted (open-vocabulary) detection as an expert: the query names what is looked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from monai.data.box_utils import non_max_suppression

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts.base import Candidate, Reader, Verdict
from medeyes_monai.experts.checked import check_axes
from medeyes_monai.experts.native import crop_of, native_image
from medeyes_monai.experts.network import RELEVANCE
from medeyes_monai.experts.pretrained import refusals_named
from medeyes_monai.experts.relevance import NOTHING, relevance_of
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene
from medeyes_monai.seeding import seed_of
from medeyes_monai.trajectory import Picture
from medeyes_monai.transforms.array import ToPicture

__all__ = ["Grounder", "Grounding", "GroundingExpert", "phrases_of"]

MOST_PHRASES = 16
"""Most things that are looked for at once; each may cost a pass of the model."""


@dataclass(frozen=True, slots=True, eq=False)
class Grounding:
    """What a text-prompted model found in a picture (N regions).

    Args:
        boxes: Corners ``[x1, y1, x2, y2]``, x along the columns. Shape ``[N, 4]``. Unit: pixels (edges).
        scores: How sure the model is of each, in [0, 1]. Shape ``[N]``.
        labels: What each is.
        masks: Outlines, bool ``[N, rows, columns]``, where the model gives them.
    """

    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    labels: tuple[str, ...]
    masks: npt.NDArray[np.bool_] | None = None


@runtime_checkable
class Grounder(Protocol):
    """A model that finds in a picture what a text names."""

    @property
    def name(self) -> str:
        """Short name; other weights or settings, other name."""

    def find(self, picture: Picture, phrases: Sequence[str]) -> Grounding:
        """Find what phrases name, in a picture ``uint8 (rows, columns, 3)``."""


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """One region that was found, in voxels of the scene, and the outline of all that was read."""

    box: Box
    score: float
    label: str
    outline: npt.NDArray[np.bool_] | None
    read: Box

    def mask_of(self, box: Box) -> npt.NDArray[np.bool_] | None:
        """Return the outline inside a box that was read; None where the model gives none."""
        if self.outline is None:
            return None
        return self.outline[box.moved([-v for v in self.read.start]).slices]


class GroundingExpert:
    """Finds what the query names, with a model such as Grounding DINO, OWLv2 or SAM 3. Pictures only.

    The query is cut at its full stops into phrases (``lung nodule. mass.``); a navigator's query templates
    turn questions into such. A scan reads the whole image, a drill the region with its surroundings, both
    at the image's own resolution.

    **Confidence** of a candidate is the model's score, a sigmoid that says how well the place fits the
    phrase. It is not calibrated, least of all on medical images, which such models were hardly trained on.
    That of a drill is the score of the best box whose centre lies in the region, times 1 if the finding
    settles the question by the ``reader``'s rule, 0.5 if it bears on it, 0 if not; where nothing is found,
    the score counts as 1 for the finding "normal".

    Args:
        grounder: The model, see :mod:`medeyes_monai.experts.grounding_models`.
        nms_iou: Of two regions that overlap more than this, the one with the lower score is dropped.
        max_candidates: Most regions of a scan.
        min_extent: Candidates are grown about their centre to at least this side, inside the scene.
            Unit: voxels.
        context: A drill reads at least this side about its region. Unit: voxels.
        reader: The data set's rule of how findings answer a question.

    Raises:
        ConfigError: If a setting is out of its range.

    Example:
        >>> from types import SimpleNamespace
        >>> from medeyes_monai.scenes import ImageScene
        >>> found = Grounding(np.array([[10.0, 20, 30, 50]]), np.array([0.75]), ("nodule",))
        >>> grounder = SimpleNamespace(name="a", find=lambda picture, phrases: found)
        >>> scene = ImageScene(np.zeros((1, 96, 64), np.uint8), key="a")
        >>> GroundingExpert(grounder, min_extent=1).scan(scene, "nodule. mass.")[0].box
        Box(start=(10, 20), stop=(30, 50))
    """

    axes = (2,)

    def __init__(
        self,
        grounder: Grounder,
        *,
        nms_iou: float = 0.5,
        max_candidates: int = 8,
        min_extent: int = 64,
        context: int = 96,
        reader: Reader | None = None,
    ) -> None:
        """Check the settings; see the class."""
        if not 0 <= nms_iou <= 1 or min(max_candidates, min_extent, context) < 1:
            raise ConfigError(
                "nms_iou lies in [0, 1]; max_candidates, min_extent and context are at least 1, "
                f"got {nms_iou}, {max_candidates}, {min_extent} and {context}"
            )
        self.grounder, self.nms_iou, self.max_candidates = grounder, nms_iou, max_candidates
        self.min_extent, self.context, self.reader = min_extent, context, reader

    @property
    def name(self) -> str:
        """``grounding-`` and a digest of model and settings, so that memos of others stay apart."""
        numbers = (self.max_candidates, self.min_extent, self.context)
        reader = type(self.reader).__qualname__
        return f"grounding-{seed_of(self.grounder.name, repr(self.nms_iou), *numbers, reader):016x}"

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Propose the regions that fit a phrase of the query, the highest scores first.

        Raises:
            ExpertError: If the scene is no picture or gives no voxels, or the model's output is not in order.
        """
        places = self._find(scene, Box.whole(scene.shape), query)
        return tuple(self._candidate(scene, place) for place in places[: self.max_candidates])

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Name the best region whose centre lies in a box.

        Raises:
            ExpertError: If the scene is no picture or gives no voxels, or the model's output is not in order.
        """
        places = self._find(scene, box.expand(scene.shape, minimum=self.context), query)
        best = next((place for place in places if box.contains(place.box.centre)), None)
        finding, score = (NOTHING, 1.0) if best is None else (best.label, best.score)
        relevance = relevance_of(self.reader, query, finding)
        return Verdict(score * RELEVANCE[relevance.level], finding, relevance.answer)

    def _candidate(self, scene: Scene, place: _Place) -> Candidate:
        box = place.box.expand(scene.shape, minimum=self.min_extent)
        return Candidate(box, place.score, place.label, place.mask_of(box))

    def _find(self, scene: Scene, region: Box, query: str) -> list[_Place]:
        """Return what is found in a region of the scene, overlaps dropped, the highest scores first."""
        check_axes(self, scene)
        image = native_image(scene, self.name)
        phrases = phrases_of(query)
        if not phrases:
            return []
        picture = ToPicture()(crop_of(image, region))
        with refusals_named(self.name, picture):
            found = self.grounder.find(picture, phrases)
        _check(found, picture, self.name)
        places = []
        for number in np.argsort(-found.scores, kind="stable").tolist():
            inside = _whole(found.boxes[number], region.extent)
            if inside is not None:
                outline = None if found.masks is None else found.masks[number].T
                score, label = float(found.scores[number]), found.labels[number]
                places.append(_Place(inside.moved(region.start), score, label, outline, region))
        return self._distinct(places)

    def _distinct(self, places: Sequence[_Place]) -> list[_Place]:
        if not places:
            return []
        corners = np.asarray([place.box.corners for place in places], dtype=np.float32)
        scores = np.asarray([place.score for place in places], dtype=np.float32)
        return [places[int(i)] for i in non_max_suppression(corners, scores, self.nms_iou)]


def phrases_of(query: str) -> tuple[str, ...]:
    """Return what a query names: its parts between full stops, in lower case, at most :data:`MOST_PHRASES`.

    Example:
        >>> phrases_of("Lung nodule. mass."), phrases_of("Is there a 0.5 cm nodule?")
        (('lung nodule', 'mass'), ('is there a 0 5 cm nodule',))
    """
    parts = re.split(r"\.(?=\s|$)", query.lower())
    phrases = (" ".join(part.replace(".", " ").strip(" \t\r\n?!,;:").split()) for part in parts)
    return tuple(phrase for phrase in phrases if phrase)[:MOST_PHRASES]


def _check(found: Grounding, picture: Picture, name: str) -> None:
    number = len(found.scores)
    shapes = [found.boxes.shape == (number, 4), found.scores.shape == (number,), len(found.labels) == number]
    if not all(shapes) or (found.masks is not None and found.masks.shape != (number, *picture.shape[:2])):
        raise ExpertError(
            f"{name}: {number} scores need as many boxes, labels and masks of the picture, got boxes "
            f"{found.boxes.shape}, {len(found.labels)} labels and masks "
            f"{None if found.masks is None else found.masks.shape}"
        )
    if not (np.isfinite(found.boxes).all() and ((found.scores >= 0) & (found.scores <= 1)).all()):
        raise ExpertError(f"{name}: the model returned a box or score that is out of its range")


def _whole(corners: npt.NDArray[np.float64], shape: tuple[int, ...]) -> Box | None:
    """Return the pixels of a picture ``(columns, rows)`` that a box touches; None if it touches none."""
    low = np.floor(corners[:2]).clip(0, shape).astype(int).tolist()
    high = np.ceil(corners[2:]).clip(0, shape).astype(int).tolist()
    return Box(tuple(low), tuple(high)) if all(a < b for a, b in zip(low, high, strict=True)) else None
