"""Small DICOM studies in varied orientation, results about them, and what others say of these."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_series import save, series
from monai.bundle import ConfigWorkflow
from pydicom.uid import DigitalXRayImageStorageForPresentation, generate_uid
from scipy.spatial.transform import Rotation

from medeyes_monai.data.phantom import PhantomVQA
from medeyes_monai.deploy.result import FocusResult, Grid, Look
from medeyes_monai.deploy.source import Source, read_source
from medeyes_monai.geometry import Box

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundle"
ASKED = "Which kind is the lesion?"
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


def focus_of(result: FocusResult) -> np.ndarray:
    """The voxels of the final focus, ``bool (columns, rows, slices)``."""
    mask = np.zeros(result.grid.shape, np.bool_)
    for box in result.focused:
        mask[box.slices] = True
    return mask


def result_about(grid: Grid, *boxes: Box, **values: object) -> FocusResult:
    """A result with looks at some boxes, the last of which is the focus."""
    said = {"name": "kind", "question": "Which kind is it?", "answer": "solid", "confidence": 0.75}
    picture = np.full((64, 96, 3), 90, np.uint8)
    return FocusResult(
        grid=grid,
        looks=tuple(Look(box, "there") for box in boxes),
        **({"pictures": (picture,) * (1 + len(boxes))} | said | values),
    )


def phantoms(folder: Path, *, number=3, **values: object) -> Path:
    """A series whose slices are pictures of the benchmark."""
    cases = PhantomVQA("val", size=number)
    voxels = np.stack([np.asarray(cases[i].scene.image)[0] for i in range(number)], axis=-1)
    identity = {
        "StudyInstanceUID": "1.2.3.1",
        "SeriesInstanceUID": "1.2.3.2",
        "FrameOfReferenceUID": "1.2.3.3",
        "Modality": "CT",
        "PatientID": "a",
    }
    slices = series(voxels, spacing=(0.5, 0.5, 2.0), **(identity | values))
    return save(folder, slices)


def answers_of_bundle(folder: Path, output: Path, *overlays: Path) -> list[dict]:
    """What ``python -m monai.bundle run inference`` says of a folder: answers and looks."""
    files = [BUNDLE / "configs" / "inference.yaml", *overlays]
    workflow = ConfigWorkflow(
        config_file=[str(file) for file in files],
        workflow_type="infer",
        run_id="inference",
        logging_file=False,
        bundle_root=str(BUNDLE),
        device="cpu",
        image_path=str(folder),
        question=ASKED,
        output_dir=str(output),
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    said = json.loads((output / "answers.json").read_text("utf-8"))
    return [{key: one[key] for key in ("answer", "looks")} for one in said]


def plainly(results: list[FocusResult]) -> list[dict]:
    """Results about slices, in the form of :func:`answers_of_bundle`."""
    return [
        {
            "answer": result.answer,
            "looks": [
                {"box": [*look.box.start[:2], *look.box.stop[:2]], "reasoning": look.reasoning}
                for look in result.looks
            ],
        }
        for result in results
    ]


TOOLS = {"dcmdump": ["-q"], "dciodvfy": [], "dsrdump": []}
"""Tools of others (Debian: dcmtk, dicom3tools); absent ones are left out, and a skipped test says so."""


def is_clean(file: Path) -> bool:
    """Whether the tools of others that are there read a file and find no error in it."""
    for tool, options in TOOLS.items():
        if shutil.which(tool) is None or (tool == "dsrdump" and file.stem != "sr"):
            continue
        done = subprocess.run([tool, *options, str(file)], capture_output=True, text=True)  # noqa: S603
        said = done.stdout + done.stderr
        lines = [line for line in said.splitlines() if line.startswith(("Error", "E:"))]
        if done.returncode or lines:
            pytest.fail(f"{tool} on {file.name}: {lines or said[:500]}")
    return True
