"""An expert that knows nothing: the control that any other expert has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts.base import Candidate, Verdict
from medeyes_monai.experts.native import least_extent
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene
from medeyes_monai.seeding import numpy_generator, seed_of

__all__ = ["RandomBoxExpert", "random_box"]


class RandomBoxExpert:
    """Proposes random boxes with random confidences: the paper's ablation of the path source.

    It has no answer of its own, so its paths end in one only where the sampler fills in the reference
    (``on_no_answer="reference"``).

    **Confidence** is uniform in [0, 1] and says nothing, so it is not calibrated.

    Args:
        n: Number of boxes in a scan.
        seed: Everything is drawn by address from here.
        min_extent: Smallest side of a box; the largest is half the scene's, or this. Unit: voxels.

    Raises:
        ConfigError: If there are to be no boxes, or boxes without extent.

    Example:
        >>> RandomBoxExpert(3, seed=0).name == RandomBoxExpert(3, seed=0).name
        True
    """

    reads_key = True  # draws by the key of the scene

    def __init__(self, n: int = 5, seed: int = 0, *, min_extent: int = 64) -> None:
        """Check the settings; see the class."""
        if n < 1 or min_extent < 1:
            raise ConfigError(f"n and min_extent must be at least 1, got {n} and {min_extent}")
        self.n, self.seed, self.min_extent = n, seed, min_extent

    @property
    def name(self) -> str:
        """``random-`` and a digest of the settings, so that memos of other settings stay apart."""
        return f"random-{seed_of(self.n, self.seed, self.min_extent):016x}"

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Return ``n`` random boxes, the most confident first."""
        rng = numpy_generator(self.seed, "scan", scene.key, query)
        boxes = [random_box(rng, scene.shape, least_extent(scene, self.min_extent)) for _ in range(self.n)]
        confidences = sorted(rng.uniform(size=self.n).tolist(), reverse=True)
        return tuple(Candidate(box, c, "candidate") for box, c in zip(boxes, confidences, strict=True))

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Return a random confidence and nothing else."""
        rng = numpy_generator(self.seed, "drill", scene.key, query, *box.corners)
        return Verdict(float(rng.uniform()), "unknown")


def random_box(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    min_extent: Sequence[int],
    max_extent: Sequence[int] | None = None,
) -> Box:
    """Draw a box inside a grid, uniform in size and then in place.

    Args:
        rng: Source of the draw.
        shape: Extent of the grid, one per axis. Unit: voxels.
        min_extent: Smallest side, one per axis. A grid that is smaller wins. Unit: voxels.
        max_extent: Largest side, one per axis; half the grid's where None is given. Unit: voxels.

    Example:
        >>> random_box(np.random.default_rng(0), (100, 80), (30, 30)).is_inside((100, 80))
        True
    """
    start, stop = [], []
    limits = max_extent or [n // 2 for n in shape]
    for n, wanted, limit in zip(shape, min_extent, limits, strict=True):
        least = min(n, wanted)
        most = max(least, min(n, limit))
        side = int(rng.integers(least, most, endpoint=True))
        low = int(rng.integers(0, n - side, endpoint=True))
        start.append(low)
        stop.append(low + side)
    return Box(tuple(start), tuple(stop))
