"""The answers as a DICOM Structured Report: TID 1500, a measurement report."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes

from medeyes_monai.deploy import codes as own
from medeyes_monai.deploy.result import FocusResult, Look
from medeyes_monai.deploy.source import Source
from medeyes_monai.geometry import to_world

__all__ = ["report_of"]

SERIES_NUMBER = 9901
LPS = np.array([-1.0, -1.0, 1.0])
"""From RAS+ to DICOM's world."""


def report_of(source: Source, results: Sequence[FocusResult]) -> sr.Comprehensive3DSR:
    """Return the report of all questions about a series.

    Each answer stands among the qualitative evaluations, after its question, and in a group of its own with
    the model's certainty of it in percent. Each look is a region with its sizes (of a radiograph, without,
    for these are not true in a projection) and with an expert's certainty of it, where there was one: one
    within a slice is a polyline on that image, one through several is a polygon on each of them in patient
    coordinates. Regions are the boxes' outer edges. The report is partial, preliminary and unverified.

    Args:
        source: The series.
        results: What was found in it.

    Raises:
        ValueError: If there are no results.
    """
    if not results:
        raise ValueError("a report needs at least one result")
    algorithm = sr.AlgorithmIdentification(name=own.ALGORITHM, version=own.VERSION)
    groups: list[object] = []
    for number, result in enumerate(results, start=1):
        groups.append(_answer_group(result, number, algorithm))
        groups += [
            _look_group(source, look, f"{number}.{order}", algorithm)
            for order, look in enumerate(result.looks, start=1)
        ]
    report = sr.MeasurementReport(
        observation_context=_observer(),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=_library(source, results),
    )
    report[0].ContentSequence.append(_words(results))
    return sr.Comprehensive3DSR(
        evidence=source.instances,
        content=report,
        specific_character_set="ISO_IR 192",
        coding_schemes=[own.SCHEME],
        is_complete=False,
        is_final=False,
        is_verified=False,
        **own.new_object(SERIES_NUMBER),
    )


def _observer() -> sr.ObservationContext:
    device = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=own.DEVICE_UID, name=own.ALGORITHM, model_name=own.ALGORITHM, serial_number=own.VERSION
        ),
    )
    return sr.ObservationContext(observer_device_context=device)


def _answer_group(
    result: FocusResult, number: int, algorithm: sr.AlgorithmIdentification
) -> sr.MeasurementsAndQualitativeEvaluations:
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=hd.UID(), identifier=f"answer {number}"),
        finding_type=codes.DCM.Finding,
        algorithm_id=algorithm,
        measurements=[_certainty(result.confidence)],
    )


def _look_group(
    source: Source, look: Look, name: str, algorithm: sr.AlgorithmIdentification
) -> (
    sr.PlanarROIMeasurementsAndQualitativeEvaluations | sr.VolumetricROIMeasurementsAndQualitativeEvaluations
):
    part = own.body_part_of(source.headers[look.box.start[2]])
    common = {
        "tracking_identifier": sr.TrackingIdentifier(uid=hd.UID(), identifier=f"look {name}"),
        "finding_type": own.LOOK,
        "algorithm_id": algorithm,
        "finding_sites": [sr.FindingSite(anatomic_location=part[0], laterality=part[1])] if part else None,
        "measurements": _measured(source, look) or None,
    }
    if look.is_planar:
        return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            referenced_region=_on_image(source, look), **common
        )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_volume_surface=_in_patient(source, look), **common
    )


def _certainty(share: float) -> sr.Measurement:
    percent = round(100 * float(share), 4)
    return sr.Measurement(name=codes.DCM.CertaintyOfFinding, value=percent, unit=codes.UCUM.Percent)


def _measured(source: Source, look: Look) -> list[sr.Measurement]:
    sizes = _sizes(source, look) if source.grid.placed else []
    return sizes if look.confidence is None else [*sizes, _certainty(look.confidence)]


def _sizes(source: Source, look: Look) -> list[sr.Measurement]:
    wide, high, deep = look.extent_mm(source.grid)
    mm = codes.UCUM.Millimeter
    sides = [(codes.SCT.Width, wide, mm), (codes.DCM.Height, high, mm)]
    if look.is_planar:
        sides.append((codes.SCT.Area, wide * high, codes.UCUM.SquareMillimeter))
    else:
        sides.append((codes.SCT.Depth, deep, mm))
        sides.append((codes.SCT.Volume, wide * high * deep, codes.UCUM.CubicMillimeter))
    return [sr.Measurement(name=name, value=round(value, 4), unit=unit) for name, value, unit in sides]


def _on_image(source: Source, look: Look) -> sr.ImageRegion:
    """Return the outline on its image; DICOM's pixel coordinates count edges, as boxes do."""
    k = look.box.start[2]
    header = source.headers[k]
    image = sr.SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID, _frame_numbers(source, k))
    return sr.ImageRegion(graphic_type="POLYLINE", graphic_data=look.outline, source_image=image)


def _in_patient(source: Source, look: Look) -> sr.VolumeSurface:
    """Return a closed polygon through the middle of each slice."""
    slices = range(look.box.start[2], look.box.stop[2])
    images = [
        sr.SourceImageForSegmentation(
            source.headers[k].SOPClassUID, source.headers[k].SOPInstanceUID, _frame_numbers(source, k)
        )
        for k in slices
    ]
    return sr.VolumeSurface(
        graphic_type="POLYGON",
        graphic_data=[_polygon(source, look, k) for k in slices],
        frame_of_reference_uid=source.frame_of_reference,
        source_images=images,
    )


def _polygon(source: Source, look: Look, k: int) -> npt.NDArray[np.float64]:
    points = np.array([to_world((x, y, k + 0.5), source.grid.affine) for x, y in look.outline])
    return np.asarray(points * LPS, dtype=np.float64)


def _frame_numbers(source: Source, k: int) -> list[int] | None:
    """Return which frame of its file a slice is, counted from 1; None for a file of one frame."""
    many = int(source.headers[k].get("NumberOfFrames", 1) or 1) > 1
    return [source.frames[k].number + 1] if many else None


def _library(source: Source, results: Sequence[FocusResult]) -> list[Dataset] | None:
    """Return the images that answers are about; an image library knows slices in files of one frame only."""
    slices = {k for result in results for look in result.looks for k in range(*_depth(look))}
    slices |= {result.slice_index for result in results if result.slice_index is not None}
    images = [source.headers[k] for k in sorted(slices or {0})]
    return images if source.grid.placed and "PixelSpacing" in images[0] else None


def _depth(look: Look) -> tuple[int, int]:
    return look.box.start[2], look.box.stop[2]


def _words(results: Sequence[FocusResult]) -> sr.ContainerContentItem:
    """Return what was asked and said, as text, under the notice of what it is."""
    contains = sr.RelationshipTypeValues.CONTAINS
    words = [(codes.DCM.Comment, own.NOTICE)]
    for result in results:
        words.append((own.QUESTION, result.question))
        words.append((codes.DCM.Finding, result.answer or "(no answer)"))
        if result.reasoning:
            words.append((own.REASONING, result.reasoning))
    container = sr.ContainerContentItem(name=own.QUALITATIVE, relationship_type=contains)
    container.ContentSequence = sr.ContentSequence(
        [
            sr.TextContentItem(name=name, value=_plain(text), relationship_type=contains)
            for name, text in words
        ]
    )
    return container


def _plain(text: str) -> str:
    """Return text without control characters, which DICOM does not allow, and never empty."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text).strip() or "(nothing)"
