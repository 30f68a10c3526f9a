"""Draws the volumes of PhantomVQA-3D: body, organs, and lesions that differ in a fine texture.

Everything is drawn on a grid with the axes of a scene (x to the patient's left, y to the back, z to the head)
and then stored with axes in any of the 48 orders and directions, as archives hold them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation

from medeyes_monai.data.phantom_image import BENIGN, PERIOD
from medeyes_monai.geometry import Box, spacing_of
from medeyes_monai.geometry.affine import Affine

__all__ = [
    "IN_DISTRIBUTION_3D",
    "ORGANS",
    "OUT_OF_DISTRIBUTION_3D",
    "SHAPE",
    "Anatomy",
    "Lesion",
    "draw_volume",
    "grid_affine",
    "liver_box",
]

SHAPE = (128, 128, 48)
"""Voxels along x, y and z before the axes are reordered."""
LEVELS = ("lower", "middle", "upper")
"""Thirds of the volume from feet to head."""
LARGE_MM = 41.0
"""Diameter from which a lesion is called large, in a body of the usual size."""
DENSE_HU = 137.0
"""Mean density from which a lesion is called dense."""
LIVER_GROWTH = 1.22
"""An enlarged liver has its axes multiplied by this."""
LARGEST_SHIFT_MM = 200
_AXES = ("LR", "PA", "SI")
_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True, slots=True)
class Organ:
    """An ellipsoid; centre and half axes as shares of the grid, the patient's right at small x."""

    name: str
    side: str
    centre: tuple[float, float, float]
    half: tuple[float, float, float]


ORGANS = (
    Organ("liver", "right", (0.30, 0.38, 0.67), (0.18, 0.21, 0.28)),
    Organ("spleen", "left", (0.70, 0.38, 0.67), (0.18, 0.21, 0.28)),
    Organ("kidney", "right", (0.31, 0.70, 0.31), (0.17, 0.17, 0.27)),
    Organ("kidney", "left", (0.69, 0.70, 0.31), (0.17, 0.17, 0.27)),
)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What a volume looks like apart from its lesions.

    Args:
        in_plane_mm: Smallest and largest size of a voxel along x and y.
        slice_mm: Smallest and largest distance of slices.
        body: Half axes of the body, as shares of the grid.
        fat: Density of the body outside organs. Unit: HU, as all densities.
        tissue: Density of organs.
        noise: Standard deviation of the noise.
        small: Smallest and largest diameter of a small lesion. Unit: millimetres.
        large: The same of a large one.
        faint: Smallest and largest mean density of a faint lesion.
        dense: The same of a dense one.
        growth: How many times as large as given here everything is, voxels too, so that they look the same.
    """

    in_plane_mm: tuple[float, float] = (2.3, 2.5)
    slice_mm: tuple[float, float] = (4.5, 5.5)
    body: tuple[float, float] = (0.47, 0.44)
    fat: float = -60.0
    tissue: float = 50.0
    noise: float = 14.0
    small: tuple[float, float] = (28.0, 34.0)
    large: tuple[float, float] = (48.0, 58.0)
    faint: tuple[float, float] = (108.0, 124.0)
    dense: tuple[float, float] = (155.0, 180.0)
    growth: float = 1.0


IN_DISTRIBUTION_3D = Anatomy()
OUT_OF_DISTRIBUTION_3D = Anatomy(
    in_plane_mm=(2.15, 2.3), slice_mm=(4.0, 4.5), body=(0.44, 0.41), fat=-80.0, tissue=40.0, noise=20.0,
    small=(26.0, 31.0), large=(45.0, 54.0), faint=(100.0, 116.0), dense=(146.0, 168.0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lesion:
    """One candidate before it is drawn: a ball.

    Args:
        centre: Where. Unit: voxels of the grid, in edges.
        diameter_mm: How wide.
        hu: Mean density.
        kind: One of ``KINDS``, or ``BENIGN``.
        organ: In which organ.
        side: On which side of the patient.
    """

    centre: tuple[float, float, float]
    diameter_mm: float
    hu: float
    kind: str
    organ: str
    side: str

    @property
    def level(self) -> str:
        """The third of the volume in which the centre lies."""
        return LEVELS[int(3 * self.centre[2] / SHAPE[2])]

    @property
    def volume_ml(self) -> float:
        """What the ball holds."""
        return math.pi / 6 * self.diameter_mm**3 / 1000

    def words(self, growth: float) -> str:
        """Return side, level, organ, size, density and kind, in a body of which everything is so large."""
        size = "large" if self.diameter_mm > LARGE_MM * growth else "small"
        density = "dense" if self.hu > DENSE_HU else "faint"
        return f"{self.side} {self.level} {self.organ} {size} {density} {self.kind}"

    def box(self, spacing_mm: Sequence[float]) -> Box:
        """Return what encloses the ball. Unit: voxels of the grid."""
        reach = [self.diameter_mm / 2 / mm for mm in spacing_mm]
        ends = list(zip(self.centre, reach, SHAPE, strict=True))
        start = tuple(max(0, math.floor(c - r)) for c, r, _ in ends)
        return Box(start, tuple(min(n, math.ceil(c + r)) for c, r, n in ends))


def draw_volume(
    lesions: Sequence[Lesion],
    big_liver: bool,
    affine: Affine,
    anatomy: Anatomy,
    rng: np.random.Generator,
) -> tuple[MetaTensor, MetaTensor]:
    """Draw a volume and its label map, both stored in one random orientation.

    Args:
        lesions: What is in it.
        big_liver: Whether the liver is enlarged.
        affine: Where the grid lies, see :func:`grid_affine`.
        anatomy: Densities and noise.
        rng: Where the draws come from.

    Returns:
        HU ``(1, X, Y, Z)`` int16, and labels uint8 on the same grid: 0 background, then 1, 2, … for the
        lesions in order. The affine of both goes into the RAS+ world.
    """
    hu, spacing_mm = _organs(big_liver, anatomy), spacing_of(affine)
    labels = np.zeros(SHAPE, np.uint8)
    for number, lesion in enumerate(lesions, 1):
        _stamp(hu, labels, lesion, number, spacing_mm, anatomy.tissue, rng)
    hu += anatomy.noise * rng.standard_normal(SHAPE, dtype=np.float32)
    turn = _random_orientation(rng)
    whole = np.rint(hu).astype(np.int16)
    image, marked = (
        turn(MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(affine)))
        for values in (whole, labels)
    )
    return image, marked


def grid_affine(spacing_mm: Sequence[float], rng: np.random.Generator) -> Affine:
    """Return the affine of the grid, whose axes are LPS, into the RAS+ world, at a random place."""
    affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
    affine[:3, 3] = np.round(rng.uniform(-LARGEST_SHIFT_MM, LARGEST_SHIFT_MM, 3), 1)
    return affine


def liver_box(big: bool) -> Box:
    """Return what encloses the liver. Unit: voxels of the grid."""
    liver = ORGANS[0]
    half = [h * (LIVER_GROWTH if big else 1.0) for h in liver.half]
    low = [max(0, round((c - h) * n)) for c, h, n in zip(liver.centre, half, SHAPE, strict=True)]
    high = [min(n, round((c + h) * n)) for c, h, n in zip(liver.centre, half, SHAPE, strict=True)]
    return Box(tuple(low), tuple(high))


def _organs(big_liver: bool, anatomy: Anatomy) -> npt.NDArray[np.float32]:
    """Draw air, body and organs."""
    x, y, z = (((np.arange(n, dtype=np.float32) + 0.5) / n) for n in SHAPE)
    across = ((x[:, None] - 0.5) / anatomy.body[0]) ** 2 + ((y[None] - 0.5) / anatomy.body[1]) ** 2
    plane = np.where(across < 1, anatomy.fat, -1000.0).astype(np.float32)
    hu = np.repeat(plane[..., None], SHAPE[2], axis=2)
    for organ in ORGANS:
        growth = LIVER_GROWTH if big_liver and organ.name == "liver" else 1.0
        parts = [
            ((v - c) / (h * growth)) ** 2 for v, c, h in zip((x, y, z), organ.centre, organ.half, strict=True)
        ]
        inside = parts[0][:, None, None] + parts[1][None, :, None] + parts[2] < 1
        hu[inside] = anatomy.tissue
    return hu


def _stamp(
    hu: npt.NDArray[np.float32],
    labels: npt.NDArray[np.uint8],
    lesion: Lesion,
    number: int,
    spacing_mm: Sequence[float],
    tissue: float,
    rng: np.random.Generator,
) -> None:
    """Put a ball into its place: one mean for all kinds, times a texture of :data:`PERIOD` in the plane."""
    region = lesion.box(spacing_mm).slices
    x, y, z = (
        np.arange(s.start, s.stop, dtype=np.float32) + 0.5 - c
        for s, c in zip(region, lesion.centre, strict=True)
    )
    squared = [(v * mm) ** 2 for v, mm in zip((x, y, z), spacing_mm, strict=True)]
    inside = (
        squared[0][:, None, None] + squared[1][None, :, None] + squared[2] < (lesion.diameter_mm / 2) ** 2
    )
    radius = lesion.diameter_mm / 2 / spacing_mm[0]
    texture = _texture(lesion.kind, x[:, None], y[None], radius, rng)[..., None] * np.ones_like(z)
    texture = texture / texture[inside].mean()
    hu[region][inside] = tissue + (lesion.hu - tissue) * texture[inside]
    labels[region][inside] = number


def _texture(
    kind: str,
    x: npt.NDArray[np.floating[Any]],
    y: npt.NDArray[np.floating[Any]],
    radius: float,
    rng: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """Return a pattern in the axial plane, ``(x, y)``, from the distances to the centre in voxels."""
    wave = 2 * np.pi / PERIOD
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    if kind == "calcified":
        waves = np.sign(np.sin(wave * (x + 0.25))) * np.sign(np.sin(wave * (y + 0.25)))
    elif kind == "laminated":
        waves = np.cos(wave * distance)
    elif kind == "spiculated":
        waves = np.cos(round(wave * radius * 0.7) * angle)
    elif kind == BENIGN:
        waves = np.cos(wave * (x if rng.random() < 0.5 else y)) * np.ones_like(distance)
    else:
        waves = np.zeros_like(distance)
    return np.asarray(1 + 0.8 * waves, dtype=np.float32)


def _random_orientation(rng: np.random.Generator) -> Orientation:
    """Draw one of the 48 orders and directions of axes."""
    order = list(itertools.permutations(_AXES))[int(rng.integers(6))]
    codes = "".join(axis[int(rng.integers(2))] for axis in order)
    return Orientation(codes, labels=_LABELS)
