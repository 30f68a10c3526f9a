"""Draws the phantoms of PhantomVQA: body, lungs, heart, and candidates that differ in a fine texture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Finding

__all__ = [
    "BENIGN",
    "IN_DISTRIBUTION",
    "KINDS",
    "OUT_OF_DISTRIBUTION",
    "SIDE",
    "Spot",
    "Style",
    "draw",
    "free_place",
]

SIDE = 512
"""Rows and columns of an image. Unit: pixels."""
PERIOD = 4
"""Period of the textures, and the factor by which the overview is smaller. Unit: pixels."""
HEART_WIDTHS = (0.085, 0.17)
"""Half width of a normal and of an enlarged heart, as fractions of the image side."""
HEART_HEIGHT = 0.085
"""Half height of every heart, as a fraction of the image side."""
KINDS = ("solid", "calcified", "laminated", "spiculated")
BENIGN = "benign"


@dataclass(frozen=True, slots=True)
class Style:
    """What an image looks like apart from its findings.

    Args:
        lung_height: Half height of a lung. Unit: fraction of the image side, as all lengths here.
        lung_width: Half width of a lung.
        lung_offset: Distance of a lung's centre from the midline.
        body: Grey value of the body, 0 to 255.
        lung: Grey value of the lungs.
        noise: Standard deviation of the noise. Unit: grey values.
        amplitude: Smallest and largest brightness of a finding above the lung.
        small: Smallest and largest radius of a small finding. Unit: pixels.
        large: Smallest and largest radius of a large finding. Unit: pixels.
    """

    lung_height: float = 0.33
    lung_width: float = 0.155
    lung_offset: float = 0.21
    body: float = 150.0
    lung: float = 60.0
    noise: float = 8.0
    amplitude: tuple[float, float] = (60.0, 80.0)
    small: tuple[float, float] = (9.0, 11.0)
    large: tuple[float, float] = (15.0, 18.0)


IN_DISTRIBUTION = Style()
OUT_OF_DISTRIBUTION = Style(
    lung_height=0.29, lung_width=0.135, lung_offset=0.19, body=175.0, lung=85.0, noise=12.0,
    amplitude=(48.0, 62.0), small=(8.0, 10.0), large=(13.5, 16.0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spot:
    """One candidate before it is drawn: centre and radius in pixels, size in words, kind."""

    x: float
    y: float
    radius: float
    size: str
    kind: str

    @property
    def side(self) -> str:
        """The patient's side, which is the other side of the picture."""
        return "left" if self.x > SIDE / 2 else "right"

    @property
    def finding(self) -> Finding:
        """Box and words of the candidate."""
        start = (int(self.x - self.radius), int(self.y - self.radius))
        stop = (int(np.ceil(self.x + self.radius)), int(np.ceil(self.y + self.radius)))
        return Finding(Box(start, stop), f"{self.side} {self.size} {self.kind}")


def free_place(
    taken: Sequence[Spot], sign: int, style: Style, rng: np.random.Generator, apart: float = 70.0
) -> tuple[float, float]:
    """Draw a place in one lung, clear of the heart and, as far as there is room, apart from the others.

    Args:
        taken: Candidates that have a place.
        sign: 1 for the lung at larger x, -1 for the other.
        style: Anatomy.
        rng: Where the draws come from.
        apart: Wanted distance. Unit: pixels.
    """
    while True:
        apart *= 0.999
        angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.62))
        x = SIDE * (0.5 + sign * style.lung_offset + reach * style.lung_width * np.cos(angle))
        y = SIDE * (0.5 + reach * style.lung_height * np.sin(angle))
        if _beside_heart(x, y, style) and all(np.hypot(x - s.x, y - s.y) > apart for s in taken):
            return float(x), float(y)


def _beside_heart(x: float, y: float, style: Style, margin: float = 0.05) -> bool:
    """Tell whether a place is clear of the heart even where it is enlarged."""
    width, (u, v) = HEART_WIDTHS[1], _heart_centre(HEART_WIDTHS[1], style)
    far = ((x / SIDE - u) / (width + margin)) ** 2 + ((y / SIDE - v) / (HEART_HEIGHT + margin)) ** 2
    return bool(far > 1)


def _heart_centre(width: float, style: Style) -> tuple[float, float]:
    return 0.5 + 0.35 * width, 0.5 + style.lung_height * 0.72


_X, _Y = np.meshgrid(np.arange(SIDE, dtype=np.float32), np.arange(SIDE, dtype=np.float32), indexing="ij")


def _ellipse(x: float, y: float, width: float, height: float) -> npt.NDArray[np.bool_]:
    """Mask of an ellipse; centre and half axes as fractions of the image side."""
    inside = ((_X / SIDE - x) / width) ** 2 + ((_Y / SIDE - y) / height) ** 2 < 1
    return np.asarray(inside)


def draw(
    spots: Sequence[Spot], big_heart: bool, style: Style, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], Finding]:
    """Return the image ``(X, Y)`` in grey values 0 to 255, and the heart as a finding."""
    image: npt.NDArray[np.float32] = np.full((SIDE, SIDE), 25.0, np.float32)
    shift = float(rng.uniform(-0.01, 0.01))
    image[_ellipse(0.5 + shift, 0.5, 0.46, 0.44)] = style.body
    lungs = np.zeros((SIDE, SIDE), bool)
    for sign in (-1, 1):
        lungs |= _ellipse(
            0.5 + sign * style.lung_offset, 0.5, style.lung_width * 1.15, style.lung_height * 1.12
        )
    image[lungs] = style.lung
    image += np.where(lungs, 5 * np.sin(2 * np.pi * (_Y + 0.0006 * (_X - SIDE / 2) ** 2) / 64), 0)
    width = HEART_WIDTHS[int(big_heart)]
    centre = _heart_centre(width, style)
    image[_ellipse(*centre, width, HEART_HEIGHT)] = style.body + 35
    for spot in spots:
        _stamp(image, spot, float(rng.uniform(*style.amplitude)), rng)
    image += rng.normal(0, style.noise, image.shape).astype(np.float32)
    grey = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    box = Box.from_corners(
        [
            v * SIDE
            for v in (
                centre[0] - width,
                centre[1] - HEART_HEIGHT,
                centre[0] + width,
                centre[1] + HEART_HEIGHT,
            )
        ]
    )
    return grey, Finding(box, "enlarged heart" if big_heart else "normal heart", subtle=False)


def _stamp(image: npt.NDArray[np.float32], spot: Spot, amplitude: float, rng: np.random.Generator) -> None:
    """Add a candidate: one profile for all kinds, times a texture of mean 1 and period :data:`PERIOD`."""
    reach = int(spot.radius) + 4
    low = (max(0, int(spot.x) - reach), max(0, int(spot.y) - reach))
    region = np.s_[low[0] : int(spot.x) + reach + 1, low[1] : int(spot.y) + reach + 1]
    x, y = _X[region] - spot.x, _Y[region] - spot.y
    distance, angle = np.hypot(x, y), np.arctan2(y, x)
    profile = 1 / (1 + np.exp((distance - spot.radius) / 0.8))
    wave = 2 * np.pi / PERIOD
    if spot.kind == "calcified":
        texture = 1 + 0.8 * np.sign(np.sin(wave * (x + 0.5))) * np.sign(np.sin(wave * (y + 0.5)))
    elif spot.kind == "laminated":
        texture = 1 + 0.8 * np.cos(wave * distance)
    elif spot.kind == "spiculated":
        texture = 1 + 0.8 * np.cos(round(wave * spot.radius * 0.85) * angle)
    elif spot.kind == BENIGN:
        texture = 1 + 0.8 * np.cos(wave * (x if rng.random() < 0.5 else y))
    else:
        texture = np.ones_like(x)
    texture = texture / ((texture * profile).sum() / profile.sum())
    image[region] += amplitude * profile * texture
