"""Calls to an expert whose result is held to the contract, so that nobody downstream has to doubt it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np

from medeyes_monai.errors import ExpertError
from medeyes_monai.experts.base import Candidate, Expert, Verdict, axes_of
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene

__all__ = ["MAX_CANDIDATES", "MAX_TEXT", "check_axes", "check_candidate", "check_verdict", "drill", "scan"]

MAX_CANDIDATES = 1000
"""Most regions of one scan; more is taken for nonsense."""
MAX_TEXT = 10_000
"""Most characters of a finding or an answer; more is taken for nonsense."""

_KIND_OF = {2: "pictures", 3: "volumes"}


def scan(expert: Expert, scene: Scene, query: str) -> tuple[Candidate, ...]:
    """Scan a scene and check what comes back.

    Raises:
        ExpertError: If the expert does not take such a scene, or a candidate breaks the contract; the
            message names the expert.

    Example:
        >>> import inspect
        >>> list(inspect.signature(scan).parameters)
        ['expert', 'scene', 'query']
    """
    check_axes(expert, scene)
    candidates = _listed(expert.scan(scene, query), expert.name)
    for candidate in candidates:
        check_candidate(candidate, scene, expert.name)
    return candidates


def drill(expert: Expert, scene: Scene, box: Box, query: str) -> Verdict:
    """Drill into one region and check what comes back.

    Raises:
        ExpertError: If the expert does not take such a scene, the region is outside it, or the verdict
            breaks the contract; the message names the expert.
    """
    check_axes(expert, scene)
    if not box.is_inside(scene.shape):
        raise ExpertError(
            f"{expert.name}: asked about {box.corners}, outside a scene of {scene.shape} voxels"
        )
    verdict = expert.drill(scene, box, query)
    check_verdict(verdict, expert.name)
    return verdict


def check_axes(expert: Expert, scene: Scene) -> None:
    """Refuse a scene of a kind that the expert does not take.

    Raises:
        ExpertError: If the scene has another number of axes; the message names the expert.

    Example:
        >>> from types import SimpleNamespace
        >>> flat = SimpleNamespace(name="x", axes=(2,))
        >>> check_axes(flat, SimpleNamespace(shape=(9, 9, 9)))
        Traceback (most recent call last):
        medeyes_monai.errors.ExpertError: x: takes pictures, the scene has 3 axes; take one for volumes
    """
    given, taken = len(scene.shape), axes_of(expert)
    if given not in taken:
        raise ExpertError(
            f"{expert.name}: takes {' and '.join(_KIND_OF[n] for n in taken)}, the scene has {given} axes; "
            f"take one for {_KIND_OF.get(given, 'them')}"
        )


def check_candidate(candidate: Candidate, scene: Scene, name: str) -> None:
    """Refuse a candidate outside the scene, without a confidence in [0, 1], or with a mask that does not fit.

    Raises:
        ExpertError: If the candidate breaks the contract; the message opens with ``name``.

    Example:
        >>> from types import SimpleNamespace
        >>> scene = SimpleNamespace(shape=(10, 10))
        >>> check_candidate(Candidate(Box((0, 0), (4, 40)), 0.5), scene, "x")
        Traceback (most recent call last):
        medeyes_monai.errors.ExpertError: x: region (0, 0, 4, 40) is not inside the scene of (10, 10) voxels
    """
    if not isinstance(candidate, Candidate):
        raise ExpertError(f"{name}: a scan returns Candidate objects, got {type(candidate).__name__}")
    box = candidate.box
    if not isinstance(box, Box):
        raise ExpertError(f"{name}: a region is a Box, got {type(box).__name__}")
    if not box.is_inside(scene.shape):
        raise ExpertError(f"{name}: region {box.corners} is not inside the scene of {scene.shape} voxels")
    _check_share(candidate.confidence, "confidence", name)
    _check_share(candidate.disagreement, "disagreement", name)
    _check_text(candidate.finding, name)
    _check_mask(candidate.mask, box, name)


def check_verdict(verdict: Verdict, name: str) -> None:
    """Refuse a verdict without a confidence in [0, 1] or with something else than text.

    Raises:
        ExpertError: If the verdict breaks the contract; the message opens with ``name``.
    """
    if not isinstance(verdict, Verdict):
        raise ExpertError(f"{name}: a drill returns a Verdict, got {type(verdict).__name__}")
    _check_share(verdict.confidence, "confidence", name)
    _check_share(verdict.disagreement, "disagreement", name)
    _check_text(verdict.finding, name)
    if verdict.answer is not None:
        _check_text(verdict.answer, name)


def _listed(reply: Any, name: str) -> tuple[Candidate, ...]:
    """Read a scan's reply, which may be a generator, without reading more than is allowed."""
    if not isinstance(reply, Iterable):
        raise ExpertError(f"{name}: a scan returns Candidate objects, got {type(reply).__name__}")
    candidates = tuple(islice(reply, MAX_CANDIDATES + 1))
    if len(candidates) > MAX_CANDIDATES:
        raise ExpertError(f"{name}: a scan returns at most {MAX_CANDIDATES:,} candidates, got more")
    return candidates


def _check_share(value: Any, what: str, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ExpertError(f"{name}: a {what} is a finite float in [0, 1], got {value!r:.60}")


def _check_text(text: Any, name: str) -> None:
    if not isinstance(text, str):
        raise ExpertError(f"{name}: findings and answers are text, got {type(text).__name__}")
    if len(text) > MAX_TEXT:
        raise ExpertError(
            f"{name}: a finding or answer has at most {MAX_TEXT:,} characters, got {len(text):,}"
        )


def _check_mask(mask: Any, box: Box, name: str) -> None:
    if mask is None:
        return
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != box.extent:
        got = f"{mask.dtype} of {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise ExpertError(f"{name}: a mask is a bool array of {box.extent}, got {got}")
