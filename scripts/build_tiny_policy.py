"""Builds the embedded policy: a small Qwen3-VL that sees sharply and reads well, but searches badly.

It learns in four stages, on phantoms of varied contrast and noise: its vision tower what is in a picture; its
language model what findings, told in words, say about a question; the whole model to write systematic scans
of phantoms that stop at a random moment, and to answer from what they found; and at last scans that mostly
stop after one look, so that reinforcement learning has something left to teach: when to stop, and where to go
on.

    python scripts/build_tiny_policy.py --output bundle/models/tiny_policy
"""

from __future__ import annotations

import argparse
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
from supervised.building import add_stages, begin_with, teach
from supervised.course import Course, Place
from supervised.lessons import Lessons, all_lessons

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
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.tiny import make_tiny_checkpoint
from medeyes_monai.scenes import Finding, ImageScene, Scene
from medeyes_monai.seeding import numpy_generator

LOOK_EXTENT = 64
"""Side of the region around a candidate. Unit: voxels."""
JITTER = 6.0
"""Standard deviation of a look's place. Unit: voxels."""
PATHS_PER_IMAGE = 3
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
    moved = Box(
        tuple(a + d for a, d in zip(box.start, shift, strict=True)),
        tuple(b + d for b, d in zip(box.stop, shift, strict=True)),
    )
    return moved.expand(scene.shape)


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


def main() -> None:
    """Parse the arguments and build the policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_stages(parser, perception=1000, reading=400, protocol=900, hasty=150, batch=32)
    parser.add_argument("--images", type=int, default=3000, help="number of phantoms")
    parser.add_argument("--seed", type=int, default=1000, help="seed of weights, phantoms and paths")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    make_tiny_checkpoint(args.output, corpus=corpus(), seed=args.seed)
    policy = HuggingFacePolicy(args.output, freeze_vision=False)
    begin_with(policy, args.start)
    cases = PhantomVQA("train", size=args.images, seed=args.seed, scene=VariedScenes(args.seed))
    lessons = Lessons(COURSE, policy, cases, args.seed, PATHS_PER_IMAGE, haste=args.haste)
    teach(policy, COURSE, all_lessons(lessons, workers=2), args)


if __name__ == "__main__":
    main()
