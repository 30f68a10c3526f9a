"""Any box detector in MONAI's form as an expert."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from monai.apps.detection.transforms.box_ops import apply_affine_to_boxes
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd

from medeyes_monai.errors import ConfigError, ExpertError, GeometryError
from medeyes_monai.experts.base import Candidate, Reader, Verdict
from medeyes_monai.experts.native import crop_of, least_extent, native_image
from medeyes_monai.experts.network import RELEVANCE
from medeyes_monai.experts.network_runs import Preprocessing, as_input, weights_digest
from medeyes_monai.experts.relevance import NOTHING, relevance_of
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene
from medeyes_monai.seeding import seed_of

__all__ = ["Detection", "DetectorExpert"]

Detector = Callable[[list[torch.Tensor]], Sequence[Mapping[str, torch.Tensor]]]
"""From images ``(C, X, Y[, Z])`` to a dictionary for each, with boxes, labels and scores."""


@dataclass(frozen=True, slots=True)
class Detection:
    """A box that a detector found.

    Args:
        box: Where. Unit: voxels of the scene.
        label: What.
        score: How sure the detector is, in [0, 1].
    """

    box: Box
    label: str
    score: float


class DetectorExpert:
    """A detector, 2D or 3D, whose boxes are regions to look at.

    The form is that of ``monai.apps.detection``'s ``RetinaNetDetector``: called with a list of images
    ``(C, X, Y[, Z])``, it returns for each a dictionary with ``boxes`` ``(N, 4 or 6)`` as
    ``[x1, y1[, z1], x2, y2[, z2]]``, ``labels`` ``(N,)`` and scores ``(N,)``. MONAI's own detector runs
    without torchvision if its feature extractor does not come from ``resnet_fpn_feature_extractor``.

    A scan detects on the whole image, a drill on the crop with its surroundings.

    **Confidence** of a candidate is the detector's score, whatever is asked; of a drill, the score of the
    best box whose centre lies in the region, times 1 if it settles the question by the ``reader``'s rule, 0.5
    if it bears on it, 0 if not. It is calibrated as far as the detector's scores are, which few are.

    Args:
        detector: The detector; a module is put into evaluation mode and on ``device``.
        labels: Names of the classes, by number.
        spatial_dims: 2 for pictures, 3 for volumes.
        preprocessing: Array transforms, from the scene's voxels to what the detector reads.
        box_key: Key of the boxes in its output.
        label_key: Key of the labels.
        score_key: Key of the scores.
        score_threshold: Boxes below are left out.
        max_candidates: Most boxes of a scan.
        min_extent: Candidates are grown to at least this side, as those of ``SegmentationExpert``.
        context: A drill reads at least this side about its region.
        reader: The data set's rule of how findings answer a question.
        version: Part of the name; change it with anything that the name cannot see.
        device: Where the detector runs.

    Raises:
        ConfigError: If a setting is out of its range.

    Example:
        >>> from medeyes_monai.scenes import ImageScene
        >>> found = {"boxes": torch.tensor([[10.0, 20, 30, 50]]), "labels": torch.tensor([0]),
        ...          "labels_scores": torch.tensor([0.75])}
        >>> expert = DetectorExpert(lambda images: [found], ("nodule",), min_extent=1)
        >>> scene = ImageScene(np.zeros((1, 96, 96), np.uint8), key="a")
        >>> [(c.box.corners, c.confidence, c.finding) for c in expert.scan(scene, "")]
        [((10, 20, 30, 50), 0.75, 'nodule')]
    """

    def __init__(
        self,
        detector: Detector,
        labels: Sequence[str],
        *,
        spatial_dims: Literal[2, 3] = 2,
        preprocessing: Preprocessing | None = None,
        box_key: str = "boxes",
        label_key: str = "labels",
        score_key: str = "labels_scores",
        score_threshold: float = 0.2,
        max_candidates: int = 16,
        min_extent: int = 64,
        context: int = 96,
        reader: Reader | None = None,
        version: str = "",
        device: str | torch.device = "cpu",
    ) -> None:
        """Check the settings; see the class."""
        if spatial_dims not in (2, 3) or not labels:
            raise ConfigError(f"spatial_dims is 2 or 3 and there are labels, got {spatial_dims}, {labels!r}")
        if not 0 <= score_threshold <= 1 or min(max_candidates, min_extent, context) < 1:
            raise ConfigError(
                "score_threshold lies in [0, 1]; max_candidates, min_extent and context are at least 1"
            )
        self.detector, self.labels, self.device = detector, tuple(labels), torch.device(device)
        if isinstance(detector, torch.nn.Module):
            detector.to(self.device).eval().requires_grad_(False)
        self.axes = (spatial_dims,)
        self.preprocessing, self.keys = preprocessing, (box_key, label_key, score_key)
        self.score_threshold, self.max_candidates = score_threshold, max_candidates
        self.min_extent, self.context, self.reader = min_extent, context, reader
        self._name = f"detector-{self._digest(version):016x}"

    @property
    def name(self) -> str:
        """``detector-`` and a digest of weights and settings, so that memos of others stay apart."""
        return self._name

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Propose the boxes found in the whole image, the highest scores first.

        Raises:
            ExpertError: If the scene gives no voxels, or the detector does not keep to the form.
        """
        least = least_extent(scene, self.min_extent)
        found = self._detect(native_image(scene, self.name), (0,) * len(scene.shape))
        return tuple(
            Candidate(d.box.expand(scene.shape, minimum=least), d.score, d.label)
            for d in found[: self.max_candidates]
        )

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Name the best box whose centre lies in a region.

        Raises:
            ExpertError: If the scene gives no voxels, or the detector does not keep to the form.
        """
        around = box.expand(scene.shape, minimum=least_extent(scene, self.context))
        found = self._detect(crop_of(native_image(scene, self.name), around), around.start)
        inside = next((d for d in found if box.contains(d.box.centre)), None)
        finding, score = (NOTHING, 1.0) if inside is None else (inside.label, inside.score)
        relevance = relevance_of(self.reader, query, finding)
        return Verdict(score * RELEVANCE[relevance.level], finding, relevance.answer)

    def _detect(self, image: MetaTensor, offset: tuple[int, ...]) -> list[Detection]:
        """Return what is found in an image, in voxels of the scene, the highest scores first."""
        ready = as_input(image, self.preprocessing, self.name)
        try:
            with torch.inference_mode():
                output = self.detector([ready.as_tensor().to(self.device)])
        except (RuntimeError, ValueError) as problem:  # MONAI raises either
            first = str(problem).splitlines()[0]
            raise ExpertError(
                f"{self.name}: the detector refused an image of {tuple(ready.shape)}: {first}"
            ) from problem
        boxes, labels, scores = self._read(output)
        placed = _in_grid_of(image, ready, boxes)
        found = [
            Detection(box.moved(offset), self.labels[label], score)
            for corners, label, score in zip(placed, labels, scores, strict=True)
            if score >= self.score_threshold and (box := _whole(corners, tuple(image.shape[1:]))) is not None
        ]
        return sorted(found, key=lambda d: (-d.score, d.box.corners))

    def _read(self, output: Any) -> tuple[npt.NDArray[np.float64], list[int], list[float]]:
        """Read the first image's dictionary; everything in it is checked."""
        first = output[0] if isinstance(output, Sequence) and len(output) == 1 else None
        if not isinstance(first, Mapping) or not all(key in first for key in self.keys):
            raise ExpertError(
                f"{self.name}: a detector returns one dictionary for an image, with {', '.join(self.keys)}; "
                f"got {type(output if first is None else first).__name__}"
            )
        boxes, labels, scores = (torch.as_tensor(first[key]).detach().cpu() for key in self.keys)
        corners, number = 2 * self.axes[0], len(scores)
        if boxes.numel() == 0 and number == 0:
            return np.zeros((0, corners)), [], []
        if tuple(boxes.shape) != (number, corners) or tuple(labels.shape) != (number,):
            raise ExpertError(
                f"{self.name}: {number} scores need boxes of {(number, corners)} and as many labels, "
                f"got {tuple(boxes.shape)} and {tuple(labels.shape)}"
            )
        if not (torch.isfinite(boxes).all() and ((scores >= 0) & (scores <= 1)).all()):
            raise ExpertError(f"{self.name}: the detector returned a box or score that is out of its range")
        if not ((labels >= 0) & (labels < len(self.labels))).all():
            raise ExpertError(f"{self.name}: the detector knows classes beyond its {len(self.labels)} labels")
        return boxes.double().numpy(), labels.int().tolist(), scores.double().tolist()

    def _digest(self, version: str) -> int:
        weights = (
            weights_digest(self.detector)
            if isinstance(self.detector, torch.nn.Module)
            else type(self.detector).__qualname__
        )
        settings = (
            self.labels, self.axes, self.keys, self.score_threshold, self.max_candidates, self.min_extent,
            self.context, type(self.reader).__qualname__, version,
        )  # fmt: skip
        return seed_of(weights, *map(repr, settings))


def _in_grid_of(
    image: MetaTensor, ready: MetaTensor, boxes: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Carry corners (in voxel edges) from the grid of the detector's input to that of the image."""
    there, here = (to_affine_nd(image.ndim - 1, np.asarray(grid.affine)) for grid in (ready, image))
    if not len(boxes) or np.allclose(here, there):
        return boxes
    between = np.linalg.inv(here) @ there  # between voxel centres, which lie half a voxel inside the edges
    carried: npt.NDArray[np.float64] = apply_affine_to_boxes(boxes - 0.5, between) + 0.5
    return carried


def _whole(corners: npt.NDArray[np.float64], shape: tuple[int, ...]) -> Box | None:
    """Return a box in whole voxels inside a grid, or None where it encloses none of it."""
    try:
        return Box.from_corners(corners.tolist()).clip(shape)
    except GeometryError:
        return None
