"""The final focus of each question, as a DICOM Segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom import seg
from pydicom.sr.codedict import codes

from medeyes_monai.deploy import codes as own
from medeyes_monai.deploy.result import FocusResult
from medeyes_monai.deploy.source import Source
from medeyes_monai.geometry import Box

__all__ = ["segmentation_of"]

SERIES_NUMBER = 9902
Mask = npt.NDArray[np.uint8]


def segmentation_of(source: Source, results: Sequence[FocusResult]) -> seg.Segmentation | None:
    """Return one segment for each question that has a focus; None where none has, and for a radiograph.

    Segments are numbered in the order of the questions, hold the focus in all slices that were asked about,
    and may overlap. Frames without a focus are left out; each that is there refers to the image that it lies
    on. Memory goes with the slices that hold a focus, not with the number of results.

    Args:
        source: The series.
        results: What was found in it.
    """
    boxes: dict[str, list[Box]] = {}
    for result in results:
        if result.focused:
            boxes.setdefault(result.name, []).extend(result.focused)
    if not boxes or not source.grid.placed:
        return None
    planes = sorted({k for box in chain(*boxes.values()) for k in range(box.start[2], box.stop[2])})
    return seg.Segmentation(
        source_images=list({id(source.headers[k]): source.headers[k] for k in planes}.values()),
        pixel_array=_masks(list(boxes.values()), planes, source.grid.shape),
        segmentation_type=seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(n, name) for n, name in enumerate(boxes, start=1)],
        content_description=own.TITLE,
        content_label="FOCUS",
        plane_positions=_positions(source, planes),
        plane_orientation=_orientation(source),
        pixel_measures=_measures(source),
        **own.new_object(SERIES_NUMBER),
    )


def _masks(segments: Sequence[Sequence[Box]], planes: Sequence[int], shape: Sequence[int]) -> Mask:
    """Return which voxels each segment holds, ``(planes, rows, columns, segments)``."""
    columns, rows, _ = shape
    masks = np.zeros((len(planes), rows, columns, len(segments)), np.uint8)
    for number, boxes in enumerate(segments):
        for box in boxes:
            across, down, through = box.slices
            place = slice(*np.searchsorted(planes, (through.start, through.stop)))
            masks[place, down, across, number] = 1
    return masks


def _description(number: int, name: str) -> seg.SegmentDescription:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=own.ALGORITHM, family=codes.DCM.ArtificialIntelligence, version=own.VERSION
    )
    return seg.SegmentDescription(
        segment_number=number,
        segment_label=f"focus {number}: {name}"[:64],
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=own.LOOK,
        algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=hd.UID(),
        tracking_id=name[:64],
    )


def _positions(source: Source, planes: Sequence[int]) -> list[hd.PlanePositionSequence]:
    places = [source.frames[k].position.tolist() for k in planes]
    return [hd.PlanePositionSequence("PATIENT", image_position=place) for place in places]


def _orientation(source: Source) -> hd.PlaneOrientationSequence:
    return hd.PlaneOrientationSequence("PATIENT", image_orientation=source.frames[0].axes.ravel().tolist())


def _measures(source: Source) -> hd.PixelMeasuresSequence:
    across, down, apart = source.grid.spacing_mm
    return hd.PixelMeasuresSequence(
        pixel_spacing=(down, across), slice_thickness=apart, spacing_between_slices=apart
    )
