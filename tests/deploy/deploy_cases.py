"""Small DICOM studies in varied orientation, and results about them."""

from pathlib import Path

import numpy as np
import pydicom
from dicom_series import save, series
from pydicom.uid import DigitalXRayImageStorageForPresentation, generate_uid
from scipy.spatial.transform import Rotation

from medeyes_monai.deploy.result import FocusResult, Grid, Look, mask_of
from medeyes_monai.deploy.source import Source, read_source
from medeyes_monai.geometry import Box

ROWS = np.eye(3)


def study(folder: Path, *, shape=(12, 10, 6), seed: int = 0, axes=ROWS[:2], **values: object) -> Path:
    """A CT series of noise; what is not said is made up, without a patient's identity."""
    generator = np.random.default_rng(seed)
    made_up = {
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "Modality": "CT",
        "PatientName": "",
        "PatientID": "case",
        "StudyDate": "20200101",
        "StudyTime": "101112",
        "StudyID": "1",
    }
    voxels = generator.integers(-1000, 1000, shape).astype(np.int16)
    place = {
        "spacing": generator.uniform(0.4, 3.0, 3).round(3),
        "origin": generator.uniform(-300, 300, 3).round(2),
    }
    place |= {name: values.pop(name) for name in ("spacing", "origin") if name in values}
    slices = series(voxels, axes=axes, **place, **(made_up | values))
    for number, one in enumerate(slices, start=1):
        one.InstanceNumber = one.get("InstanceNumber", number)
    return save(folder, slices)


def radiograph(folder: Path, **values: object) -> Path:
    """A chest radiograph of noise."""
    study(folder, shape=(40, 30, 1), Modality="DX", BodyPartExamined="CHEST", **values)
    (file,) = folder.iterdir()
    data = pydicom.dcmread(file)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
        delattr(data, name)
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    data.save_as(file)
    return file


def turned(seed: int) -> np.ndarray:
    """Axes along a row and down a column: the 24 right-angled ones first, then oblique ones."""
    right_angled = Rotation.create_group("O")
    if seed < len(right_angled):
        return np.rint(right_angled[seed].as_matrix()[:2]) + 0.0
    return Rotation.random(rng=np.random.default_rng(seed)).as_matrix()[:2]


def source_of(folder: Path) -> Source:
    """The series of a folder."""
    return read_source(sorted(folder.iterdir()))


def random_box(shape, seed: int, *, planar: bool) -> Box:
    """A box inside a grid."""
    generator = np.random.default_rng((seed, planar))
    start = [int(generator.integers(0, n - 1)) for n in shape]
    stop = [int(generator.integers(a + 1, n + 1)) for a, n in zip(start, shape, strict=True)]
    if planar:
        stop[2] = start[2] + 1
    else:
        start[2], stop[2] = min(start[2], shape[2] - 2), max(stop[2], start[2] + 2)
    return Box(tuple(start), tuple(stop))


def result_about(grid: Grid, *boxes: Box, **values: object) -> FocusResult:
    """A result with looks at some boxes, the last of which is the focus."""
    said = {"name": "kind", "question": "Which kind is it?", "answer": "solid", "confidence": 0.75}
    picture = np.full((64, 96, 3), 90, np.uint8)
    return FocusResult(
        grid=grid,
        looks=tuple(Look(box, "there") for box in boxes),
        focus=mask_of(boxes[-1], grid) if boxes else None,
        **({"pictures": (picture,) * (1 + len(boxes))} | said | values),
    )
