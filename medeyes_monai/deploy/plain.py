"""The answers as plain JSON: the same content as the DICOM objects, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medeyes_monai.deploy.codes import ALGORITHM, NOTICE, VERSION
from medeyes_monai.deploy.result import SURE, FocusResult, Grid, Look
from medeyes_monai.deploy.source import Source
from medeyes_monai.geometry import Box

__all__ = ["plain"]


def plain(results: Sequence[FocusResult], source: Source | None = None) -> dict[str, Any]:
    """Return what was found as numbers and text that JSON holds.

    Boxes are half-open voxels of the stored series, ``[column, row, slice]``; millimetres are DICOM's (LPS).
    The focus map is, at each voxel, the largest confidence of the looks that hold it, 1 for a look that has
    none; ``focus`` is the part of it that the segmentation shows. Of the headers it holds identifiers of
    study, series and instances, and nothing else.

    Args:
        results: What was found.
        source: The series; None for an image that is not DICOM.
    """
    content: dict[str, Any] = {"notice": NOTICE, "algorithm": {"name": ALGORITHM, "version": VERSION}}
    if source is not None:
        header = source.headers[0]
        content["study"] = str(header.StudyInstanceUID)
        content["series"] = str(header.SeriesInstanceUID)
        content["frame_of_reference"] = source.frame_of_reference or None
    content["results"] = [_result(result, source) for result in results]
    return content


def _result(result: FocusResult, source: Source | None) -> dict[str, Any]:
    grid = result.grid
    return {
        "name": result.name,
        "question": result.question,
        "answer": result.answer,
        "confidence": round(result.confidence, 6),
        "defect": result.defect,
        "reasoning": result.reasoning,
        "slice": result.slice_index,
        "shape": list(grid.shape),
        "spacing_mm": list(grid.spacing_mm) if grid.placed else None,
        "looks": [_look(look, grid, source) for look in result.looks],
        "focus": {
            "rule": f"looks surer than {SURE}" if result.graded else "the last look",
            "boxes": [_box(box) for box in result.focused],
        },
    }


def _look(look: Look, grid: Grid, source: Source | None) -> dict[str, Any]:
    said: dict[str, Any] = _box(look.box) | {
        "reasoning": look.reasoning,
        "mode": look.mode,
        "confidence": None if look.confidence is None else round(float(look.confidence), 6),
    }
    if grid.placed:
        said["extent_mm"] = list(look.extent_mm(grid))
        said["corners_mm"] = [[-x, -y, z] for x, y, z in look.corners_mm(grid)]
    if source is not None:
        slices = range(look.box.start[2], look.box.stop[2])
        said["instances"] = list(dict.fromkeys(str(source.headers[k].SOPInstanceUID) for k in slices))
    return said


def _box(box: Box) -> dict[str, Any]:
    return {"start": list(box.start), "stop": list(box.stop)}
