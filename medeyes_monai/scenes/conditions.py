"""The same questions under conditions that tell whether looking was real."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.scenes.base import Case
from medeyes_monai.scenes.blanked import BlankedScene
from medeyes_monai.scenes.erased import only_regions, shown_regions, without_regions
from medeyes_monai.scenes.mirrored import mirror_case
from medeyes_monai.scenes.misplaced import OtherImageScene, RandomPlaceScene

__all__ = ["CONDITIONS", "NEEDS_LOOKS", "Looks", "under_condition"]

Looks = Mapping[str, Sequence[Box]]
"""Where a policy looked at each question when nothing was changed. Unit: voxels of the scene."""
NEEDS_LOOKS = ("deletion", "insertion")
"""Conditions that need to know where the policy looked."""


def under_condition(
    name: str, cases: Sequence[Case], looks: Looks | None = None, seed: int = 0
) -> list[Case]:
    """Return questions under a condition, in order and with their keys.

    - ``blanked``: looks show grey.
    - ``random_place``: looks show a random place of the image.
    - ``other_image``: looks show the same place of another image, that of one of the other cases.
    - ``deletion``: what was looked at has the mean value everywhere, in the overview too.
    - ``insertion``: everything but what was looked at has it.
    - ``mirrored``: image, question, options and answer have left and right exchanged.

    Score the answers against the cases that are returned: of ``mirrored``, they have other references.

    Args:
        name: The condition, one of :data:`CONDITIONS`.
        cases: The questions. For ``other_image``, of at least two images.
        looks: Where the policy looked, by the key of the question, for :data:`NEEDS_LOOKS`.
        seed: Seed of random places.

    Raises:
        ConfigError: If there is no such condition, looks are missing, no other image is at hand, or a scene's
            voxels cannot be exchanged.
    """
    if name not in CONDITIONS:
        raise ConfigError(f"unknown condition {name!r}; choose one of {', '.join(CONDITIONS)}")
    known = looks or {}
    if name in NEEDS_LOOKS and (missing := [case.key for case in cases if case.key not in known]):
        raise ConfigError(
            f"condition {name!r} needs to know where was looked; that is missing of {len(missing)} "
            f"questions, the first is {missing[0]!r}; ask them unchanged first"
        )
    return CONDITIONS[name](cases, known, seed)


def _blanked(cases: Sequence[Case], looks: Looks, seed: int) -> list[Case]:
    return [replace(case, scene=BlankedScene(case.scene)) for case in cases]


def _random_place(cases: Sequence[Case], looks: Looks, seed: int) -> list[Case]:
    return [replace(case, scene=RandomPlaceScene(case.scene, seed)) for case in cases]


def _other_image(cases: Sequence[Case], looks: Looks, seed: int) -> list[Case]:
    """Exchange images in a ring of those with as many axes."""
    scenes = {case.scene.key: case.scene for case in cases}
    rings: dict[int, list[str]] = {}
    for key in sorted(scenes):
        rings.setdefault(len(scenes[key].shape), []).append(key)
    if lonely := [ring[0] for ring in rings.values() if len(ring) < 2]:
        raise ConfigError(
            f"condition 'other_image' needs a second image for {lonely[0]!r}; ask about more images at once"
        )
    following = {key: ring[(n + 1) % len(ring)] for ring in rings.values() for n, key in enumerate(ring)}
    return [
        replace(case, scene=OtherImageScene(case.scene, scenes[following[case.scene.key]])) for case in cases
    ]


def _deletion(cases: Sequence[Case], looks: Looks, seed: int) -> list[Case]:
    return [
        replace(case, scene=without_regions(case.scene, shown_regions(case.scene, looks[case.key])))
        for case in cases
    ]


def _insertion(cases: Sequence[Case], looks: Looks, seed: int) -> list[Case]:
    return [
        replace(case, scene=only_regions(case.scene, shown_regions(case.scene, looks[case.key])))
        for case in cases
    ]


def _mirrored(cases: Sequence[Case], looks: Looks, seed: int) -> list[Case]:
    return [mirror_case(case) for case in cases]


CONDITIONS: Mapping[str, Callable[[Sequence[Case], Looks, int], list[Case]]] = MappingProxyType(
    {
        "blanked": _blanked,
        "random_place": _random_place,
        "other_image": _other_image,
        "deletion": _deletion,
        "insertion": _insertion,
        "mirrored": _mirrored,
    }
)
"""What changes the questions, by its name."""
