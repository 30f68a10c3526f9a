"""Small DICOM series made for tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

PATIENT = "Somebody^Known"
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
"""Along a row and down a column, LPS."""


def slice_dataset(pixels: np.ndarray, position: Sequence[float], **values: object) -> Dataset:
    """One slice; ``pixels`` are (rows, columns), the position is LPS."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = Dataset()
    data.file_meta, data.SOPClassUID = meta, CTImageStorage
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.PatientName, data.SeriesInstanceUID = PATIENT, "1.2.3"
    data.Rows, data.Columns = pixels.shape[-2:]
    data.BitsAllocated = data.BitsStored = pixels.dtype.itemsize * 8
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(pixels.dtype.kind == "i")
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.PixelSpacing, data.SliceThickness = [1.0, 1.0], 1.0
    data.ImageOrientationPatient = [v for axis in AXIAL for v in axis]
    data.ImagePositionPatient = [float(v) for v in position]
    data.PixelData = pixels.tobytes()
    for name, value in values.items():
        setattr(data, name, value)
    return data


def series(
    voxels: np.ndarray,
    *,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    axes: Sequence[Sequence[float]] = AXIAL,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    step: Sequence[float] | None = None,
    **values: object,
) -> list[Dataset]:
    """The slices of ``voxels`` (columns, rows, slices), along the normal or along a step in millimetres."""
    along = np.cross(*axes) * spacing[2] if step is None else np.asarray(step)
    return [
        slice_dataset(
            voxels[:, :, k].T.copy(),
            np.asarray(origin) + k * along,
            PixelSpacing=[float(spacing[1]), float(spacing[0])],
            ImageOrientationPatient=[float(v) for axis in axes for v in axis],
            **values,
        )
        for k in range(voxels.shape[2])
    ]


def save(folder: Path, slices: Sequence[Dataset], names: Sequence[str] | None = None) -> Path:
    """Write slices into a folder."""
    folder.mkdir(exist_ok=True)
    for k, one in enumerate(slices):
        one.save_as(folder / (names[k] if names else f"{k:03d}.dcm"), enforce_file_format=True)
    return folder


def enhanced(slices: Sequence[Dataset]) -> Dataset:
    """The same slices as frames of one file: shared orientation and spacing, a place and rescaling each."""
    whole = slice_dataset(np.stack([one.pixel_array for one in slices]), (0, 0, 0))
    whole.NumberOfFrames = len(slices)
    whole.file_meta.MediaStorageSOPClassUID = whole.SOPClassUID = EnhancedCTImageStorage
    orientation, measures = slices[0].ImageOrientationPatient, slices[0].PixelSpacing
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(whole, name)
    whole.SharedFunctionalGroupsSequence = _item(
        PlaneOrientationSequence=_item(ImageOrientationPatient=orientation),
        PixelMeasuresSequence=_item(PixelSpacing=measures, SliceThickness=1.0),
    )
    whole.PerFrameFunctionalGroupsSequence = Items(
        [
            _item(
                PlanePositionSequence=_item(ImagePositionPatient=one.ImagePositionPatient),
                PixelValueTransformationSequence=_item(
                    RescaleSlope=one.get("RescaleSlope", 1), RescaleIntercept=one.get("RescaleIntercept", 0)
                ),
            )[0]
            for one in slices
        ]
    )
    return whole


def _item(**values: object) -> Items:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Items([item])
