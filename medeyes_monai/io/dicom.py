"""MONAI's pydicom reader for one file: bounded, without patient data, with the geometry of a single slice."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from monai.data import PydicomReader
from monai.data.utils import orientation_ras_lps
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels import apply_color_lut
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from medeyes_monai.io.limits import SLACK_BYTES, RefusedError, check_size, only_path

__all__ = [
    "GEOMETRY_TAGS",
    "GROUP_TAGS",
    "PIXEL_TAGS",
    "DicomReader",
    "check_declared",
    "is_quantity",
    "mirror_of",
    "parse",
]

PIXEL_TAGS = [
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PlanarConfiguration",
    "PhotometricInterpretation",
    "RescaleSlope",
    "RescaleIntercept",
    "Modality",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "RedPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
]
GEOMETRY_TAGS = [
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SpacingBetweenSlices",
    "SliceThickness",
]
GROUP_TAGS = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
"""Where an enhanced multi-frame file says how its frames lie."""
TAGS = [*PIXEL_TAGS, *GEOMETRY_TAGS, *GROUP_TAGS]
"""All that is read from a file; patient data never reach memory as values."""
QUANTITIES = ("CT", "PT")
"""Modalities whose rescaled values are a quantity: Hounsfield units, activity."""


class DicomReader(PydicomReader):
    """Read one DICOM file: rescaled, upright, dark as low, colour as RGB.

    MONOCHROME1, low values shown bright, is inverted unless values are a quantity: see :func:`is_quantity`.
    Frames become the last spatial axis. Without an orientation (projection radiographs, ultrasound) the
    affine holds the pixel spacing alone.

    Args:
        max_voxels: Most values, channels and frames included.

    Attributes:
        placed: Whether the file last read says how its axes lie in the patient.
    """

    placed: bool

    def __init__(self, max_voxels: int) -> None:
        """Set the limit."""
        super().__init__()
        self.max_voxels = max_voxels

    def read(self, data: Sequence[str] | str, **kwargs: Any) -> pydicom.Dataset:
        """Read the tags that matter and check the declared size before any pixel is decoded."""
        path = only_path(data)
        self.filenames, self.has_series = [str(path)], False
        dataset = parse(path, self.max_voxels)
        if not {"Rows", "Columns", "BitsAllocated"} <= set(dataset.dir()):
            raise RefusedError("is DICOM without an image")
        check_declared(dataset, self.max_voxels)
        if _places_frames(dataset):
            raise RefusedError("is a volume of frames that each say where they lie; read_volume places them")
        self.placed = _says_its_place(dataset)
        self.channel_dim = -1 if dataset.get("SamplesPerPixel", 1) > 1 or _is_palette(dataset) else None
        return dataset

    def holds_slices(self, path: Path) -> bool:
        """Tell from the header whether a file holds frames, or one that is placed as a volume's are."""
        dataset = parse(path, self.max_voxels, stop_before_pixels=True)
        return int(dataset.get("NumberOfFrames", 1) or 1) > 1 or _places_frames(dataset)

    def _get_array_data(self, img: pydicom.Dataset, filename: str) -> npt.NDArray[Any]:
        """Return (rows, columns[, frames][, channels]), rescaled; pydicom makes RGB of YBR itself."""
        array: npt.NDArray[Any] = super()._get_array_data(img, filename)
        if _is_palette(img):
            coloured = apply_color_lut(img.pixel_array, img)
            array = (coloured >> 8).astype(np.uint8) if coloured.dtype == np.uint16 else coloured
        elif (mirror := mirror_of(img, *_rescaling(img))) is not None and not is_quantity(img):
            mirrored = mirror - array.astype(np.float32)
            array = mirrored.clip(0, 255).astype(np.uint8) if array.dtype == np.uint8 else mirrored
        frames = int(img.get("NumberOfFrames", 1) or 1)
        return np.moveaxis(array, 0, 2) if frames > 1 else array

    def _get_meta_dict(self, img: pydicom.Dataset) -> dict[str, Any]:
        """Return the affine alone."""
        return {"plane_affine": _plane_affine(img)}

    def _get_affine(self, metadata: dict[str, Any], lps_to_ras: bool = True) -> npt.NDArray[np.float64]:
        """Return the affine for (row, column, frame) indices in RAS+ millimetres."""
        affine: npt.NDArray[np.float64] = metadata.pop("plane_affine")
        return affine


def parse(
    path: Path, max_voxels: int, tags: Sequence[str] = TAGS, stop_before_pixels: bool = False
) -> pydicom.Dataset:
    """Parse some tags of a file; a deflated one is inflated here, to no more than it declares."""
    with path.open("rb") as file:
        read_preamble(file, force=False)
        meta = _read_file_meta_info(file)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            file.seek(0)
            return pydicom.dcmread(file, stop_before_pixels=stop_before_pixels, specific_tags=list(tags))
        packed = file.read()
    head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, SLACK_BYTES)
    declared = check_declared(_parse_plain(head, meta, tags, stop_before_pixels=True), max_voxels)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    whole = inflater.decompress(packed, declared + SLACK_BYTES)
    if not inflater.eof:
        raise RefusedError("is deflated, and truncated or far larger than the image that it declares")
    return _parse_plain(whole, meta, tags, stop_before_pixels)


def _parse_plain(
    body: bytes, meta: pydicom.dataset.FileMetaDataset, tags: Sequence[str], stop_before_pixels: bool
) -> pydicom.Dataset:
    dataset = pydicom.dcmread(
        io.BytesIO(body), force=True, specific_tags=list(tags), stop_before_pixels=stop_before_pixels
    )
    dataset.file_meta = meta
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def check_declared(dataset: pydicom.Dataset, max_voxels: int) -> int:
    """Return the bytes of the decoded pixels.

    Raises:
        RefusedError: If there are more than accepted.
    """
    channels = 3 if _is_palette(dataset) else int(dataset.get("SamplesPerPixel", 1))
    extent = (dataset.Rows, dataset.Columns, int(dataset.get("NumberOfFrames", 1) or 1), channels)
    return check_size(extent, -(-int(dataset.BitsAllocated) // 8), max_voxels)


def mirror_of(dataset: pydicom.Dataset, slope: float, intercept: float) -> float | None:
    """Return what a rescaled value and its inverse add up to under MONOCHROME1, None otherwise.

    Args:
        dataset: The file.
        slope: Factor of stored values.
        intercept: Added after the factor.

    Example:
        >>> radiograph = pydicom.Dataset()
        >>> radiograph.PhotometricInterpretation, radiograph.BitsStored = "MONOCHROME1", 8
        >>> mirror_of(radiograph, 1.0, 0.0)  # 255 becomes 0
        255.0
    """
    if dataset.get("PhotometricInterpretation") != "MONOCHROME1":
        return None
    ends = -1 if dataset.get("PixelRepresentation", 0) else 2 ** int(dataset.BitsStored) - 1
    return slope * ends + 2 * intercept


def is_quantity(dataset: pydicom.Dataset) -> bool:
    """Tell whether rescaled values are Hounsfield units or the like.

    MONOCHROME1 tells how such are shown and does not change what they are (PS3.3, C.7.6.3.1.2 and C.11.1).
    """
    return dataset.get("Modality") in QUANTITIES


def _rescaling(dataset: pydicom.Dataset) -> tuple[float, float]:
    return float(dataset.get("RescaleSlope", 1.0)), float(dataset.get("RescaleIntercept", 0.0))


def _places_frames(dataset: pydicom.Dataset) -> bool:
    groups = [items[0] for name in GROUP_TAGS if (items := dataset.get(name))]
    return any("PlaneOrientationSequence" in group for group in groups)


def _says_its_place(dataset: pydicom.Dataset) -> bool:
    return "ImageOrientationPatient" in dataset and "ImagePositionPatient" in dataset


def _is_palette(dataset: pydicom.Dataset) -> bool:
    return str(dataset.get("PhotometricInterpretation", "")) == "PALETTE COLOR"


def _plane_affine(img: pydicom.Dataset) -> npt.NDArray[np.float64]:
    """Return the RAS+ affine of (row, column, frame) indices, the frame axis along the normal of the plane.

    MONAI takes the third column of a single slice to be (0, 0, 1), which is singular for sagittal slices.
    """
    down, across = (float(v) for v in img.get("PixelSpacing") or img.get("ImagerPixelSpacing") or (1, 1))
    depth = abs(float(img.get("SpacingBetweenSlices") or img.get("SliceThickness") or 1.0))
    affine: npt.NDArray[np.float64] = np.eye(4)
    if not _says_its_place(img):
        affine[:3, :3] = np.array([[0, across, 0], [down, 0, 0], [0, 0, depth]])
        return affine
    along_row, along_column = np.asarray(img.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    affine[:3, 0], affine[:3, 1] = along_column * down, along_row * across
    affine[:3, 2] = np.cross(along_row, along_column) * depth
    affine[:3, 3] = np.asarray(img.ImagePositionPatient, dtype=np.float64)
    return np.asarray(orientation_ras_lps(affine), dtype=np.float64)
