"""The tool that measures: lengths and volumes by the spacing, and the values inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data.utils import to_affine_nd
from scipy import ndimage

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import Box, spacing_of
from medeyes_monai.protocol import ToolForm
from medeyes_monai.scenes import Scene
from medeyes_monai.tools.base import Outcome
from medeyes_monai.trajectory import ToolCall

__all__ = ["Mask", "Measure", "Measurement", "centre_object", "measure"]

Mask = npt.NDArray[np.bool_]
"""Which voxels of a region belong to something, of the shape of the region's extent."""

BINS = 128  # of the histogram that is divided in two
SMOOTH = 0.6
"""Noise is smoothed so far before values are divided, so that none of it sticks to an object; chosen, since
larger values and a median lost thin ends. Unit: voxels."""
ML = 1000.0  # mm³


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured of a region, or of a mask inside it.

    Args:
        sides: Lengths along the axes: of the region, or of the smallest box about the mask.
        diagonal: Of that box.
        mean: Mean of the image's own values: HU for CT.
        sd: Their standard deviation.
        volume_ml: Volume of the mask; None without one, and for pictures. Unit: millilitres.
        unit: ``mm``, or ``px`` for a picture whose pixels have no size.
    """

    sides: tuple[float, ...]
    diagonal: float
    mean: float
    sd: float
    volume_ml: float | None = None
    unit: str = "mm"


def measure(scene: Scene, box: Box, mask: Mask | None = None) -> Measurement:
    """Measure a region of a scene, or what of it belongs to a mask.

    Args:
        scene: The image; one with parts, as ``ImageScene`` and ``VolumeScene``.
        box: The region, inside the scene. Unit: voxels of the scene.
        mask: What is measured, of the shape of ``box.extent``; None measures the region itself.

    Raises:
        GeometryError: If the box is not inside the scene, the scene has no voxels to be measured, or the mask
            has another shape or is empty.

    Example:
        >>> from medeyes_monai.scenes import VolumeScene
        >>> from monai.data import MetaTensor
        >>> ct = MetaTensor(np.full((1, 20, 20, 8), 60, np.int16), np.diag([-0.5, -0.5, 2.0, 1.0]))
        >>> found = measure(VolumeScene(ct, key="a"), Box((0, 0, 0), (6, 8, 3)))
        >>> found.sides, round(found.diagonal, 2), found.mean
        ((3.0, 4.0, 6.0), 7.81, 60.0)
    """
    values, spacing, unit = _voxels(scene, box)
    inside = np.ones(values.shape, bool) if mask is None else mask
    if inside.shape != values.shape or not inside.any():
        raise GeometryError(f"a mask of {values.shape} with something in it is measured, got {inside.shape}")
    (place,) = ndimage.find_objects(inside.astype(np.uint8))
    sides = tuple((s.stop - s.start) * mm for s, mm in zip(place, spacing, strict=True))
    chosen = values[inside]
    volume = float(inside.sum() * np.prod(spacing)) / ML if mask is not None and len(sides) == 3 else None
    return Measurement(
        sides, float(np.linalg.norm(sides)), float(chosen.mean()), float(chosen.std()), volume, unit
    )


def centre_object(scene: Scene, box: Box) -> Mask | None:
    """Return what lies in the middle of a region and stands out from its surroundings, or None.

    The values are divided in two where that separates them best (Otsu), and the connected part of the side
    to which the centre belongs is taken, holes filled. Where it reaches most of the region's faces, it is
    the surroundings and not an object.

    Args:
        scene: The image.
        box: The region, inside the scene. Unit: voxels of the scene.

    Raises:
        GeometryError: As :func:`measure`.
    """
    values, _, _ = _voxels(scene, box)
    if values.min() == values.max():
        return None
    values = ndimage.gaussian_filter(values, SMOOTH)
    core = tuple(slice((n - 1) // 2, n // 2 + 1) for n in values.shape)
    threshold = _otsu(values)
    bright = bool(np.median(values[core]) > threshold)
    parts, _ = ndimage.label((values > threshold) == bright)
    numbers = parts[core][parts[core] > 0]
    if not numbers.size:
        return None
    found: Mask = ndimage.binary_fill_holes(parts == np.bincount(numbers).argmax())
    faces = [found.take(end, axis).any() for axis in range(found.ndim) for end in (0, -1)]
    return None if sum(faces) > found.ndim else found


class Measure:
    """Measures a region: its sides and diagonal, and what lies in its middle: sides, volume, mean and SD.

    Args:
        outline: Draws what is measured inside a region, such as an expert's mask; None where there is
            nothing. Without it, only the region itself is measured.

    Example:
        >>> from medeyes_monai.scenes import VolumeScene
        >>> image = np.zeros((1, 20, 20, 20), np.int16)
        >>> image[:, 5:9, 5:9, 5:15] = 80
        >>> scene = VolumeScene(image, key="a")
        >>> print(Measure().use(ToolCall("Measure", box=Box((2, 2, 2), (12, 12, 18))), scene).reply)
        box 10.0 x 10.0 x 16.0 mm, diagonal 21.4 mm; object 4.0 x 4.0 x 10.0 mm, 0.16 ml, mean 80, SD 0
    """

    form = ToolForm("Measure", takes_box=True)
    hint = (
        '<action>{"name":"Measure","coordinate":[...]}</action> measures a region, as of a Gaze, and what '
        "lies in its middle."
    )

    def __init__(self, outline: Callable[[Scene, Box], Mask | None] | None = centre_object) -> None:
        """Remember who draws outlines."""
        self.outline = outline

    def use(self, call: ToolCall, scene: Scene) -> Outcome:
        """Return the measurements as text."""
        if call.box is None:
            return Outcome("a region is measured, give one", scene)
        whole = measure(scene, call.box)
        said = f"box {_sides(whole)}, diagonal {whole.diagonal:.1f} {whole.unit}"
        mask = None if self.outline is None else self.outline(scene, call.box)
        if mask is None or not mask.any():
            return Outcome(f"{said}, mean {whole.mean:.0f}, SD {whole.sd:.0f}", scene)
        inner = measure(scene, call.box, mask)
        volume = "" if inner.volume_ml is None else f", {inner.volume_ml:.2f} ml"
        return Outcome(
            f"{said}; object {_sides(inner)}{volume}, mean {inner.mean:.0f}, SD {inner.sd:.0f}", scene
        )


def _sides(found: Measurement) -> str:
    return " x ".join(f"{side:.1f}" for side in found.sides) + f" {found.unit}"


def _voxels(scene: Scene, box: Box) -> tuple[npt.NDArray[np.float64], tuple[float, ...], str]:
    """Return the values of a region, the size of its voxels and the unit of that."""
    cut: Any = getattr(scene, "part", None)
    if cut is None or not box.is_inside(scene.shape):
        raise GeometryError(
            f"{scene.key}: a box inside a scene with parts is measured, such as a VolumeScene of "
            f"{tuple(scene.shape)} voxels, got {box.corners}"
        )
    image = cut(box).image
    values = image.as_tensor().double().mean(dim=0).numpy()
    spacing = spacing_of(to_affine_nd(3, np.asarray(image.affine, dtype=np.float64)))[: values.ndim]
    return values, spacing, "px" if values.ndim == 2 and spacing == (1.0, 1.0) else "mm"


def _otsu(values: npt.NDArray[np.float64]) -> float:
    """Return the value that divides a histogram into two groups with the largest variance between them."""
    counts, edges = np.histogram(values, BINS)
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    total = np.cumsum(counts * middles)
    means = total[:-1] / np.maximum(below, 1), (total[-1] - total[:-1]) / np.maximum(above, 1)
    between = below * above * (means[0] - means[1]) ** 2
    best = np.flatnonzero(between == between.max())
    return float(edges[1:-1][best].mean())
