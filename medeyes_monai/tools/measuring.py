"""The tool that measures: lengths and volumes by the spacing, and the values inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

SMOOTH = 0.6
"""Noise is smoothed so far before values are divided, so that none of it sticks to an object; chosen, since
larger values lost thin ends and a tenth of a small ball. Unit: voxels of the finest axis."""
CLOSED = 1.5
"""Gaps as narrow as twice this belong to an object, so that a texture does not take it apart; chosen, since
larger values join neighbours. Unit: voxels of the finest axis."""
CONTEXT = 1.5
"""A region is grown by this to see the surroundings of what fills it."""
CORE, SHELL = 0.5, 1.22
"""Within the first share of the region that was asked for is the object, outside of the second is not."""
SURE_SHARE = 75
"""Percentile of the surroundings from which an object stands out: not of all of them, since another may be
near, and not of half, since half may be air or fat."""
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

    What is brighter (or darker) than half way between the middle and the surroundings is divided into
    connected parts, narrow gaps closed, and that of the middle is taken, holes filled. Where it reaches most
    of the region's faces, it is the surroundings and not an object.

    Args:
        scene: The image.
        box: The region, inside the scene, with something of the surroundings. Unit: voxels of the scene.

    Raises:
        GeometryError: As :func:`measure`.
    """
    values, spacing, _ = _voxels(scene, box)
    if values.min() == values.max():
        return None
    finest = [min(spacing) / mm for mm in spacing]
    smooth = ndimage.gaussian_filter(values, [SMOOTH * n for n in finest])
    away = _from_middle(values.shape) * CONTEXT
    middle = away <= max(CORE, away.min())
    core, shell = values[middle].mean(), smooth[away >= min(SHELL, away.max())]
    bright = bool(core > np.median(shell))
    around = np.percentile(shell, SURE_SHARE if bright else 100 - SURE_SHARE)
    parts, _ = ndimage.label(_closed((smooth > (core + around) / 2) == bright, finest))
    numbers = parts[middle & (parts > 0)]
    if not numbers.size:
        return None
    found: Mask = ndimage.binary_fill_holes(parts == np.bincount(numbers).argmax())
    faces = [found.take(end, axis).any() for axis in range(found.ndim) for end in (0, -1)]
    return None if sum(faces) > found.ndim else found


class Measure:
    r"""Measures a region: its sides and diagonal, and what lies in its middle: sides, volume, mean and SD.

    Args:
        outline: Draws what is measured inside a region, such as an expert's mask; None where there is
            nothing. It is asked about a region that is larger by half, so that what fills the one that was
            called for is seen whole. Without it, only the region itself is measured.

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
        region = call.box.expand(scene.shape, CONTEXT)
        mask = None if self.outline is None else self.outline(scene, region)
        if mask is None or not mask.any():
            return Outcome(f"{said}, mean {whole.mean:.0f}, SD {whole.sd:.0f}", scene)
        inner = measure(scene, region, mask)
        wide = inner.ball_mm
        volume = "" if wide is None else f", {inner.volume_ml:.2f} ml (a ball of {wide:.1f} mm)"
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


def _from_middle(shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return how far each voxel is from the middle: 1 on the ellipsoid that touches the faces."""
    axes = [(np.arange(n) + 0.5) / (n / 2) - 1 for n in shape]
    return np.asarray(np.linalg.norm(np.stack(np.meshgrid(*axes, indexing="ij")), axis=0))


def _closed(mask: Mask, finest: Sequence[float]) -> Mask:
    """Close narrow gaps.

    Args:
        mask: What may have gaps.
        finest: Length of a voxel of the finest axis along each axis. Unit: voxels.
    """
    reach = [int(CLOSED * n) for n in finest]
    grid = np.meshgrid(*(np.arange(-r, r + 1) / n for r, n in zip(reach, finest, strict=True)), indexing="ij")
    ball = np.linalg.norm(np.stack(grid), axis=0) <= CLOSED
    padded = np.pad(mask, [(2 * r, 2 * r) for r in reach])
    inside = tuple(slice(2 * r, 2 * r + n) for r, n in zip(reach, mask.shape, strict=True))
    closed: Mask = ndimage.binary_closing(padded, ball)[inside]
    return closed
