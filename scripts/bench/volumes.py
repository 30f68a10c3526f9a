"""A series of slices written to a folder, and what reading it and looking at it cost in a fresh process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.process import MEBIBYTE, memory_peak

SIDE = 512
LOOKS = 4
PATCH, OVERVIEW_PIXELS, LOOK_PIXELS = 28, 896 * 896, 448 * 448
"""The grid of Qwen2.5-VL, and budgets of 1,024 and 256 of its tokens."""
SLICE_MM = 1.25


def write_series(folder: Path, slices: int, side: int = SIDE) -> None:
    """Write a CT-like DICOM series: noise in the range of a CT, its first voxel the number of the slice."""
    import numpy as np
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 4096, (side, side), dtype=np.int16)
    series = generate_uid(entropy_srcs=["bench"])
    for number in range(slices):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["bench", str(number)])
        data = Dataset()
        data.file_meta, data.SOPClassUID, data.SeriesInstanceUID = meta, CTImageStorage, series
        data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        data.Rows = data.Columns = side
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.PixelSpacing, data.SliceThickness = [0.7, 0.7], SLICE_MM
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [0, 0, number * SLICE_MM]
        data.RescaleSlope, data.RescaleIntercept = 1, -1024
        pixels = np.roll(noise, number, axis=1)
        pixels[0, 0] = number
        data.PixelData = pixels.tobytes()
        data.save_as(folder / f"{number:04d}.dcm", enforce_file_format=True)


def volume_child(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Read a series, make the overview and look a few times; times in seconds, memory in GiB."""
    from medeyes_monai.geometry import Box
    from medeyes_monai.io import read_volume
    from medeyes_monai.scenes import VolumeScene

    volume, read = _timed(lambda: read_volume(arguments["folder"]))
    x, y, z = volume.shape[1:]
    scene, made = _timed(
        lambda: VolumeScene(
            volume,
            key="bench",
            window="chest",
            patch=PATCH,
            overview_pixels=OVERVIEW_PIXELS,
            look_pixels=LOOK_PIXELS,
        )
    )
    _, overview = _timed(scene.overview)
    depth = min(z, 40)
    boxes = [
        Box((k * x // 8, y // 4, z // 2), (k * x // 8 + 100, y // 4 + 100, z // 2 + depth))
        for k in range(LOOKS)
    ]
    _, looks = _timed(lambda: [scene.look(box) for box in boxes])
    marks = volume[0, x - 1, y - 1, :].int() + 1024  # RAS begins where the slices end
    return {
        "read": read,
        "scene": made,
        "overview": overview,
        "looks": looks,
        "memory": memory_peak() * MEBIBYTE / 2**30,
        "misplaced": int((marks != marks.new_tensor(range(z))).sum()),
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start
