"""Any MONAI segmentation network as an expert."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from monai.inferers import SimpleInferer

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts.base import Candidate, Reader, Verdict
from medeyes_monai.experts.components import ProbabilityMap, Region, components, padded_mask
from medeyes_monai.experts.native import crop_of, least_extent, native_image
from medeyes_monai.experts.network_runs import Activation, NetworkRun, Preprocessing, weights_digest
from medeyes_monai.experts.relevance import NOTHING, relevance_of
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene
from medeyes_monai.seeding import seed_of

__all__ = ["BACKGROUND", "RELEVANCE", "Describe", "SegmentationExpert", "label_of"]

BACKGROUND = "background"
"""The label of the class that is nothing."""

RELEVANCE = {"decisive": 1.0, "supporting": 0.5, "other": 0.0}
"""What a drill's probability is multiplied by. Chosen: only what settles a question stops a search."""

Describe = Callable[[Scene, Region], str]
"""Says a region in the words of a data set: side, size and kind, say."""


def label_of(scene: Scene, region: Region) -> str:
    """Return the region's label, the plainest way to describe it."""
    return region.label


class SegmentationExpert:
    """A segmentation network, 2D or 3D, whose components are regions to look at.

    A scan runs the network over the whole image at native resolution. Connected components of its
    probability map above ``threshold`` become candidates with box, mask and finding. A drill runs it on the
    crop, with its surroundings, and names the component that fills most of the region.

    **Confidence.** Of a candidate, the mean (or peak) probability inside its mask: how sure the network is
    that something is there, whatever is asked. Of a drill, the mean probability of the class that it names,
    times 1 if that finding settles the question by the ``reader``'s rule, 0.5 if it bears on it, 0 if not.
    It is calibrated as far as the network is, which few are.

    Args:
        network: From ``(1, C, X, Y[, Z])`` to ``(1, K, X, Y[, Z])``. It is put into evaluation mode.
        labels: Names of the ``K`` classes. The one called ``background`` is never proposed.
        spatial_dims: 2 for pictures, 3 for volumes.
        preprocessing: Array transforms, from the scene's voxels to what the network reads; intensities of an
            ``ImageScene`` are 0 to 255, those of a ``VolumeScene`` as stored.
        inferer: Runs the network; a ``monai.inferers.SlidingWindowInferer`` where images exceed its window.
            None runs it on the whole.
        activation: ``softmax`` for exclusive classes, ``sigmoid`` for classes that may overlap, ``none`` if
            the network returns probabilities.
        plain: Classes that the overview shows plainly: proposed with confidence 0, so that a navigator does
            not look closer at them.
        together: Whether the classes that are not plain make one map, whose components are named by the most
            probable class; False for a map and components of each class.
        threshold: Probability from which a voxel belongs to a component.
        min_voxels: Smaller components are left out.
        max_candidates: Most components of a scan, the most confident ones.
        confidence: ``mean`` or ``peak``.
        min_extent: Candidates are grown about the component to at least this side, inside the scene; in a
            volume, the same in millimetres along axes with larger voxels. Unit: voxels.
        context: A drill reads at least this side about its region. Unit: as ``min_extent``.
        describe: Says a component in words; its label by default.
        reader: The data set's rule of how findings answer a question.
        version: Part of the name; change it with preprocessing or inferer, which the name cannot see.
        device: Where the network runs.

    Raises:
        ConfigError: If a setting is out of its range, or labels do not fit.

    Example:
        >>> from monai.networks.nets import BasicUNet
        >>> network = BasicUNet(spatial_dims=2, in_channels=1, out_channels=2, features=(8,) * 6)
        >>> expert = SegmentationExpert(network, ("background", "nodule"))
        >>> expert.name.startswith("segmentation-"), expert.axes
        (True, (2,))
    """

    def __init__(
        self,
        network: torch.nn.Module,
        labels: Sequence[str],
        *,
        spatial_dims: Literal[2, 3] = 2,
        preprocessing: Preprocessing | None = None,
        inferer: Callable[..., Any] | None = None,
        activation: Activation = "softmax",
        plain: Sequence[str] = (),
        together: bool = False,
        threshold: float = 0.5,
        min_voxels: int = 16,
        max_candidates: int = 16,
        confidence: Literal["mean", "peak"] = "mean",
        min_extent: int = 64,
        context: int = 96,
        describe: Describe = label_of,
        reader: Reader | None = None,
        version: str = "",
        device: str | torch.device = "cpu",
    ) -> None:
        """Check the settings; see the class."""
        _check_settings(spatial_dims, activation, confidence, threshold)
        if min(min_voxels, max_candidates, min_extent, context) < 1:
            raise ConfigError("min_voxels, max_candidates, min_extent and context are at least 1")
        if unknown := set(plain) - set(labels):
            raise ConfigError(f"plain names {sorted(unknown)}, which are not among the labels")
        if activation == "softmax" and BACKGROUND not in labels:
            raise ConfigError(f"exclusive classes need one that is {BACKGROUND!r}; got {', '.join(labels)}")
        self.labels, self.plain, self.together = tuple(labels), tuple(plain), together
        self.threshold, self.min_voxels, self.max_candidates = threshold, min_voxels, max_candidates
        self.confidence, self.min_extent, self.context = confidence, min_extent, context
        self.describe, self.reader = describe, reader
        self.axes = (spatial_dims,)
        where = torch.device(device)
        self.network = network.to(where).eval().requires_grad_(False)
        self._run = NetworkRun(
            self.network, len(self.labels), activation, inferer or SimpleInferer(), preprocessing, where
        )
        self._exclusive = activation == "softmax"
        self._name = f"segmentation-{self._digest(version):016x}"

    @property
    def name(self) -> str:
        """``segmentation-`` and a digest of weights and settings, so that memos of others stay apart."""
        return self._name

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Propose the components of the whole image, the most confident first.

        Raises:
            ExpertError: If the scene gives no voxels, or the network cannot read them.
        """
        found = self._regions(self._run(native_image(scene, self.name), self.name))
        candidates = [self._candidate(scene, region) for region in found]
        ordered = sorted(candidates, key=lambda c: (-c.confidence, c.box.corners))
        return tuple(ordered[: self.max_candidates])

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Name what fills most of a region, read at native resolution with its surroundings.

        Raises:
            ExpertError: If the scene gives no voxels, or the network cannot read them.
        """
        image = native_image(scene, self.name)
        around = box.expand(scene.shape, minimum=least_extent(scene, self.context))
        chances = self._run(crop_of(image, around), self.name)
        found = [(self._weight(region, box), region) for region in self._regions(chances, around.start)]
        inside = [(weight, region) for weight, region in found if weight > 0]
        if not inside:
            finding, probability = NOTHING, self._emptiness(chances, around, box)
        else:
            best = max(inside, key=lambda pair: (pair[1].label not in self.plain, pair[0]))[1]
            finding, probability = self.describe(scene, best), best.label_mean
        relevance = relevance_of(self.reader, query, finding)
        return Verdict(probability * RELEVANCE[relevance.level], finding, relevance.answer)

    def _regions(self, chances: ProbabilityMap, offset: tuple[int, ...] | None = None) -> list[Region]:
        found: list[Region] = []
        for classes in self._groups():
            found += components(
                chances,
                self.labels,
                classes,
                threshold=self.threshold,
                min_voxels=self.min_voxels,
                exclusive=self._exclusive,
                offset=offset,
            )
        return found

    def _groups(self) -> list[list[int]]:
        """Return the classes whose components are found together."""
        sought = [i for i, label in enumerate(self.labels) if label not in (BACKGROUND, *self.plain)]
        alone = [[i] for i, label in enumerate(self.labels) if label in self.plain]
        return alone + ([sought] if self.together and sought else [[i] for i in sought])

    def _candidate(self, scene: Scene, region: Region) -> Candidate:
        box = region.box.expand(scene.shape, minimum=least_extent(scene, self.min_extent))
        sure = region.mean if self.confidence == "mean" else region.peak
        confidence = 0.0 if region.label in self.plain else sure
        return Candidate(box, confidence, self.describe(scene, region), padded_mask(region, box))

    def _weight(self, region: Region, box: Box) -> float:
        """Return how much of a region of a scene a component fills: voxels times probability."""
        both = region.box.intersection(box)
        if both is None:
            return 0.0
        slices = tuple(
            slice(a - o, b - o) for a, b, o in zip(both.start, both.stop, region.box.start, strict=True)
        )
        return float(region.mask[slices].sum()) * region.mean

    def _emptiness(self, chances: ProbabilityMap, around: Box, box: Box) -> float:
        """Return the mean probability that no class is at a region's voxels."""
        slices = tuple(slice(a - o, b - o) for a, b, o in zip(box.start, box.stop, around.start, strict=True))
        sought = [i for i, label in enumerate(self.labels) if label != BACKGROUND]
        inside = chances[sought][(slice(None), *slices)]
        something = inside.sum(axis=0).clip(max=1.0) if self._exclusive else inside.max(axis=0)
        return float(1.0 - something.mean())

    def _digest(self, version: str) -> int:
        settings = (
            self.labels, self.plain, self.together, self.threshold, self.min_voxels, self.max_candidates,
            self.confidence, self.min_extent, self.context, self._run.activation, self.axes, version,
        )  # fmt: skip
        words = (type(self.describe).__qualname__, type(self.reader).__qualname__)
        return seed_of(weights_digest(self.network), *words, *map(repr, settings))


def _check_settings(spatial_dims: int, activation: str, confidence: str, threshold: float) -> None:
    allowed: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "spatial_dims": (spatial_dims, (2, 3)),
        "activation": (activation, ("softmax", "sigmoid", "none")),
        "confidence": (confidence, ("mean", "peak")),
    }
    for setting, (value, choices) in allowed.items():
        if value not in choices:
            raise ConfigError(f"{setting} is one of {', '.join(map(str, choices))}, got {value!r}")
    if not 0 < threshold < 1:
        raise ConfigError(f"threshold is a probability between 0 and 1, got {threshold}")
