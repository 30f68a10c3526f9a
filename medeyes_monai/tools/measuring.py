"""The tool that measures: lengths and volumes by the spacing, and the values inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.protocol import ToolForm
from medeyes_monai.scenes import Scene
from medeyes_monai.tools.base import Outcome
from medeyes_monai.tools.objects import Mask, nearest_object, voxels_of
from medeyes_monai.trajectory import ToolCall

__all__ = ["Measure", "Measurement", "in_words", "measure"]

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

    @property
    def ball_mm(self) -> float | None:
        """Diameter of a ball of the same volume, which one voxel more or less changes little."""
        return None if self.volume_ml is None else float(np.cbrt(6 * self.volume_ml * ML / np.pi))


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
    values, spacing, unit = voxels_of(scene, box)
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


class Measure:
    r"""Measures a region, and of what lies in it, next to the middle: sides, volume, mean and SD.

    Args:
        outline: Draws what is measured, such as an expert's mask: from a region it makes one about the object
            and which of its voxels belong to that, or None where there is no object. Without it, only the
            region itself is measured.

    Example:
        >>> from medeyes_monai.scenes import VolumeScene
        >>> image = np.zeros((1, 20, 20, 20), np.int16)
        >>> image[:, 5:9, 5:9, 5:15] = 80
        >>> scene = VolumeScene(image, key="a")
        >>> reply = Measure().use(ToolCall("Measure", box=Box((2, 2, 2), (12, 12, 18))), scene).reply
        >>> print(reply.replace("; ", ";\n"))
        box 10.0 x 10.0 x 16.0 mm, diagonal 21.4 mm;
        object 4.0 x 4.0 x 10.0 mm, 0.16 ml (a ball of 6.7 mm), mean 80, SD 0
    """

    form = ToolForm("Measure", takes_box=True)
    hint = (
        '<action>{"name":"Measure","coordinate":[...]}</action> measures a region, as of a Gaze, and what '
        "lies in it."
    )

    def __init__(
        self, outline: Callable[[Scene, Box], tuple[Box, Mask] | None] | None = nearest_object
    ) -> None:
        """Remember who draws outlines."""
        self.outline = outline

    def use(self, call: ToolCall, scene: Scene) -> Outcome:
        """Return the measurements as text."""
        if call.box is None:
            return Outcome("a region is measured, give one", scene)
        if not hasattr(scene, "part"):  # such as one whose looks are blanked
            return Outcome("nothing can be measured in this image", scene)
        whole = measure(scene, call.box)
        found = None if self.outline is None else self.outline(scene, call.box)
        inner = None if found is None or not found[1].any() else measure(scene, *found)
        return Outcome(in_words(whole, inner), scene)


def in_words(region: Measurement, inner: Measurement | None) -> str:
    """Return what the tool says of a region, and of the object in it if there is one."""
    said = f"box {_sides(region)}, diagonal {region.diagonal:.1f} {region.unit}"
    if inner is None:
        return f"{said}, mean {region.mean:.0f}, SD {region.sd:.0f}"
    wide = inner.ball_mm
    volume = "" if wide is None else f", {inner.volume_ml:.2f} ml (a ball of {wide:.1f} mm)"
    return f"{said}; object {_sides(inner)}{volume}, mean {inner.mean:.0f}, SD {inner.sd:.0f}"


def _sides(found: Measurement) -> str:
    return " x ".join(f"{side:.1f}" for side in found.sides) + f" {found.unit}"
