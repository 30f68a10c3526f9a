"""PhantomVQA-3D: questions about CT-like volumes, in four stages from seeing to applying a rule.

Each volume has a body, liver, spleen and kidneys with two to four candidates in them: balls of one of four
kinds, or benign look-alikes. Kinds differ only in a texture of four voxels' period, which averages out in
the cells of a contact sheet; a look shows it. Voxels are longer than wide, and the array is stored with its
axes in any order and direction: which side a lesion is on follows from the affine, not from the array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from monai.data import MetaTensor
from torch.utils.data import Dataset

from medeyes_monai.data.phantom import Split
from medeyes_monai.data.phantom3d_cases import placed_lesions, wanted_lesions
from medeyes_monai.data.phantom3d_image import (
    IN_DISTRIBUTION_3D,
    OUT_OF_DISTRIBUTION_3D,
    Lesion,
    draw_volume,
    grid_affine,
    liver_box,
)
from medeyes_monai.data.phantom3d_words import (
    ANSWERS_3D,
    FAMILIES_3D,
    MEASURE_FAMILIES_3D,
    MEASURES,
    QUESTIONS_3D,
    STAGES,
)
from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import carry_box
from medeyes_monai.scenes import Case, Finding, Scene, VolumeScene
from medeyes_monai.seeding import numpy_generator

__all__ = ["Phantom3D", "PhantomVQA3D", "phantom_scene"]

phantom_scene = partial(VolumeScene, window=(90.0, 420.0), projection="central")
"""Makes scenes of phantoms: organs mid-grey, lesions brighter, air and fat dark."""
TOLERANCE = 0.1
"""Share of a diameter, volume or ratio by which an answer may be off."""
GROWTH = (0.6, 1.5)
"""Where something is measured, bodies are of sizes from the first to the second share of the usual one, a
child's to a large adult's. In voxels all look the same: how large a lesion is follows from the spacing."""
TOLERANCE_HU = 10.0
"""What a density may be off."""


@dataclass(frozen=True, slots=True, eq=False)
class Phantom3D:
    """A volume and what is in it.

    Args:
        image: HU ``(1, X, Y, Z)`` int16, in the orientation in which it is stored.
        labels: uint8 on the same grid: 0, and 1, 2, … for the lesions in order.
        lesions: The lesions.
        findings: Lesions and liver, boxes in voxels of the image.
        words: What the question is about.
    """

    image: MetaTensor
    labels: MetaTensor
    lesions: tuple[Lesion, ...]
    findings: tuple[Finding, ...]
    words: tuple[str, ...]


class PhantomVQA3D(Dataset[Case]):
    """Questions about volumes, drawn by address: item ``i`` of a split is the same on every machine.

    Families take turns and so do the answers within a family, so that every answer is equally frequent. Of
    measurements these are ranges of values, one of which holds the answer; every volume has a lesion in each.

    Args:
        split: ``"train"``, ``"val"``, ``"test"`` (one distribution, different seeds), or ``"ood"``: another
            body, spacing, contrast, noise and lesion size.
        size: Number of questions.
        seed: Seed of the whole benchmark.
        families: Families that are asked, of ``FAMILIES_3D``.
        scene: Makes the scene from a volume ``(1, X, Y, Z)``, ``key=`` and ``findings=``.

    Raises:
        ConfigError: If split, size or families are not available.

    Example:
        >>> case = PhantomVQA3D("val", size=5, families=["side", "diameter"])[1]
        >>> case.question, case.scoring
        ('What is the diameter of the laminated lesion in mm?', 'numeric')
    """

    def __init__(
        self,
        split: Split = "train",
        size: int = 1000,
        seed: int = 0,
        families: Sequence[str] = FAMILIES_3D,
        scene: Callable[..., Scene] = phantom_scene,
    ) -> None:
        """Check the arguments; volumes are drawn when they are asked for."""
        if split not in ("train", "val", "test", "ood"):
            raise ConfigError(f"split must be train, val, test or ood, got {split!r}")
        if unknown := set(families) - set(FAMILIES_3D):
            raise ConfigError(f"unknown families {sorted(unknown)}; available: {', '.join(FAMILIES_3D)}")
        if size < 1 or not families:
            raise ConfigError(f"PhantomVQA3D needs at least one question and one family, got size {size}")
        self.split, self.size, self.seed = split, size, seed
        self.families, self.scene = tuple(families), scene
        self.anatomy = OUT_OF_DISTRIBUTION_3D if split == "ood" else IN_DISTRIBUTION_3D

    def __len__(self) -> int:
        """Number of questions."""
        return self.size

    def __getitem__(self, index: int) -> Case:
        """Draw question ``index``."""
        family, _ = self._asked(index)
        phantom = self.phantom(index)
        key = f"phantom3d-{self.seed}-{self.split}-{index}"
        answer, tolerance = self._truth(index, phantom)
        return Case(
            key=key,
            scene=self.scene(phantom.image, key=key, findings=phantom.findings),
            question=QUESTIONS_3D[family].format(*phantom.words),
            answer=answer,
            family=family,
            scoring="numeric" if family in STAGES["measurement"] else "exact",
            tolerance=tolerance,
        )

    def phantom(self, index: int) -> Phantom3D:
        """Draw the volume of question ``index`` with its label map.

        Raises:
            IndexError: If there is no such question.
        """
        family, answer = self._asked(index)
        rng = numpy_generator("phantom3d", self.seed, self.split, index)
        growth = float(rng.uniform(*GROWTH)) if family in MEASURE_FAMILIES_3D else 1.0
        anatomy = replace(self.anatomy, growth=growth)
        wanted, words = wanted_lesions(family, answer, anatomy, rng)
        in_plane = float(np.round(growth * rng.uniform(*anatomy.in_plane_mm), 3))
        spacing = (in_plane, in_plane, float(np.round(growth * rng.uniform(*anatomy.slice_mm), 3)))
        lesions = placed_lesions(wanted, spacing, rng)
        big_liver = answer == "yes" if family == "liver" else bool(rng.random() < 0.5)
        affine = grid_affine(spacing, rng)
        image, labels = draw_volume(lesions, big_liver, affine, anatomy, rng)
        liver = Finding(liver_box(big_liver), f"{'enlarged' if big_liver else 'normal'} liver", subtle=False)
        unit = MEASURES.get(family)
        found = [Finding(lesion.box(spacing), _label(lesion, growth, unit)) for lesion in lesions]
        stored = np.asarray(image.affine, dtype=np.float64)
        findings = tuple(
            Finding(carry_box(f.box, affine, stored), f.label, f.subtle) for f in (*found, liver)
        )
        return Phantom3D(image, labels, tuple(lesions), findings, words)

    def _asked(self, index: int) -> tuple[str, str]:
        """Return the family of a question and which answer it is to have."""
        if not 0 <= index < self.size:
            raise IndexError(f"PhantomVQA3D has {self.size} questions, asked for number {index}")
        family = self.families[index % len(self.families)]
        answers = ANSWERS_3D[family]
        return family, answers[(index // len(self.families)) % len(answers)]

    def _truth(self, index: int, phantom: Phantom3D) -> tuple[str, float]:
        """Return the answer in words, and the tolerance if it was measured."""
        family, answer = self._asked(index)
        if family not in STAGES["measurement"]:
            return answer, 0.0
        asked, *others = (next(v for v in phantom.lesions if v.kind == kind) for kind in phantom.words)
        if family == "density":
            return measured(asked, "HU"), TOLERANCE_HU
        if family == "ratio":
            ratio = asked.diameter_mm / others[0].diameter_mm
            return f"{ratio:.2f}", TOLERANCE * ratio
        value = asked.diameter_mm if family == "diameter" else asked.volume_ml
        return measured(asked, MEASURES[family]), TOLERANCE * value


def measured(lesion: Lesion, unit: str) -> str:
    """Return the diameter (``mm``), volume (``ml``) or mean density (``HU``) of a lesion as it is stated."""
    if unit == "ml":
        return f"{lesion.volume_ml:.1f} ml"
    return f"{lesion.diameter_mm:.0f} mm" if unit == "mm" else f"{lesion.hu:.0f} HU"


def _label(lesion: Lesion, growth: float, unit: str | None) -> str:
    words = lesion.words(growth)
    return words if unit is None else f"{words} {measured(lesion, unit)}"
