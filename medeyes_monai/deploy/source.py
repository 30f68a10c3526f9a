"""The series that results are about: where its slices lie, and what results copy from its headers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalIntraOralXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalXRayImageStorageForPresentation,
)

from medeyes_monai.deploy.result import Grid
from medeyes_monai.errors import UnreadableImageError
from medeyes_monai.io.boundary import naming
from medeyes_monai.io.dicom import parse
from medeyes_monai.io.frames import Frame, frames_of
from medeyes_monai.io.limits import DEFAULT_MAX_VOXELS, RefusedError
from medeyes_monai.io.stacking import choose, stack, stacks_of

__all__ = ["Source", "headers_of", "read_source", "read_sources"]

PATIENT = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
)
STUDY = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "StudyDescription",
)
SERIES = (
    "SeriesInstanceUID",
    "SeriesNumber",
    "Modality",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Laterality",
    "BodyPartExamined",
)
INSTANCE = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "InstanceNumber",
    "ImageLaterality",
    "ImageType",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PresentationLUTShape",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationSequence",
)
MAY_BE_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
"""Tags that every object has to have, if only without a value; nothing is made up for them."""
MUST_BE = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "Modality")
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
RADIOGRAPHS = (
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalIntraOralXRayImageStorageForPresentation,
)
"""Images that are projections: their pixels have no place in the patient, and sizes in them are not true."""


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One series whose slices make a volume, or one radiograph, whose grid is one slice and not placed.

    Args:
        frames: In order along the normal; frame ``k`` is slice ``k`` of the grid.
        headers: What results need of the header of each frame's file, without pixels.
        grid: Where the slices lie.
    """

    frames: tuple[Frame, ...]
    headers: tuple[Dataset, ...]
    grid: Grid

    @property
    def paths(self) -> list[Path]:
        """The files, each once."""
        return list(dict.fromkeys(frame.path for frame in self.frames))

    @property
    def instances(self) -> list[Dataset]:
        """One header of each file, in the order of its first slice."""
        return list({id(header): header for header in self.headers}.values())

    @property
    def frame_of_reference(self) -> str:
        """Identifier of the coordinate system; empty for a radiograph."""
        return str(self.headers[0].FrameOfReferenceUID) if self.grid.placed else ""


def headers_of(path: Path, max_voxels: int = DEFAULT_MAX_VOXELS) -> Dataset:
    """Return what results need of a file's header; tags that may be empty are there.

    Raises:
        UnreadableImageError: If the file is damaged.
    """
    with naming(path, "DICOM"):
        header = parse(path, max_voxels, [*PATIENT, *STUDY, *SERIES, *INSTANCE], stop_before_pixels=True)
        for name in MAY_BE_EMPTY:
            if name not in header:
                setattr(header, name, None if name.endswith("Name") else "")
        return header


def read_sources(files: Sequence[Path], *, max_voxels: int = DEFAULT_MAX_VOXELS) -> list[Source]:
    """Return a series as one volume, or each of its radiographs.

    Args:
        files: DICOM files of one series.
        max_voxels: Most voxels.

    Raises:
        UnreadableImageError: As :func:`read_source`.
    """
    headers = [headers_of(path, max_voxels) for path in files]
    if not files or any(header.get("SOPClassUID") not in RADIOGRAPHS for header in headers):
        return [read_source(files, max_voxels=max_voxels)]
    return [_radiograph(path, header) for path, header in zip(files, headers, strict=True)]


def read_source(files: Sequence[Path], *, max_voxels: int = DEFAULT_MAX_VOXELS) -> Source:
    """Sort the files of one series into a volume.

    Args:
        files: DICOM files of one series; those without an image are passed over.
        max_voxels: Most voxels.

    Raises:
        UnreadableImageError: If slices make no volume, or tags are missing that results refer to: the message
            names them.
    """
    if not files:
        raise UnreadableImageError("a series needs at least one file")
    with naming(files[0].parent, "a series"):
        frames: list[Frame] = []
        headers: dict[Path, Dataset] = {}
        for path in files:
            header = headers_of(path, max_voxels)
            _check(header)
            headers[path] = header
            with naming(path, "DICOM"):
                frames += frames_of(path, max_voxels)
        if not frames:
            raise RefusedError("holds no image")
        chosen = stack(choose(stacks_of(frames), None))
        used = tuple(headers[frame.path] for frame in chosen.frames)
        _check_together(used)
        columns, rows = chosen.frames[0].size
        return Source(chosen.frames, used, Grid((columns, rows, len(chosen.frames)), chosen.affine))


def _radiograph(path: Path, header: Dataset) -> Source:
    with naming(path, "DICOM"):
        _check_references(header)
        size = (int(header.Columns), int(header.Rows))
        frame = Frame(path, 0, "", size, (1.0, 1.0), np.eye(3)[:2], np.zeros(3), 1.0, 1.0, 0.0)
        return Source((frame,), (header,), Grid((*size, 1), np.eye(4), placed=False))


def _check_references(header: Dataset) -> None:
    lacking = [name for name in MUST_BE if not header.get(name)]
    if lacking:
        raise RefusedError(f"holds an image without {', '.join(lacking)}, so that nothing can refer to it")


def _check(header: Dataset) -> None:
    _check_references(header)
    if UID(header.SOPClassUID).startswith(SECONDARY_CAPTURE):
        raise RefusedError(
            "is a secondary capture (a screenshot or scan of paper), whose pixels have no place in the "
            "patient; choose the series of the scanner"
        )
    if not header.get("FrameOfReferenceUID"):
        raise RefusedError("has no FrameOfReferenceUID, so that regions in it cannot be placed")


def _check_together(headers: Sequence[Dataset]) -> None:
    """Refuse slices that stack by chance: of two studies or two coordinate systems."""
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        if len({str(header.get(name)) for header in headers}) > 1:
            raise RefusedError(f"holds slices with different values of {name}; pass the files of one series")
