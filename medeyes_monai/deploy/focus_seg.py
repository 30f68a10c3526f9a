"""Where the policy looked last, as a DICOM Segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from highdicom import seg
from pydicom.sr.codedict import codes

from medeyes_monai.deploy import codes as own
from medeyes_monai.deploy.result import FocusResult
from medeyes_monai.deploy.source import Source

__all__ = ["segmentation_of"]

SERIES_NUMBER = 9902


def segmentation_of(source: Source, results: Sequence[FocusResult]) -> seg.Segmentation | None:
    """Return one segment for each result that has a focus; None where none has, and for a radiograph.

    Segments are numbered in the order of the results that have one, and may overlap. Frames without a focus
    are left out; each that is there refers to the image that it lies on.

    Args:
        source: The series.
        results: What was found in it.
    """
    focused = [result for result in results if result.focus is not None and result.focus.any()]
    if not focused or not source.grid.placed:
        return None
    masks = [np.asarray(result.focus).transpose(2, 1, 0) for result in focused]
    return seg.Segmentation(
        source_images=source.instances,
        pixel_array=np.stack(masks, axis=-1).astype(np.uint8),
        segmentation_type=seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(n, result) for n, result in enumerate(focused, start=1)],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=own.ALGORITHM,
        manufacturer_model_name=own.ALGORITHM,
        software_versions=own.VERSION,
        device_serial_number=own.VERSION,
        content_description="AI result, not for clinical use",
        content_label="FOCUS",
        series_description="AI result, not for clinical use",
        plane_positions=_positions(source),
        plane_orientation=_orientation(source),
        pixel_measures=_measures(source),
    )


def _description(number: int, result: FocusResult) -> seg.SegmentDescription:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=own.ALGORITHM, family=codes.DCM.ArtificialIntelligence, version=own.VERSION
    )
    return seg.SegmentDescription(
        segment_number=number,
        segment_label=f"focus {number}: {result.name}"[:64],
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=own.LOOK,
        algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=hd.UID(),
        tracking_id=result.name[:64],
    )


def _positions(source: Source) -> list[hd.PlanePositionSequence]:
    return [
        hd.PlanePositionSequence("PATIENT", image_position=frame.position.tolist()) for frame in source.frames
    ]


def _orientation(source: Source) -> hd.PlaneOrientationSequence:
    return hd.PlaneOrientationSequence("PATIENT", image_orientation=source.frames[0].axes.ravel().tolist())


def _measures(source: Source) -> hd.PixelMeasuresSequence:
    across, down, apart = source.grid.spacing_mm
    return hd.PixelMeasuresSequence(
        pixel_spacing=(down, across), slice_thickness=apart, spacing_between_slices=apart
    )
