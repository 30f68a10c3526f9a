"""The course on PhantomVQA: what is asked of pictures, where to look, and what the words are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandGaussianNoise,
    RandScaleIntensity,
    RandShiftIntensity,
)

from medeyes_monai.data.phantom import (
    ANSWERS,
    LOOK_FAMILIES,
    QUESTIONS,
    SIDES,
    PhantomReader,
    PhantomVQA,
)
from medeyes_monai.data.phantom_image import BENIGN, KINDS, SIDE
from medeyes_monai.experts import Reading
from medeyes_monai.geometry import Box
from medeyes_monai.navigator import conclusion
from medeyes_monai.scenes import Finding, ImageScene, Scene
from medeyes_monai.seeding import numpy_generator
from supervised.course import Course, Place

__all__ = ["COURSE", "VariedScenes", "corpus"]

LOOK_EXTENT = 64
"""Side of the region around a candidate. Unit: voxels."""
JITTER = 6.0
"""Standard deviation of a look's place. Unit: voxels."""
TOKENS = 4
"""Tokens of the vision tower along a side of the overview, each of two by two patches."""


def question(rng: np.random.Generator) -> tuple[str, list[str]]:
    """Draw a question that needs looking, and the kinds that it asks about."""
    family = str(rng.choice(LOOK_FAMILIES))
    asked = [str(kind) for kind in rng.choice(KINDS, 2, replace=False)]
    return QUESTIONS[family].format(*asked), asked


def jittered(finding: Finding, scene: Scene, rng: np.random.Generator) -> Box:
    """Return a region around a finding, a little off."""
    box = finding.box.expand(scene.shape, minimum=LOOK_EXTENT)
    shift = [int(v) for v in np.rint(rng.normal(0, JITTER, 2))]
    return box.moved(shift).expand(scene.shape)


def place(finding: Finding) -> Place:
    """Return in which token and patch of an overview a finding is."""
    x, y = (v / SIDE * 2 * TOKENS for v in finding.box.centre)
    token = TOKENS * (int(y) // 2) + int(x) // 2
    return token, 2 * (int(y) % 2) + int(x) % 2, x % 1 - 0.5, y % 1 - 0.5


COURSE = Course(
    reader=PhantomReader(),
    look_families=LOOK_FAMILIES,
    vocabulary=(SIDES, ("small", "large"), (*KINDS, BENIGN)),
    in_look=(2, 1),
    question=question,
    order=lambda finding: finding.box.start[0],
    region=jittered,
    place=place,
)


class VariedScenes:
    """Makes scenes of different contrast, brightness and noise, so that one scanner is not all that is known.

    Args:
        seed: Of the changes; those of one image are the same on every machine.
    """

    def __init__(self, seed: int) -> None:
        """Choose the changes; grey values are 0 to 255, and nothing is moved or mirrored."""
        self.seed = seed
        self.change = Compose(
            [
                RandAdjustContrast(prob=0.5, gamma=(0.6, 1.5)),
                RandScaleIntensity(prob=0.8, factors=0.35),
                RandShiftIntensity(prob=0.8, offsets=45.0),
                RandGaussianNoise(prob=0.8, std=10.0),
            ]
        )

    def __call__(self, image: torch.Tensor, *, key: str, findings: Sequence[Finding]) -> ImageScene:
        """Make the scene of an image ``(1, X, Y)``."""
        rng = numpy_generator("contrast", self.seed, key)
        self.change.set_random_state(seed=int(rng.integers(2**31)))
        grey = self.change(image.float()).clamp(0, 255).round().to(torch.uint8)
        return ImageScene(grey, key=key, findings=findings)


def corpus() -> list[str]:
    """Text with every word that the benchmark and its findings use."""
    cases = PhantomVQA("train", size=280)
    words = [answer for answers in ANSWERS.values() for answer in answers]
    lines = words * 20
    for index in range(len(cases)):
        case = cases[index]
        lines += [
            case.question,
            f"{len(case.scene.findings)} candidates",
            *(f.label for f in case.scene.findings),
            *(conclusion(f.label, Reading(None, decisive=False)) for f in case.scene.findings),
        ]
    return lines
