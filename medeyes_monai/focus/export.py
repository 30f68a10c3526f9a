"""Files that other programs read: the focus map and the boxes as NIfTI, 3D Slicer's markups, and JSON."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medeyes_monai.focus.markups import markups_of
from medeyes_monai.focus.result import Focus, Grid, Place, painted
from medeyes_monai.geometry import Box
from medeyes_monai.io import write_atomic

__all__ = ["world_of", "write_focus"]

SCANNER = 1  # NIfTI: the affine leads to the scanner's own coordinates
AT_ONCE = 2**22
"""Most voxels of an image that are in memory while it is written, or one slice. Of empty space, the packed
file is a two-hundredth."""


def write_focus(focus: Focus, directory: str | Path, name: str = "focus") -> tuple[Path, ...]:
    """Write what was found, on the grid of the file as it was stored.

    That is the grid to which :func:`~medeyes_monai.io.as_stored` turns an image that
    :func:`~medeyes_monai.io.read_volume` has read; of an image that does not say how it was stored, and of a
    ``StreamedScene``, the grid of the result. Images are written some slices at a time, so that this takes
    little memory of a study that is larger than memory; the time is that of packing its voxels.

    Args:
        focus: The result.
        directory: Folder; made if it is missing.
        name: First part of the names, free of patient data.

    Returns:
        ``NAME_map.nii.gz``, the focus map; ``NAME_boxes.nii.gz``, the number of the look at each voxel, that
        of the smaller box where two hold it; ``NAME.mrk.json``, box ROIs for 3D Slicer in LPS millimetres;
        ``NAME.json``, all of it as :func:`world_of`. Each appears complete or not at all.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    found = focus.as_stored()
    numbered = sorted(enumerate(found.boxes, start=1), key=lambda one: -one[1].size)
    contents = {
        f"{name}_map.nii.gz": _nifti(found.grid, found.sureness, np.float32),
        f"{name}_boxes.nii.gz": _nifti(found.grid, [(box, number) for number, box in numbered], np.int16),
        f"{name}.mrk.json": _json(markups_of(found.places)),
        f"{name}.json": _json(world_of(found)),
    }
    for file, content in contents.items():
        write_atomic(folder / file, content)
    return tuple(folder / file for file in contents)


def world_of(focus: Focus) -> dict[str, Any]:
    """Return a result as JSON can hold it, places in millimetres of the RAS+ world.

    ``box`` is in voxels of the grid that ``shape`` and ``affine`` describe, half-open: that of the image as
    it was handed over, or of :meth:`Focus.as_stored`. ``axes`` are the directions of its axes, one a row.
    """
    return {
        "question": focus.case.question,
        "answer": focus.answer,
        "ended": focus.ended,
        "seconds": round(focus.seconds, 3),
        "coordinate_system": "RAS",
        "unit": "mm",
        "shape": list(focus.grid.shape),
        "affine": focus.grid.affine.tolist(),
        "looks": [_look(place) for place in focus.places],
        "calls": [
            {"tool": call.name, "after": call.after, "reply": call.reply} for call in focus.trajectory.calls
        ],
        "decisions": [decision.to_dict() for decision in focus.decisions],
    }


def _look(place: Place) -> dict[str, Any]:
    return {
        "number": place.number,
        "box": list(place.box.corners),
        "centre_mm": list(place.centre_mm),
        "size_mm": list(place.size_mm),
        "axes": place.axes.T.tolist(),
        "corners_mm": [list(corner) for corner in place.corners_mm],
        "mode": place.fixation.mode,
        "confidence": place.fixation.confidence,
        "finding": place.finding,
    }


def _nifti(grid: Grid, regions: Sequence[tuple[Box, float]], dtype: type[np.number[Any]]) -> bytes:
    """Return an image whose voxels are :func:`painted`, packed a few slices at a time."""
    solid = grid.shape if len(grid.shape) == 3 else (*grid.shape, 1)
    image = nibabel.Nifti1Image(np.broadcast_to(dtype(0), solid), grid.affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1, 0)
    image.set_sform(grid.affine, SCANNER)
    image.set_qform(grid.affine, SCANNER)
    packed = BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=packed, mtime=0) as file:
        image.header.write_to(file)
        for slab in _slabs(grid.shape):
            file.write(painted(slab, regions, dtype).tobytes(order="F"))
    return packed.getvalue()


def _slabs(shape: Sequence[int]) -> Iterator[Box]:
    """Iterate over a grid in the order in which a NIfTI file has its slices; a picture is one."""
    if len(shape) == 2:
        yield Box.whole(shape)
        return
    columns, rows, slices = shape
    thick = max(1, AT_ONCE // (columns * rows))
    for low in range(0, slices, thick):
        yield Box((0, 0, low), (columns, rows, min(low + thick, slices)))


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode("utf-8", errors="replace")
