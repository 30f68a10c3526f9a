"""Parts of an image as images of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from monai.transforms import SpatialCrop

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.scenes.base import Finding

__all__ = ["box_on_slice", "part_key", "part_of_findings", "part_of_image"]


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


def box_on_slice(box: Box, index: int, shape: Sequence[int], key: str) -> Box:
    """Return the box one slice thick that a box with four numbers means on a slice of a volume.

    Raises:
        GeometryError: If the box does not have two axes or there is no such slice.
    """
    if box.ndim != 2 or not 0 <= index < shape[2]:
        raise GeometryError(
            f"{key}: a box on a slice has 2 axes and a slice from 0 to {shape[2] - 1}, "
            f"got {box.ndim} axes and slice {index}"
        )
    return Box((*box.start, index), (*box.stop, index + 1))


def part_key(key: str, box: Box) -> str:
    """Name a region of an image."""
    return f"{key}@{','.join(map(str, box.corners))}"


def _from(box: Box, origin: Box) -> Box:
    start = tuple(a - o for a, o in zip(box.start, origin.start, strict=True))
    return Box(start, tuple(a + n for a, n in zip(start, box.extent, strict=True)))
