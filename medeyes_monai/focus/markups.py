"""Looks as regions of interest of 3D Slicer, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medeyes_monai.errors import GeometryError, UnreadableImageError
from medeyes_monai.focus.result import Grid, Place
from medeyes_monai.geometry import Box, from_world

__all__ = ["markups_of", "read_markups"]

SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
"""Which form of markups this is; it names the form and is not fetched."""
TO_LPS = np.diag([-1.0, -1.0, 1.0])
"""Between RAS+ and LPS+, both ways: Slicer's files are in LPS, and say so."""
MOST_BYTES = 2**20
MOST_SINE = 0.01  # an axis may be turned by so much against the grid's
COLOUR = (0.90, 0.62, 0.0)


def markups_of(places: Sequence[Place]) -> dict[str, Any]:
    """Return looks as the content of a ``.mrk.json`` file: one box ROI for each, in LPS millimetres.

    Example:
        >>> markups_of([])["markups"]
        []
    """
    return {"@schema": SCHEMA, "markups": [_roi(place) for place in places]}


def read_markups(path: str | Path, grid: Grid) -> tuple[Box, ...]:
    """Return the box ROIs of a ``.mrk.json`` file, perhaps moved by hand, as boxes of a grid.

    Args:
        path: The file.
        grid: The image in whose voxels they are wanted. Faces are rounded to voxels.

    Raises:
        UnreadableImageError: If the file is missing, too large, or holds something else than such ROIs.
        GeometryError: If a ROI is turned against the grid, or lies outside it.
    """
    file = Path(path)
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UnreadableImageError(f"{file.name}: markups have at most {MOST_BYTES:,} bytes")
        rois = [_read_roi(one) for one in json.loads(file.read_text("utf-8"))["markups"]]
    except UnreadableImageError:
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UnreadableImageError(
            f"{file.name}: is no file of box ROIs in LPS or RAS, as 3D Slicer writes them "
            f"({type(error).__name__})"
        ) from error
    return tuple(_boxed(centre, axes, size, grid, file.name) for centre, axes, size in rois)


def _roi(place: Place) -> dict[str, Any]:
    axes = TO_LPS @ place.axes
    if np.linalg.det(axes) < 0:  # the box is the same, and Slicer wants a rotation
        axes = axes * (1, 1, -1)
    centre = (TO_LPS @ place.centre_mm).tolist()
    sure = "" if place.fixation.confidence is None else f"confidence {place.fixation.confidence:.2f}"
    return {
        "name": f"look {place.number}",
        "type": "ROI",
        "roiType": "Box",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "center": centre,
        "orientation": axes.flatten().tolist(),
        "size": list(place.size_mm),
        "insideOut": False,
        "controlPoints": [
            {
                "id": "1",
                "label": f"look {place.number}",
                "description": sure,
                "position": centre,
                "orientation": axes.flatten().tolist(),
                "selected": True,
                "locked": False,
                "visibility": True,
                "positionStatus": "defined",
            }
        ],
        "display": {"visibility": True, "selectedColor": COLOUR, "handlesInteractive": False},
    }


def _read_roi(markup: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return centre, axes and size of a ROI in the RAS+ world."""
    if markup["type"] != "ROI" or markup["roiType"] != "Box" or markup.get("coordinateUnits", "mm") != "mm":
        raise ValueError("not a box in millimetres")
    flip = {"LPS": TO_LPS, "RAS": np.eye(3)}[markup["coordinateSystem"]]
    numbers = [np.asarray(markup[name], dtype=np.float64) for name in ("center", "orientation", "size")]
    centre, axes, size = numbers[0].reshape(3), numbers[1].reshape(3, 3), numbers[2].reshape(3)
    if not all(np.isfinite(part).all() for part in numbers) or size.min() <= 0:
        raise ValueError("not finite, or without extent")
    return flip @ centre, flip @ axes, size


def _boxed(centre: Any, axes: Any, size: Any, grid: Grid, name: str) -> Box:
    turned = np.abs(np.linalg.inv(grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0)) @ axes)
    if np.abs(turned - turned.round()).max() > MOST_SINE:
        raise GeometryError(f"{name}: a region is turned against the axes of the image, and no box of it")
    half = axes @ np.diag(size / 2)
    ends = [centre + half @ signs for signs in np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T]
    points = np.array([from_world(end, grid.affine) for end in ends])
    start, stop = np.rint(points.min(axis=0)).astype(int), np.rint(points.max(axis=0)).astype(int)
    axes_kept = len(grid.shape)
    box = Box(tuple(start.tolist()), tuple(np.maximum(stop, start + 1).tolist()))
    flat = Box(box.start[:axes_kept], box.stop[:axes_kept])
    if not flat.is_inside(grid.shape):
        raise GeometryError(f"{name}: a region lies outside the image of {grid.shape} voxels")
    return flat
