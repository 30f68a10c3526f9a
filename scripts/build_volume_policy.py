"""Builds a policy for volumes out of the one for pictures: the small Qwen3-VL, taught on PhantomVQA-3D.

It begins with what the policy for pictures knows (weights, and the embedding of each token that both have)
and is taught in the same stages: what findings in words say about a question; what is in a look, and where
candidates are on the contact sheet; systematic scans from the feet to the head that stop at a random moment;
and at last scans that mostly stop after one look, so that reinforcement learning has something left to teach:
when to stop, and where to go on.

    python scripts/build_volume_policy.py --output bundle/models/volume_policy

With --start it goes on with a policy that it has built, on other volumes (--seed); a stage of 0 steps is
left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from supervised.building import add_stages, begin_with, teach
from supervised.course import Course, Place, told
from supervised.lessons import Lessons, all_lessons

from medeyes_monai.data.phantom3d import PhantomVQA3D
from medeyes_monai.data.phantom3d_image import LEVELS, ORGANS, SHAPE
from medeyes_monai.data.phantom3d_words import (
    ANSWERS_3D,
    LOOK_FAMILIES_3D,
    QUESTIONS_3D,
    STAGES,
    PhantomReader3D,
)
from medeyes_monai.data.phantom_image import BENIGN, KINDS
from medeyes_monai.experts import Reading
from medeyes_monai.experts.native import least_extent
from medeyes_monai.geometry import Box
from medeyes_monai.navigator import conclusion
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.tiny import make_tiny_checkpoint
from medeyes_monai.scenes import Finding, Scene

TINY = Path(__file__).resolve().parents[1] / "bundle" / "models" / "tiny_policy"
FAMILIES = (*LOOK_FAMILIES_3D, *STAGES["one glance"])
"""What the policy is taught: families that need no measurement."""
LOOK_EXTENT = 16
"""Smallest side of the region around a candidate, along the finest axis: larger ones fill their region, and
so the axial slices of a look, which divide it evenly, lie inside the candidate. Unit: voxels."""
JITTER = (3.0, 3.0, 1.0)
"""Standard deviation of a look's place. Unit: voxels."""
PATHS_PER_VOLUME = 2
LOOKS_PER_FINDING = 2
CELLS = 16
"""Slabs of the contact sheet, each of which is one token of the vision tower."""


def question(rng: np.random.Generator) -> tuple[str, list[str]]:
    """Draw a question that needs looking, and the kinds that it asks about."""
    family = str(rng.choice(LOOK_FAMILIES_3D))
    asked = [str(kind) for kind in rng.choice(KINDS, 2, replace=False)]
    words = [asked[0], str(rng.choice(COURSE.vocabulary[2]))] if family == "count" else asked
    return QUESTIONS_3D[family].format(*words), asked


def jittered(finding: Finding, scene: Scene, rng: np.random.Generator) -> Box:
    """Return a region around a finding, a little off."""
    box = finding.box.expand(scene.shape, minimum=least_extent(scene, LOOK_EXTENT))
    shift = [int(v) for v in np.rint(rng.normal(0, JITTER))]
    start = tuple(a + d for a, d in zip(box.start, shift, strict=True))
    return Box(start, tuple(a + n for a, n in zip(start, box.extent, strict=True))).expand(scene.shape)


def place(finding: Finding) -> Place:
    """Return in which cell of the contact sheet a finding is, and in which quarter of the cell."""
    x, y, z = (v / side for v, side in zip(finding.box.centre, SHAPE, strict=True))
    return int(CELLS * z), 2 * int(2 * y) + int(2 * x), 2 * x % 1 - 0.5, 2 * y % 1 - 0.5


COURSE = Course(
    reader=PhantomReader3D(),
    look_families=LOOK_FAMILIES_3D,
    vocabulary=(
        ("left", "right"),
        LEVELS,
        ("liver", "spleen", "kidney"),
        ("small", "large"),
        ("faint", "dense"),
        (*KINDS, BENIGN),
    ),
    in_look=(3, 4, 5),
    question=question,
    order=lambda finding: finding.box.centre[::-1],
    region=jittered,
    place=place,
)


def corpus() -> list[str]:
    """Text with every word that the benchmark and its findings use."""
    lines = [word for answers in ANSWERS_3D.values() for word in answers] * 20
    lines += [f"{number} candidates" for number in (2, 3, 4)] * 20
    for text in QUESTIONS_3D.values():
        lines += [text.format(kind, other) for kind in KINDS for other in (*KINDS, "50")] * 3
    rng = np.random.default_rng(0)
    findings = [told(COURSE, COURSE.vocabulary[-1], rng) for _ in range(600)]
    lines += [conclusion(finding, Reading(None, decisive=False)) for finding in findings]
    return [*lines, *(organ.name for organ in ORGANS), "enlarged liver", "normal liver", "mm ml HU"]


def main() -> None:
    """Parse the arguments and build the policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_stages(parser, perception=800, reading=300, protocol=800, hasty=120, batch=24, start=TINY)
    parser.add_argument("--volumes", type=int, default=2000, help="number of volumes")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw volumes")
    parser.add_argument("--seed", type=int, default=2000, help="seed of weights, volumes and paths")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    make_tiny_checkpoint(args.output, corpus=corpus(), seed=args.seed)
    policy = HuggingFacePolicy(args.output, freeze_vision=False)
    begin_with(policy, args.start)
    cases = PhantomVQA3D("train", size=args.volumes, seed=args.seed, families=FAMILIES)
    lessons = Lessons(COURSE, policy, cases, args.seed, PATHS_PER_VOLUME, LOOKS_PER_FINDING, args.haste)
    teach(policy, COURSE, all_lessons(lessons, args.workers), args)
    policy.core.half()  # halves what the bundle carries; it is read in single precision again
    policy.save(args.output)


if __name__ == "__main__":
    main()
