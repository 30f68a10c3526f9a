"""A classical expert that knows pixels only: blobs at several scales, ranked by local contrast."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
from monai.data.box_utils import non_max_suppression
from scipy.fft import dctn, idctn

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts.base import Candidate, Verdict
from medeyes_monai.experts.grey import Grey, GreyView, glance, look
from medeyes_monai.experts.native import least_extent
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene
from medeyes_monai.seeding import seed_of

__all__ = ["BlobExpert", "describe_contrast", "local_contrast"]

SIGMAS = (1.5, 2.5, 4.0, 6.0, 9.0)  # pixels of the grid; a disc of radius r answers most at r / sqrt(2)
NMS_IOU = 0.2  # two peaks whose boxes overlap more than this are one blob seen at two scales
VISIBLE = 0.04  # contrast below this share of the grey range is called uniform; chosen
FULL = 0.5  # contrast of half the grey range counts as full confidence; chosen
_PEAKS = 64  # strongest peaks that are given to the suppression
_VERSION = 2  # part of the name; another where equal settings give other replies


class BlobExpert:
    """Finds bright and dark spots without having learned anything; the query is not read.

    A scan takes the peaks of a Laplacian of Gaussians over several scales, on the overview of a picture or on
    the voxels of a volume, brought to equal sides and a coarser grid. It drops those that overlap a stronger
    one, and ranks the rest by local contrast. A drill measures the contrast again on the region.

    **Confidence** is that contrast, scaled to [0, 1] and not calibrated: it says how much a place stands out,
    never how probable an abnormality is.

    Args:
        max_candidates: Largest number of regions in a scan.
        min_extent: Regions are grown about their centre to at least this side, inside the scene; in a
            volume, the same in millimetres along axes with larger voxels. Unit: voxels.

    Raises:
        ConfigError: If there are to be no regions, or regions without extent.

    Example:
        >>> from medeyes_monai.scenes import ImageScene
        >>> image = np.full((1, 256, 256), 60, np.uint8)
        >>> image[:, 100:120, 40:60] = 200
        >>> best = BlobExpert().scan(ImageScene(image, key="a"), "")[0]
        >>> best.finding, best.box.contains((110, 50))
        ('bright spot', True)
    """

    def __init__(self, max_candidates: int = 8, *, min_extent: int = 64) -> None:
        """Check the settings; see the class."""
        if max_candidates < 1 or min_extent < 1:
            raise ConfigError(
                f"max_candidates and min_extent must be at least 1, got {max_candidates} and {min_extent}"
            )
        self.max_candidates, self.min_extent = max_candidates, min_extent

    @property
    def name(self) -> str:
        """``blobs-`` and a digest of the settings, so that memos of other settings stay apart."""
        return f"blobs-{seed_of(self.max_candidates, self.min_extent, _VERSION):016x}"

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Propose the places that stand out most at a glance, best first.

        Raises:
            ExpertError: If a volume gives no voxels.
        """
        view = glance(scene, self.name)
        candidates = [self._candidate(scene, view, spot) for spot in _spots(view.grey, self.max_candidates)]
        return tuple(sorted(candidates, key=lambda c: (-c.confidence, c.box.corners)))

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Measure how much the middle of a region stands out from what surrounds it.

        Raises:
            ExpertError: If a volume gives no voxels.
        """
        view = look(scene, box, self.min_extent, self.name)
        contrast = local_contrast(view.grey, _shown(box.clip(scene.shape), view))
        return Verdict(_confidence(contrast), describe_contrast(contrast))

    def _candidate(self, scene: Scene, view: GreyView, spot: Box) -> Candidate:
        contrast = local_contrast(view.grey[spot.slices], Box.whole(spot.extent))
        box = spot.scale(view.grey.shape, view.box.extent).moved(view.box.start)
        grown = box.clip(scene.shape).expand(scene.shape, minimum=least_extent(scene, self.min_extent))
        return Candidate(grown, _confidence(contrast), describe_contrast(contrast))


def local_contrast(grey: Grey, box: Box) -> float:
    """Return the mean of the middle of a box minus the mean of all around it, in [-1, 1].

    Args:
        grey: Grey values in [0, 1], ``(x, y)`` or ``(x, y, z)``.
        box: The region; its middle is the half of its sides about its centre. Unit: pixels of ``grey``.

    Example:
        >>> grey = np.zeros((4, 4))
        >>> grey[1:3, 1:3] = 1.0
        >>> local_contrast(grey, Box.whole(grey.shape))
        1.0
    """
    middle = box.expand(grey.shape, factor=0.5)
    around = np.ones(grey.shape, dtype=bool)
    around[middle.slices] = False
    return float(grey[middle.slices].mean() - grey[around].mean()) if around.any() else 0.0


def describe_contrast(contrast: float) -> str:
    """Say a contrast in words.

    Example:
        >>> [describe_contrast(c) for c in (0.3, 0.0, -0.3)]
        ['bright spot', 'uniform', 'dark spot']
    """
    if abs(contrast) < VISIBLE:
        return "uniform"
    return "bright spot" if contrast > 0 else "dark spot"


def _confidence(contrast: float) -> float:
    return min(1.0, abs(contrast) / FULL)


def _shown(box: Box, view: GreyView) -> Box:
    """Carry a region of the scene into the grid of a view that shows it."""
    inside = box.intersection(view.box) or view.box
    return inside.moved([-a for a in view.box.start]).scale(view.box.extent, view.grey.shape)


def _spots(grey: Grey, limit: int) -> list[Box]:
    """Return the strongest peaks of the scale space as boxes in pixels, overlapping ones dropped."""
    stack = _scale_space(grey)
    peaks = _peaks(stack, VISIBLE / 2)
    strengths = stack[tuple(peaks.T)]
    order = np.argsort(-strengths, kind="stable")[:_PEAKS]
    boxes = [_around(peaks[i], grey.shape) for i in order]
    if not boxes:
        return []
    corners = np.asarray([box.corners for box in boxes], dtype=np.float32)
    kept = non_max_suppression(corners, strengths[order].astype(np.float32), NMS_IOU, limit)
    return [boxes[int(i)] for i in kept]


def _scale_space(grey: Grey) -> npt.NDArray[np.float32]:
    """Return the size of the Laplacian of Gaussians times sigma squared, ``(sigmas, *grey.shape)``.

    Of an image that is mirrored at its borders, by its cosine transform: at 448 x 448 that takes a fifth of
    the time of ``scipy.ndimage.gaussian_laplace``.
    """
    places = np.ogrid[tuple(slice(n) for n in grey.shape)]
    squared = sum(
        (np.pi * k / n) ** 2 for k, n in zip(places, grey.shape, strict=True)
    )  # frequency, rad/pixel
    spectrum = dctn(grey.astype(np.float32))
    factors = (s**2 * squared * np.exp(-(s**2) / 2 * squared) for s in SIGMAS)
    return np.stack([np.abs(idctn(spectrum * factor.astype(np.float32))) for factor in factors])


def _peaks(values: npt.NDArray[np.floating], least: float) -> npt.NDArray[np.int64]:
    """Return the places ``[n, axes]`` of values above ``least`` that no neighbour exceeds, in order.

    These are the places at which a ``maximum_filter`` of size 3 changes nothing. It is quicker: comparisons
    along each axis leave few places, and only those are compared with all neighbours.
    """
    is_peak = values > least
    for axis in range(values.ndim):
        value, kept = np.moveaxis(values, axis, 0), np.moveaxis(is_peak, axis, 0)
        kept[1:] &= value[1:] >= value[:-1]
        kept[:-1] &= value[:-1] >= value[1:]
    places = np.argwhere(is_peak)
    last = np.asarray(values.shape) - 1
    for offset in product((-1, 0, 1), repeat=values.ndim):
        beside = np.clip(places + offset, 0, last)
        places = places[values[tuple(places.T)] >= values[tuple(beside.T)]]
    return places


def _around(peak: npt.NDArray[np.int64], shape: tuple[int, ...]) -> Box:
    """Return the box that holds a blob: two sigmas to each side of its peak, inside the picture."""
    half = max(2, round(2 * SIGMAS[int(peak[0])]))
    centre = [int(v) for v in peak[1:]]
    return Box(tuple(c - half for c in centre), tuple(c + half + 1 for c in centre)).clip(shape)
