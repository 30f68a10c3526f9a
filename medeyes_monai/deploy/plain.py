"""The answers as plain JSON: the same content as the DICOM objects, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medeyes_monai.deploy.codes import ALGORITHM, NOTICE, VERSION
from medeyes_monai.deploy.result import FocusResult, Grid, Look
from medeyes_monai.deploy.source import Source

__all__ = ["plain"]


def plain(results: Sequence[FocusResult], source: Source | None = None) -> dict[str, Any]:
    """Return what was found as numbers and text that JSON holds.

    Boxes are half-open voxels of the stored series, ``[column, row, slice]``; millimetres are DICOM's (LPS).
    Of the headers it holds identifiers of study, series and instances, and nothing else.

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
    }


def _look(look: Look, grid: Grid, source: Source | None) -> dict[str, Any]:
    said: dict[str, Any] = {
        "start": list(look.box.start),
        "stop": list(look.box.stop),
        "reasoning": look.reasoning,
    }
    if grid.placed:
        said["extent_mm"] = list(look.extent_mm(grid))
        said["corners_mm"] = [[-x, -y, z] for x, y, z in look.corners_mm(grid)]
    if source is not None:
        slices = range(look.box.start[2], look.box.stop[2])
        said["instances"] = list(dict.fromkeys(str(source.headers[k].SOPInstanceUID) for k in slices))
    return said
