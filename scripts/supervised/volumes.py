"""The course on PhantomVQA-3D: what is asked of volumes, where to look, and what the words are."""

from __future__ import annotations

import numpy as np

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
from medeyes_monai.scenes import Finding, Scene
from supervised.course import Course, Place, told

__all__ = ["COURSE", "FAMILIES", "corpus", "region_about"]

FAMILIES = (*LOOK_FAMILIES_3D, *STAGES["one glance"])
"""What the policy is taught: families that need no measurement."""
LOOK_EXTENT = 16
"""Smallest side of the region around a candidate, along the finest axis: larger ones fill their region, and
so the axial slices of a look, which divide it evenly, lie inside the candidate. Unit: voxels."""
JITTER = (3.0, 3.0, 1.0)
"""Standard deviation of a look's place. Unit: voxels."""
CELLS = 16
"""Slabs of the contact sheet, each of which is one token of the vision tower."""


def question(rng: np.random.Generator) -> tuple[str, list[str]]:
    """Draw a question that needs looking, and the kinds that it asks about."""
    family = str(rng.choice(LOOK_FAMILIES_3D))
    asked = [str(kind) for kind in rng.choice(KINDS, 2, replace=False)]
    words = [asked[0], str(rng.choice(COURSE.vocabulary[2]))] if family == "count" else asked
    return QUESTIONS_3D[family].format(*words), asked


def region_about(finding: Finding, scene: Scene) -> Box:
    """Return the region around a finding."""
    return finding.box.expand(scene.shape, minimum=least_extent(scene, LOOK_EXTENT))


def jittered(finding: Finding, scene: Scene, rng: np.random.Generator) -> Box:
    """Return a region around a finding, a little off."""
    shift = [int(v) for v in np.rint(rng.normal(0, JITTER))]
    return region_about(finding, scene).moved(shift).expand(scene.shape)


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
