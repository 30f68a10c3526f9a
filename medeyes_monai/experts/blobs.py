"""A classical expert that knows pixels only: blobs at several scales, ranked by local contrast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from monai.data.box_utils import non_max_suppression
from scipy.ndimage import gaussian_laplace, maximum_filter

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts.base import Candidate, Verdict
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene, View
from medeyes_monai.seeding import seed_of
from medeyes_monai.trajectory import Picture

__all__ = ["BlobExpert", "describe_contrast", "local_contrast"]

SIGMAS = (1.5, 2.5, 4.0, 6.0, 9.0)  # pixels of the overview; a disc of radius r answers most at r / sqrt(2)
NMS_IOU = 0.2  # two peaks whose boxes overlap more than this are one blob seen at two scales
VISIBLE = 0.04  # contrast below this share of the grey range is called uniform; chosen
FULL = 0.5  # contrast of half the grey range counts as full confidence; chosen
_PEAKS = 64  # strongest peaks that are given to the suppression

_Grey = npt.NDArray[np.float64]


class BlobExpert:
    """Finds bright and dark spots of a picture without having learned anything; the query is not read.

    A scan takes the peaks of a Laplacian of Gaussians over several scales on the overview, drops those that
    overlap a stronger one, and ranks the rest by local contrast. A drill measures the contrast again on the
    pixels of the region. **The confidence is that contrast**, scaled to [0, 1] and not calibrated: it says
    how much a place stands out, never how probable an abnormality is.

    Args:
        max_candidates: Largest number of regions in a scan.
        min_extent: Regions are grown about their centre to at least this side, inside the scene.
            Unit: voxels.

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

    axes = (2,)

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
        return f"blobs-{seed_of(self.max_candidates, self.min_extent):016x}"

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Propose the places of the overview that stand out most, best first.

        Raises:
            ExpertError: If the scene is not a picture.
        """
        self._require_picture(scene)
        view = scene.overview()
        grey = _grey(view.pixels)
        spots = _spots(grey, self.max_candidates)
        candidates = [self._candidate(scene, view, grey, spot) for spot in spots]
        return tuple(sorted(candidates, key=lambda c: (-c.confidence, c.box.corners)))

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Measure how much the middle of a region stands out from what surrounds it.

        Raises:
            ExpertError: If the scene is not a picture.
        """
        self._require_picture(scene)
        view = scene.look(box)
        grey = _grey(view.pixels)
        shown = _to_picture(box.clip(scene.shape), view, grey.shape)
        contrast = local_contrast(grey, shown)
        return Verdict(_confidence(contrast), describe_contrast(contrast))

    def _candidate(self, scene: Scene, view: View, grey: _Grey, spot: Box) -> Candidate:
        contrast = local_contrast(grey[spot.slices], Box.whole(spot.extent))
        inside = spot.scale(grey.shape, view.box.extent)
        box = Box(*(tuple(a + o for a, o in zip(c, view.box.start, strict=True)) for c in _corners(inside)))
        grown = box.clip(scene.shape).expand(scene.shape, minimum=self.min_extent)
        return Candidate(grown, _confidence(contrast), describe_contrast(contrast))

    def _require_picture(self, scene: Scene) -> None:
        if len(scene.shape) != 2:
            raise ExpertError(
                f"{self.name}: works on pictures, the scene has {len(scene.shape)} axes; "
                "use an expert for volumes, such as AnnotationExpert"
            )


def local_contrast(grey: _Grey, box: Box) -> float:
    """Return the mean of the middle of a box minus the mean of all around it, in [-1, 1].

    Args:
        grey: Grey values in [0, 1], ``(x, y)``.
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


def _grey(pixels: Picture) -> _Grey:
    """Return grey values in [0, 1], ``(x, y)``, of a picture ``(rows, columns, 3)``."""
    grey: _Grey = pixels.astype(np.float64).mean(axis=-1).T / 255.0
    return grey


def _corners(box: Box) -> Sequence[tuple[int, ...]]:
    return box.start, box.stop


def _to_picture(box: Box, view: View, size: tuple[int, ...]) -> Box:
    """Carry a region of the scene into the pixels of a view that shows it."""
    shown = box.intersection(view.box) or view.box
    local = Box(*(tuple(a - o for a, o in zip(c, view.box.start, strict=True)) for c in _corners(shown)))
    return local.scale(view.box.extent, size)


def _spots(grey: _Grey, limit: int) -> list[Box]:
    """Return the strongest peaks of the scale space as boxes in pixels, overlapping ones dropped."""
    stack = np.stack([np.abs(gaussian_laplace(grey, s, mode="nearest")) * s**2 for s in SIGMAS])
    peaks = np.argwhere((stack == maximum_filter(stack, size=3)) & (stack > VISIBLE / 2))
    strengths = stack[tuple(peaks.T)]
    order = np.argsort(-strengths, kind="stable")[:_PEAKS]
    boxes = [_around(peaks[i], grey.shape) for i in order]
    if not boxes:
        return []
    corners = np.asarray([box.corners for box in boxes], dtype=np.float32)
    kept = non_max_suppression(corners, strengths[order].astype(np.float32), NMS_IOU, limit)
    return [boxes[int(i)] for i in kept]


def _around(peak: npt.NDArray[np.int64], shape: tuple[int, ...]) -> Box:
    """Return the box that holds a blob: two sigmas to each side of its peak, inside the picture."""
    half = max(2, round(2 * SIGMAS[int(peak[0])]))
    centre = [int(v) for v in peak[1:]]
    return Box(tuple(c - half for c in centre), tuple(c + half + 1 for c in centre)).clip(shape)
