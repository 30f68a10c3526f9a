"""The contract of an expert as a check that anybody can run over their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from medeyes_monai.errors import ExpertError
from medeyes_monai.experts import checked
from medeyes_monai.experts.base import Candidate, Expert, Verdict, axes_of
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import BlankedScene, Finding, Scene, View

__all__ = ["check_expert"]

GREY = 128  # what an emptied image shows
LONGEST_NAME = 100  # characters; names stand in messages and memo files


def check_expert(
    expert: Expert, scene: Scene, query: str, make: Callable[[], Expert] | None = None
) -> tuple[Candidate, ...]:
    """Hold an expert to its contract on one scene, and on the same scene emptied of everything.

    Checked are: the name; the claim of axes; that a scan proposes regions inside the scene, best first, with
    finite confidences in [0, 1] and masks that fit; that drills of the whole image, of one voxel in each
    corner and of each candidate give verdicts; that a question asked again is answered alike, also about the
    same image under another key unless the expert has ``reads_key``; and that an image without content is
    dealt with.

    Args:
        expert: Who is checked.
        scene: An image of the kind that the expert is for.
        query: A question about it.
        make: Makes the expert anew. With it, a new one must reply like the first whatever either was asked
            before, and have the same name.

    Returns:
        What the expert proposed for the scene, to be looked at: a check cannot tell whether it is any good.

    Raises:
        ExpertError: If anything is wrong; the message names the expert and lists all of it.

    Example:
        >>> from medeyes_monai.experts import RandomBoxExpert
        >>> from medeyes_monai.scenes import ImageScene
        >>> scene = ImageScene(np.zeros((1, 256, 192), np.uint8), key="a")
        >>> len(check_expert(RandomBoxExpert(3), scene, "where?", make=lambda: RandomBoxExpert(3)))
        3
    """
    name = str(getattr(expert, "name", type(expert).__name__))
    problems = list(_wrong_claims(expert))
    first = _Replies(name)
    if not problems:
        first, problems = _Replies.of(expert, scene, query)
    if not problems:
        problems += first.disorder()
        problems += [f"on an empty image, {said}" for said in _Replies.of(expert, _Emptied(scene), query)[1]]
        for when, other, place in _repetitions(expert, scene, make):
            problems += first.differences(*_Replies.of(other, place, query, backwards=True), when)
    if problems:
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise ExpertError(f"{name}: breaks the contract of an expert:\n{listed}")
    return first.candidates


def _repetitions(
    expert: Expert, scene: Scene, make: Callable[[], Expert] | None
) -> Iterator[tuple[str, Expert, Scene]]:
    """Iterate over the ways to ask that must bring the same replies."""
    yield "asked again", expert, scene
    if not getattr(expert, "reads_key", False):
        yield "asked about the same image under another key", expert, _Shown(scene)
    if make is not None:
        yield "made anew", make(), scene


def _wrong_claims(expert: Expert) -> Iterator[str]:
    if not isinstance(expert, Expert):
        missing = [part for part in ("name", "scan", "drill") if not hasattr(expert, part)]
        yield f"an expert has name, scan and drill, this one lacks {', '.join(missing)}"
        return
    if not isinstance(expert.name, str) or not 0 < len(expert.name) <= LONGEST_NAME:
        yield f"name is a text of 1 to {LONGEST_NAME} characters, got {expert.name!r:.120}"
    try:
        axes_of(expert)
    except ExpertError as problem:
        yield str(problem)


@dataclass(frozen=True, slots=True)
class _Replies:
    """What an expert said about one scene, and its name."""

    name: str
    candidates: tuple[Candidate, ...] = ()
    verdicts: dict[Box, Verdict] = field(default_factory=dict)

    @classmethod
    def of(
        cls, expert: Expert, scene: Scene, query: str, backwards: bool = False
    ) -> tuple[_Replies, list[str]]:
        """Ask all questions; return the replies and what was wrong with them."""
        problems: list[str] = []
        candidates: tuple[Candidate, ...] = ()
        try:
            candidates = checked.scan(expert, scene, query)
        except Exception as problem:  # whatever a foreign expert raises is what is reported here
            problems.append(_told("scan", problem))
        boxes = (*_corners(scene.shape), Box.whole(scene.shape), *(c.box for c in candidates))
        verdicts = {}
        for box in reversed(boxes) if backwards else boxes:
            try:
                verdicts[box] = checked.drill(expert, scene, box, query)
            except Exception as problem:
                problems.append(_told(f"drill of {box.corners}", problem))
        return cls(expert.name, candidates, verdicts), problems

    def disorder(self) -> list[str]:
        """Say whether the candidates come in another order than the best first."""
        confidences = [candidate.confidence for candidate in self.candidates]
        ordered = confidences == sorted(confidences, reverse=True)
        return [] if ordered else ["a scan proposes the best first, got confidences that rise"]

    def differences(self, other: _Replies, problems: list[str], when: str) -> list[str]:
        """Say which replies are not those of ``other``, or what was wrong with those."""
        if problems:
            return [f"{when}, {problem}" for problem in problems]
        changed = [
            box.corners for box, verdict in self.verdicts.items() if other.verdicts.get(box) != verdict
        ]
        told = [f"{when}, its drill of {corners} says something else" for corners in changed]
        if other.name != self.name:
            told.append(f"{when}, its name is {other.name!r}; equal experts have equal names")
        if _comparable(self.candidates) != _comparable(other.candidates):
            told.append(f"{when}, its scan says something else")
        return told


def _corners(shape: Sequence[int]) -> tuple[Box, Box]:
    """Return the first and the last voxel of a grid."""
    last = tuple(n - 1 for n in shape)
    return Box((0,) * len(shape), (1,) * len(shape)), Box(last, tuple(n + 1 for n in last))


def _told(call: str, problem: Exception) -> str:
    kind = "" if isinstance(problem, ExpertError) else f"{type(problem).__name__}: "
    return f"{call}: {kind}{problem}"


def _comparable(candidates: Sequence[Candidate]) -> list[Any]:
    return [
        (c.box, c.confidence, c.finding, c.disagreement, None if c.mask is None else c.mask.tobytes())
        for c in candidates
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Shown(BlankedScene):
    """Another scene under another key, with the same voxels."""

    @property
    def key(self) -> str:
        return f"{self.scene.key}-again"

    @property
    def image(self) -> torch.Tensor:
        native: torch.Tensor = self.scene.image  # type: ignore[attr-defined]  # only where the scene has one
        return native

    def look(self, box: Box) -> View:
        return self.scene.look(box)


@dataclass(frozen=True, slots=True, eq=False)
class _Emptied(BlankedScene):
    """A scene of the same shape that shows one grey everywhere and in which nothing is found."""

    @property
    def key(self) -> str:
        return f"{self.scene.key}-emptied"

    @property
    def findings(self) -> tuple[Finding, ...]:
        return ()

    @property
    def image(self) -> torch.Tensor:
        return torch.zeros_like(_Shown(self.scene).image)

    def overview(self) -> View:
        view = self.scene.overview()
        return View(np.full_like(view.pixels, GREY), view.box)
