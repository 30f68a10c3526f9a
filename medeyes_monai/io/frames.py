"""Where each slice of a DICOM file lies: one record per frame, without patient data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import UID

from medeyes_monai.io.dicom import (
    GEOMETRY_TAGS,
    GROUP_TAGS,
    PIXEL_TAGS,
    check_declared,
    is_quantity,
    mirror_of,
    parse,
)
from medeyes_monai.io.limits import RefusedError

__all__ = ["VOLUME_TAGS", "Frame", "Vector", "frames_of"]

Vector = npt.NDArray[np.float64]

SHARED, PER_FRAME = GROUP_TAGS
VOLUME_TAGS = [*PIXEL_TAGS, *GEOMETRY_TAGS, *GROUP_TAGS, "SeriesInstanceUID"]
"""All that is read of a file of a series; of the series' identifier, only a digest is kept."""

SOURCES = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
"""Where an enhanced multi-frame file keeps what a plain one has at its top level."""
SQUARE = 1e-3
"""Rows and columns of a slice have unit length and are at right angles, up to this."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One slice of a series.

    Args:
        path: The file that holds it.
        number: Which frame of that file.
        series: Digest of the series' identifier.
        size: Columns and rows.
        spacing_mm: Between columns, and between rows.
        axes: Unit vectors along a row and down a column, ``(2, 3)``, LPS.
        position: Centre of the first pixel, LPS. Unit: millimetres.
        depth_mm: Spacing or thickness of slices as declared; used only where there is one slice.
        slope: Factor of stored values.
        intercept: Added after the factor.
        mirror: What a value and its inverse add up to if it is MONOCHROME1, else None.
        is_quantity: Whether values are Hounsfield units or the like, and so are not to be inverted.
    """

    path: Path
    number: int
    series: str
    size: tuple[int, int]
    spacing_mm: tuple[float, float]
    axes: Vector
    position: Vector
    depth_mm: float
    slope: float
    intercept: float
    mirror: float | None = None
    is_quantity: bool = False

    @property
    def normal(self) -> Vector:
        """Unit vector through the slice, LPS."""
        return np.asarray(np.cross(self.axes[0], self.axes[1]), dtype=np.float64)


def frames_of(path: Path, max_voxels: int) -> list[Frame]:
    """Return the frames of a file; none if it is DICOM without an image.

    Raises:
        RefusedError: If it is in colour, cut short, or does not say where its frames lie.
    """
    dataset = parse(path, max_voxels, VOLUME_TAGS, stop_before_pixels=True)
    if not {"Rows", "Columns", "BitsAllocated"} <= set(dataset.dir()):
        _refuse_images(dataset)
        return []
    check_declared(dataset, max_voxels)
    if str(dataset.get("PhotometricInterpretation", "")) not in ("MONOCHROME1", "MONOCHROME2"):
        raise RefusedError("is in colour; a volume has one value for each voxel")
    digest = hashlib.blake2b(str(dataset.get("SeriesInstanceUID", "")).encode(), digest_size=8).hexdigest()
    return [_frame(path, number, digest, dataset, tags) for number, tags in enumerate(_tags(dataset))]


def _refuse_images(dataset: pydicom.Dataset) -> None:
    """Refuse a file without pixels that says it is an image; others are reports and the like."""
    kind = UID(str(dataset.file_meta.get("MediaStorageSOPClassUID", "")))
    if not kind.name or "Image Storage" in kind.name:
        raise RefusedError("is damaged: it says that it is an image, and lacks its size")


def _tags(dataset: pydicom.Dataset) -> Iterator[dict[str, Any]]:
    """Yield geometry and rescaling of each frame."""
    top = {name: dataset.get(name) for name in SOURCES}
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    own = dataset.get(PER_FRAME)
    if not own:
        if count > 1:
            raise RefusedError("has several frames that do not say where they lie; save one file per slice")
        yield top
        return
    if len(own) != count:
        raise RefusedError(f"declares {count} frames and describes {len(own)}")
    shared = _grouped((dataset.get(SHARED) or [None])[0])
    for groups in own:
        yield top | shared | _grouped(groups)


def _grouped(groups: pydicom.Dataset | None) -> dict[str, Any]:
    """Return what the functional groups of one frame, or of all, say."""
    found = {}
    for name, sequence in SOURCES.items():
        items = groups.get(sequence) if groups is not None else None
        if items and items[0].get(name) is not None:
            found[name] = items[0].get(name)
    return found


def _frame(path: Path, number: int, series: str, dataset: pydicom.Dataset, tags: dict[str, Any]) -> Frame:
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        if not tags[name]:
            raise RefusedError(
                f"has no {name}, so that its place is unknown; read_image reads single pictures"
            )
    down, across = _numbers(tags, "PixelSpacing", 2)
    axes = _numbers(tags, "ImageOrientationPatient", 6).reshape(2, 3)
    if min(down, across) <= 0 or np.abs(axes @ axes.T - np.eye(2)).max() > SQUARE:
        raise RefusedError("has pixels of no size, or an orientation whose axes are not at right angles")
    slope, intercept = _number(tags, "RescaleSlope", 1.0), _number(tags, "RescaleIntercept", 0.0)
    if slope == 0:
        raise RefusedError("has a RescaleSlope of 0, which makes all values equal")
    depth = tags["SpacingBetweenSlices"] or tags["SliceThickness"] or 1.0
    return Frame(
        path=path,
        number=number,
        series=series,
        size=(int(dataset.Columns), int(dataset.Rows)),
        spacing_mm=(float(across), float(down)),
        axes=axes,
        position=_numbers(tags, "ImagePositionPatient", 3),
        depth_mm=abs(float(depth)),
        slope=slope,
        intercept=intercept,
        mirror=mirror_of(dataset, slope, intercept),
        is_quantity=is_quantity(dataset),
    )


def _numbers(tags: dict[str, Any], name: str, count: int) -> Vector:
    values = np.asarray(tags[name], dtype=np.float64).ravel()
    if values.shape != (count,) or not np.isfinite(values).all():
        raise RefusedError(f"has a {name} that is not {count} finite numbers")
    return values


def _number(tags: dict[str, Any], name: str, default: float) -> float:
    value = default if tags[name] is None else float(tags[name])
    if not np.isfinite(value):
        raise RefusedError(f"has a {name} that is not finite")
    return value
