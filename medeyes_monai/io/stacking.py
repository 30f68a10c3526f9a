"""From slices to a volume: which belong together, in what order, and whether any is missing or double."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medeyes_monai.geometry.affine import Affine
from medeyes_monai.io.frames import Frame, Vector
from medeyes_monai.io.limits import RefusedError

__all__ = ["Stack", "choose", "stack", "stacks_of"]

SAME_DIRECTION = 1e-3
"""Slices whose axes differ by less are parallel."""
SAME_SPACING = 1e-3
"""Pixel spacings that differ by a smaller share are equal."""
SAME_PLACE = 0.01
"""Slices nearer than this share of the usual distance lie at one place."""
EVEN = 0.05
"""Distances between slices may differ from the usual one by this share: positions are often rounded."""
STRAIGHT = 0.1
"""A slice may lie this far beside the line through the others. Unit: pixels."""
MOST_LISTED = 12
MOST_SERIES = 500


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Slices that make one volume.

    Args:
        frames: In order along the normal.
        affine: From (column, row, slice) to RAS+ millimetres. The slice axis follows the positions, so it
            is sheared where the gantry was tilted.
    """

    frames: tuple[Frame, ...]
    affine: Affine


def stacks_of(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Group slices by series, size, spacing and orientation, in order of first appearance.

    Raises:
        RefusedError: If there are very many groups.
    """
    groups: list[list[Frame]] = []
    for frame in frames:
        home = next((group for group in groups if _together(group[0], frame)), None)
        if home is None:
            groups.append([frame])
            if len(groups) > MOST_SERIES:
                raise RefusedError(f"holds more than {MOST_SERIES} series; pass a list of the files of one")
        else:
            home.append(frame)
    return groups


def choose(groups: Sequence[list[Frame]], series: int | None) -> list[Frame]:
    """Return the one group, or the one that is asked for.

    Raises:
        RefusedError: If there are several and none is chosen, or no such one.
    """
    if series is None and len(groups) == 1:
        return groups[0]
    if series is not None and 0 <= series < len(groups):
        return groups[series]
    listed = ", ".join(
        f"{i} with {len(group)} slices of {group[0].size[0]}x{group[0].size[1]}"
        for i, group in enumerate(groups[:MOST_LISTED])
    )
    more = ", ..." if len(groups) > MOST_LISTED else ""
    raise RefusedError(
        f"holds {len(groups)} series (told apart by identifier, size, spacing and orientation): "
        f"{listed}{more}; choose one with series=0 to {len(groups) - 1}, or give each a folder"
    )


def stack(frames: Sequence[Frame]) -> Stack:
    """Sort slices along their normal and place them.

    Raises:
        RefusedError: If slices are missing, double, unevenly spaced, or not on one line.
    """
    first = frames[0]
    normal = first.normal
    heights = np.array([frame.position @ normal for frame in frames])
    order = np.argsort(heights, kind="stable")
    ordered = tuple(frames[i] for i in order)
    if len(frames) == 1:
        return Stack(ordered, _affine(first, normal * first.depth_mm))
    _check_distances(np.diff(heights[order]))
    positions = np.array([frame.position for frame in ordered])
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    _check_line(positions, step, normal, min(first.spacing_mm))
    return Stack(ordered, _affine(ordered[0], step))


def _together(one: Frame, other: Frame) -> bool:
    return (
        one.series == other.series
        and one.size == other.size
        and np.allclose(one.spacing_mm, other.spacing_mm, rtol=SAME_SPACING, atol=0)
        and bool(np.abs(one.axes - other.axes).max() < SAME_DIRECTION)
    )


def _check_distances(gaps: Vector) -> None:
    """Refuse slices at one place, missing ones and uneven ones; numbers count along the normal from 0."""
    apart = gaps[gaps > SAME_PLACE * gaps.max()]
    usual = float(np.median(apart)) if gaps.max() > 0 else 0.0
    double = np.flatnonzero(gaps <= SAME_PLACE * usual)
    if len(double):
        raise RefusedError(
            f"holds {len(double)} slices at places that another slice has, first at slice {double[0] + 1} of "
            f"{len(gaps) + 1}: a series over time, several echoes, or copies; pass the files of one volume"
        )
    odd = np.flatnonzero(np.abs(gaps - usual) > EVEN * usual)
    if not len(odd):
        return
    ratio = gaps[odd] / usual
    if (np.abs(ratio - np.rint(ratio)) <= EVEN).all():
        missing = int(np.rint(ratio - 1).sum())
        raise RefusedError(
            f"lacks {missing} slices, first after slice {odd[0]} of {len(gaps) + 1} (counted along the "
            "normal from 0); add them, or pass the files of one part without gaps"
        )
    raise RefusedError(
        f"has slices at uneven distances, from {gaps.min():.3g} to {gaps.max():.3g} mm, first after slice "
        f"{odd[0]} of {len(gaps) + 1}; pass the files of one evenly spaced part"
    )


def _check_line(positions: Vector, step: Vector, normal: Vector, pixel_mm: float) -> None:
    """Refuse slices that are moved sideways against the line through the first and the last."""
    expected = positions[0] + np.arange(len(positions))[:, None] * step
    off = positions - expected
    sideways = np.linalg.norm(off - np.outer(off @ normal, normal), axis=1)
    if sideways.max() > STRAIGHT * pixel_mm:
        raise RefusedError(
            f"has slices that do not lie on one line: slice {int(sideways.argmax())} of {len(positions)} is "
            f"{sideways.max():.3g} mm beside it"
        )


def _affine(first: Frame, step: Vector) -> Affine:
    affine = np.eye(4)
    affine[:3, 0] = first.axes[0] * first.spacing_mm[0]
    affine[:3, 1] = first.axes[1] * first.spacing_mm[1]
    affine[:3, 2] = step
    affine[:3, 3] = first.position
    affine[:2] *= -1  # LPS to RAS
    return affine
