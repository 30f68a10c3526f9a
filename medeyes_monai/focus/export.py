"""Files that other programs read: the focus map and the boxes as NIfTI, 3D Slicer's markups, and JSON."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from medeyes_monai.focus.markups import markups_of
from medeyes_monai.focus.result import Focus, Place
from medeyes_monai.io import write_atomic

__all__ = ["world_of", "write_focus"]

SCANNER = 1  # NIfTI: the affine leads to the scanner's own coordinates


def write_focus(focus: Focus, directory: str | Path, name: str = "focus") -> tuple[Path, ...]:
    """Write what was found, on the grid of the image as it was handed over.

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
    affine = focus.grid.affine
    heat = focus.focus_map().as_tensor()[0].numpy()
    contents = {
        f"{name}_map.nii.gz": _nifti(heat, affine),
        f"{name}_boxes.nii.gz": _nifti(_numbered(focus), affine),
        f"{name}.mrk.json": _json(markups_of(focus.places)),
        f"{name}.json": _json(world_of(focus)),
    }
    for file, content in contents.items():
        write_atomic(folder / file, content)
    return tuple(folder / file for file in contents)


def world_of(focus: Focus) -> dict[str, Any]:
    """Return a result as JSON can hold it, places in millimetres of the RAS+ world.

    ``box`` is in voxels of the image as it was handed over, half-open; ``axes`` are the directions of its
    axes, one a row.
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


def _numbered(focus: Focus) -> npt.NDArray[np.int16]:
    numbers = np.zeros(focus.grid.shape, np.int16)
    for number, box in sorted(enumerate(focus.boxes, start=1), key=lambda one: -one[1].size):
        numbers[box.slices] = number
    return numbers


def _nifti(array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> bytes:
    solid = array if array.ndim == 3 else array[..., None]
    image = nibabel.Nifti1Image(solid, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, SCANNER)
    image.set_qform(affine, SCANNER)
    return gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode("utf-8", errors="replace")
