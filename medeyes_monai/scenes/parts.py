"""Parts of an image as images of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from monai.transforms import SpatialCrop

from medeyes_monai.geometry import Box
from medeyes_monai.scenes.base import Finding

__all__ = ["part_key", "part_of_findings", "part_of_image"]


def part_of_image(image: Any, box: Box) -> Any:
    """Cut a region out of an image ``(C, X, Y[, Z])``; the affine of a ``MetaTensor`` follows."""
    return SpatialCrop(roi_start=box.start, roi_end=box.stop)(image)


def part_of_findings(findings: Sequence[Finding], box: Box) -> tuple[Finding, ...]:
    """Return what of some findings lies in a region, in voxels from its first corner.

    Example:
        >>> ring = Finding(Box((0, 0), (20, 20)), "ring")
        >>> [f.box.corners for f in part_of_findings([ring], Box((10, 5), (90, 90)))]
        [(0, 0, 10, 15)]
    """
    inside = ((finding, finding.box.intersection(box)) for finding in findings)
    return tuple(replace(finding, box=_from(shared, box)) for finding, shared in inside if shared is not None)


def part_key(key: str, box: Box) -> str:
    """Name a region of an image."""
    return f"{key}@{','.join(map(str, box.corners))}"


def _from(box: Box, origin: Box) -> Box:
    start = tuple(a - o for a, o in zip(box.start, origin.start, strict=True))
    return Box(start, tuple(a + n for a, n in zip(start, box.extent, strict=True)))
