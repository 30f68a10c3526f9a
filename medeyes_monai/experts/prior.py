"""An expert that knows where findings usually are, and has not looked: the control for a search."""

from __future__ import annotations

from collections.abc import Sequence

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts.base import Candidate, Verdict
from medeyes_monai.experts.native import least_extent
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Case, Scene
from medeyes_monai.seeding import numpy_generator, seed_of

__all__ = ["PriorExpert"]

_TRIES = 64


class PriorExpert:
    """Proposes regions in which some *other* image has its findings, with random confidences.

    Places follow the data's distribution, but nothing is known of the image that is asked about: what a
    model that reads the question alone could at best propose. It has no answer of its own, so its paths end
    in one only where the sampler fills in the reference (``on_no_answer="reference"``).

    **Confidence** is uniform in [0, 1] and says nothing, so it is not calibrated.

    Args:
        cases: Where other images come from, such as the training data.
        seed: Everything is drawn by address from here.
        min_extent: Regions are grown about their centre to at least this side, inside the scene.
            Unit: voxels.

    Raises:
        ConfigError: If there are no cases, or regions are to have no extent.

    Example:
        >>> from types import SimpleNamespace
        >>> from medeyes_monai.scenes import Finding
        >>> ring = Finding(Box((0, 0), (9, 9)), "ring")
        >>> other = SimpleNamespace(key="b", shape=(400, 400), findings=(ring,))
        >>> asked = SimpleNamespace(key="a", shape=(200, 200), findings=())
        >>> PriorExpert([Case("q", other, "where?")]).scan(asked, "where?")[0].box
        Box(start=(0, 0), stop=(64, 64))
    """

    reads_key = True  # draws by the key of the scene

    def __init__(self, cases: Sequence[Case], seed: int = 0, *, min_extent: int = 64) -> None:
        """Check the settings; see the class."""
        if not len(cases) or min_extent < 1:
            raise ConfigError(
                f"there must be a case and min_extent must be at least 1, got {len(cases)} and {min_extent}"
            )
        self.cases, self.seed, self.min_extent = cases, seed, min_extent

    @property
    def name(self) -> str:
        """``prior-`` and a digest of the settings, so that memos of other settings stay apart."""
        return f"prior-{seed_of(len(self.cases), self.seed, self.min_extent):016x}"

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Return the places of another image's subtle findings, the most confident first.

        Raises:
            ExpertError: If no other image with findings and as many axes was drawn.
        """
        rng = numpy_generator(self.seed, "scan", scene.key, query)
        for _ in range(_TRIES):
            other = self.cases[int(rng.integers(len(self.cases)))].scene
            subtle = [finding.box for finding in other.findings if finding.subtle]
            if other.key != scene.key and subtle and len(other.shape) == len(scene.shape):
                break
        else:
            raise ExpertError(f"{self.name}: found no other image with findings; give more cases")
        boxes = [
            box.scale(other.shape, scene.shape).expand(
                scene.shape, minimum=least_extent(scene, self.min_extent)
            )
            for box in subtle
        ]
        confidences = sorted(rng.uniform(size=len(boxes)).tolist(), reverse=True)
        return tuple(Candidate(box, c, "candidate") for box, c in zip(boxes, confidences, strict=True))

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Return a random confidence and nothing else."""
        rng = numpy_generator(self.seed, "drill", scene.key, query, *box.corners)
        return Verdict(float(rng.uniform()), "unknown")
