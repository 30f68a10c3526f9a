"""An axis-aligned region of an image: the one form in which a look is asked for, made and scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medeyes_monai.errors import GeometryError

__all__ = ["Box"]


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned region in the voxel grid of one image.

    Corners are half-open voxel indices, so ``stop - start`` is the extent and two boxes that share a face
    do not overlap. Axes are those of MONAI's readers, ``(x, y)`` or ``(x, y, z)``: of a picture, the column
    comes first, which is also the order of the protocol's ``[x1, y1, x2, y2]``.

    Args:
        start: First index inside the region, one per axis. Unit: voxels.
        stop: First index past the region, one per axis. Unit: voxels.

    Raises:
        GeometryError: If the corners differ in length, are not 2 or 3 long, are not whole numbers, or
            enclose nothing.

    Example:
        >>> Box(start=(10, 20), stop=(30, 60)).extent
        (20, 40)
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what is not a region."""
        if len(self.start) != len(self.stop) or len(self.start) not in (2, 3):
            raise GeometryError(
                f"a box needs two corners of 2 or 3 numbers each, got {len(self.start)} and {len(self.stop)}"
            )
        if not all(type(v) is int for v in (*self.start, *self.stop)):
            raise GeometryError(f"box corners are whole voxel indices, got {self.start} and {self.stop}")
        if any(a >= b for a, b in zip(self.start, self.stop, strict=True)):
            raise GeometryError(f"a box must enclose something: start {self.start}, stop {self.stop}")

    @classmethod
    def from_corners(cls, corners: Sequence[float]) -> Box:
        """Make a box from ``[x1, y1, x2, y2]`` or ``[x1, y1, z1, x2, y2, z2]``, rounded to voxels.

        Raises:
            GeometryError: If there are not 4 or 6 finite numbers, or they enclose nothing.

        Example:
            >>> Box.from_corners([1, 2, 0, 4, 6, 9])
            Box(start=(1, 2, 0), stop=(4, 6, 9))
        """
        if len(corners) not in (4, 6) or not all(math.isfinite(v) for v in corners):
            raise GeometryError(f"a box needs 4 or 6 finite numbers, got {list(corners)}")
        half = len(corners) // 2
        whole = [_round_half_up(v) for v in corners]
        return cls(tuple(whole[:half]), tuple(whole[half:]))

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Box:
        """Return the box of everything in a grid of ``shape`` voxels."""
        return cls((0,) * len(shape), tuple(int(n) for n in shape))

    @property
    def corners(self) -> tuple[int, ...]:
        """``(x1, y1, x2, y2)`` or ``(x1, y1, z1, x2, y2, z2)``, the protocol's order."""
        return (*self.start, *self.stop)

    @property
    def ndim(self) -> int:
        """Number of spatial axes: 2 or 3."""
        return len(self.start)

    @property
    def extent(self) -> tuple[int, ...]:
        """Side lengths, one per axis. Unit: voxels."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels inside."""
        return math.prod(self.extent)

    @property
    def centre(self) -> tuple[float, ...]:
        """The middle, one number per axis, in voxel edges: ``Box((0, 0), (2, 2)).centre == (1.0, 1.0)``."""
        return tuple((a + b) / 2 for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of the region in an array without channel axis."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def intersection(self, other: Box) -> Box | None:
        """Return the region inside both boxes, or None where they do not overlap.

        Raises:
            GeometryError: If the boxes have a different number of axes.
        """
        if self.ndim != other.ndim:
            raise GeometryError(f"cannot compare a {self.ndim}D box with a {other.ndim}D box")
        start = tuple(map(max, self.start, other.start))
        stop = tuple(map(min, self.stop, other.stop))
        return Box(start, stop) if all(a < b for a, b in zip(start, stop, strict=True)) else None

    def iou(self, other: Box) -> float:
        """Intersection over union, from 0 (apart) to 1 (equal).

        Raises:
            GeometryError: If the boxes have a different number of axes.

        Example:
            >>> Box((0, 0), (4, 4)).iou(Box((2, 0), (6, 4)))
            0.3333333333333333
        """
        both = self.intersection(other)
        return both.size / (self.size + other.size - both.size) if both else 0.0

    def contains(self, point: Sequence[float]) -> bool:
        """Tell whether a point (in voxel edges, as :attr:`centre`) lies inside."""
        if len(point) != self.ndim:
            raise GeometryError(f"a {self.ndim}D box cannot hold a point of {len(point)} numbers")
        return all(a <= p < b for a, p, b in zip(self.start, point, self.stop, strict=True))

    def is_inside(self, shape: Sequence[int]) -> bool:
        """Tell whether the box has the axes of ``shape`` and lies wholly inside it."""
        return len(shape) == self.ndim and all(
            a >= 0 and b <= n for a, b, n in zip(self.start, self.stop, shape, strict=True)
        )

    def clip(self, shape: Sequence[int]) -> Box:
        """Return the part of the box inside a grid of ``shape`` voxels.

        Raises:
            GeometryError: If no part of the box lies inside.

        Example:
            >>> Box((-5, 2), (3, 40)).clip((10, 20))
            Box(start=(0, 2), stop=(3, 20))
        """
        inside = self.intersection(Box.whole(shape))
        if inside is None:
            raise GeometryError(f"box {self.corners} lies outside a grid of {tuple(shape)} voxels")
        return inside

    def scale(self, source: Sequence[int], target: Sequence[int]) -> Box:
        """Carry the box from one frame to another that shows the same region at another resolution.

        Corners are rounded to the nearest voxel and every side keeps at least one voxel, so that going to a
        finer frame and back returns the same box.

        Args:
            source: Extent of the frame in which the box is given, one per axis.
            target: Extent of the frame in which it is wanted, one per axis.

        Raises:
            GeometryError: If the frames and the box have a different number of axes.

        Example:
            >>> Box((1, 1), (3, 4)).scale((10, 10), (1000, 50))
            Box(start=(100, 5), stop=(300, 20))
        """
        if not len(source) == len(target) == self.ndim:
            raise GeometryError(
                f"a {self.ndim}D box cannot be carried from frame {tuple(source)} to {tuple(target)}"
            )
        start, stop = [], []
        for a, b, s, t in zip(self.start, self.stop, source, target, strict=True):
            low, high = _round_half_up(a * t / s), _round_half_up(b * t / s)
            if high <= low:
                low = min(math.floor((a + b) / 2 * t / s), math.ceil(b * t / s) - 1)
                high = low + 1
            start.append(low)
            stop.append(high)
        return Box(tuple(start), tuple(stop))

    def moved(self, by: Sequence[int]) -> Box:
        """Return the box moved along each axis.

        Example:
            >>> Box((0, 0), (4, 4)).moved((10, -2))
            Box(start=(10, -2), stop=(14, 2))
        """
        start, stop = (tuple(a + d for a, d in zip(c, by, strict=True)) for c in (self.start, self.stop))
        return Box(start, stop)

    def expand(self, shape: Sequence[int], factor: float = 1.0, minimum: int | Sequence[int] = 1) -> Box:
        """Grow the box about its centre and move it inside the grid.

        Args:
            shape: Extent of the grid, one per axis. Unit: voxels.
            factor: Each side is multiplied by this.
            minimum: Smallest side afterwards (one number, or one per axis). A grid that is smaller wins.

        Returns:
            A box inside the grid that holds the centre of this box if the grid does.

        Example:
            >>> Box((0, 8), (2, 10)).expand((20, 20), minimum=6)
            Box(start=(0, 6), stop=(6, 12))
        """
        least = (minimum,) * self.ndim if isinstance(minimum, int) else tuple(minimum)
        start, stop = [], []
        for a, b, n, m in zip(self.start, self.stop, shape, least, strict=True):
            side = min(int(n), max(m, math.ceil((b - a) * factor)))
            low = min(max(_round_half_up((a + b - side) / 2), 0), int(n) - side)
            start.append(low)
            stop.append(low + side)
        return Box(tuple(start), tuple(stop))


def _round_half_up(value: float) -> int:
    return math.floor(value + 0.5)
