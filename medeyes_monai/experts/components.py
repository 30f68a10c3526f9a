"""Regions out of a probability map: connected components, with what they look most like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medeyes_monai.geometry import Box

__all__ = ["ProbabilityMap", "Region", "components", "padded_mask"]

ProbabilityMap = npt.NDArray[np.float32]
"""A probability for each class and voxel, ``(K, X, Y[, Z])``."""


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A connected region of a probability map.

    Args:
        box: The smallest box about it. Unit: voxels of the scene.
        mask: Its voxels, bool, of the shape of ``box.extent``.
        label: Name of the class that is most probable on average.
        mean: Mean probability inside the mask that one of the classes in question is there, in [0, 1].
        peak: Largest such probability.
        label_mean: Mean probability of the class ``label`` alone.
    """

    box: Box
    mask: npt.NDArray[np.bool_]
    label: str
    mean: float
    peak: float
    label_mean: float


def components(
    probabilities: ProbabilityMap,
    labels: Sequence[str],
    classes: Sequence[int],
    *,
    threshold: float = 0.5,
    min_voxels: int = 1,
    exclusive: bool = True,
    offset: tuple[int, ...] | None = None,
) -> list[Region]:
    """Return the connected regions in which one of some classes is probable.

    Args:
        probabilities: ``(K, X, Y[, Z])``.
        labels: Names of the classes, ``K`` of them.
        classes: The classes in question; their regions are found together and then named.
        threshold: A voxel belongs to a region from this probability on.
        min_voxels: Smaller regions are left out.
        exclusive: True if the probabilities of a voxel sum to 1, so that those of several classes add up;
            False if classes may overlap, so that the largest counts.
        offset: Where the map's first voxel lies in the scene; None for its first. Unit: voxels.

    Returns:
        The regions, the largest mean probability first.

    Example:
        >>> ring = np.zeros((2, 8, 8), np.float32)
        >>> ring[1, 2:4, 3:6] = 0.9
        >>> (region,) = components(ring, ("background", "ring"), (1,))
        >>> region.box, region.label, round(region.mean, 2)
        (Box(start=(2, 3), stop=(4, 6)), 'ring', 0.9)
    """
    chosen = probabilities[list(classes)]
    together = chosen.sum(axis=0).clip(max=1.0) if exclusive else chosen.max(axis=0)
    numbered, count = ndimage.label(together >= threshold)
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)
    places = ndimage.find_objects(numbered)
    regions = []
    for number in range(1, count + 1):
        if sizes[number] < min_voxels:
            continue
        place = places[number - 1]
        mask = numbered[place] == number
        means = chosen[(slice(None), *place)][:, mask].mean(axis=1, dtype=np.float64)
        inside = together[place][mask]
        regions.append(
            Region(
                box=_box_of(place, offset),
                mask=mask,
                label=labels[classes[int(means.argmax())]],
                mean=float(inside.mean(dtype=np.float64)),
                peak=float(inside.max()),
                label_mean=float(means.max()),
            )
        )
    return sorted(regions, key=lambda region: (-region.mean, region.box.corners))


def padded_mask(region: Region, box: Box) -> npt.NDArray[np.bool_]:
    """Return a region's mask in the frame of a box that holds it.

    Example:
        >>> region = Region(Box((2, 2), (3, 4)), np.ones((1, 2), bool), "ring", 0.9, 0.9, 0.9)
        >>> padded_mask(region, Box((2, 1), (4, 4))).tolist()
        [[False, True, True], [False, False, False]]
    """
    mask = np.zeros(box.extent, dtype=bool)
    start = (a - o for a, o in zip(region.box.start, box.start, strict=True))
    mask[tuple(slice(a, a + n) for a, n in zip(start, region.box.extent, strict=True))] = region.mask
    return mask


def _box_of(place: tuple[slice, ...], offset: tuple[int, ...] | None) -> Box:
    by = offset or (0,) * len(place)
    start = tuple(int(s.start) + o for s, o in zip(place, by, strict=True))
    return Box(start, tuple(int(s.stop) + o for s, o in zip(place, by, strict=True)))
