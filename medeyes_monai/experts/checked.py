"""Calls to an expert whose result is held to the contract, so that nobody downstream has to doubt it."""

from __future__ import annotations

import math

import numpy as np

from medeyes_monai.errors import ExpertError
from medeyes_monai.experts.base import Candidate, Expert, Verdict
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene

__all__ = ["check_candidate", "check_verdict", "drill", "scan"]


def scan(expert: Expert, scene: Scene, query: str) -> tuple[Candidate, ...]:
    """Scan a scene and check what comes back.

    Raises:
        ExpertError: If a candidate breaks the contract; the message names the expert.

    Example:
        >>> import inspect
        >>> list(inspect.signature(scan).parameters)
        ['expert', 'scene', 'query']
    """
    candidates = tuple(expert.scan(scene, query))
    for candidate in candidates:
        check_candidate(candidate, scene, expert.name)
    return candidates


def drill(expert: Expert, scene: Scene, box: Box, query: str) -> Verdict:
    """Drill into one region and check what comes back.

    Raises:
        ExpertError: If the region is outside the scene or the verdict breaks the contract; the message
            names the expert.
    """
    if not box.is_inside(scene.shape):
        raise ExpertError(
            f"{expert.name}: asked about {box.corners}, outside a scene of {scene.shape} voxels"
        )
    verdict = expert.drill(scene, box, query)
    check_verdict(verdict, expert.name)
    return verdict


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
    box, mask = candidate.box, candidate.mask
    if not box.is_inside(scene.shape):
        raise ExpertError(f"{name}: region {box.corners} is not inside the scene of {scene.shape} voxels")
    _check_confidence(candidate.confidence, name)
    _check_text(candidate.finding, name)
    if mask is not None and (mask.dtype != np.bool_ or mask.shape != box.extent):
        raise ExpertError(f"{name}: a mask is bool of {box.extent}, got {mask.dtype} of {mask.shape}")


def check_verdict(verdict: Verdict, name: str) -> None:
    """Refuse a verdict without a confidence in [0, 1] or with something else than text.

    Raises:
        ExpertError: If the verdict breaks the contract; the message opens with ``name``.
    """
    if not isinstance(verdict, Verdict):
        raise ExpertError(f"{name}: a drill returns a Verdict, got {type(verdict).__name__}")
    _check_confidence(verdict.confidence, name)
    _check_text(verdict.finding, name)
    if verdict.answer is not None:
        _check_text(verdict.answer, name)


def _check_confidence(value: float, name: str) -> None:
    if not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value <= 1:
        raise ExpertError(f"{name}: a confidence is a finite number in [0, 1], got {value!r}")


def _check_text(text: str, name: str) -> None:
    if not isinstance(text, str):
        raise ExpertError(f"{name}: findings and answers are text, got {type(text).__name__}")
