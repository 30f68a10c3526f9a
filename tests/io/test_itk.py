"""ITK beside pydicom, in a process of its own: ITK's modules end a process in which warnings are errors."""

import subprocess
import sys

import numpy as np
import pytest
from dicom_series import save, series
from pydicom.data import get_testdata_file

from medeyes_monai.io import read_volume

PROGRAM = """
import sys, numpy
from monai.data import ITKReader
from medeyes_monai.io import read_volume
folder, out, *compressed = sys.argv[1:]
reader = ITKReader()
array, meta = reader.get_data(reader.read(folder))
paths = {"folder": folder} | {f"v{k}": name for k, name in enumerate(compressed)}
volumes = {key: read_volume(path, decoder="itk").numpy() for key, path in paths.items()}
numpy.savez(out, array=array, affine=meta["affine"], **volumes)
"""
INVERTED = ("CT", "DX")
"""Modalities of a series in MONOCHROME1, of which the second is shown, and the first is a quantity."""
COMPRESSED = ("MR_small_jpeg_ls_lossless.dcm", "MR_small_jp2klossless.dcm")
VOXELS = np.random.default_rng(0).integers(-1000, 2000, (7, 6, 5), dtype=np.int16)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A series, and what ITK makes of it and of compressed slices."""
    root = tmp_path_factory.mktemp("itk")
    axes = ((0, 1, 0), (0, 0, -1))
    slices = series(
        VOXELS, spacing=(2, 3, 4), axes=axes, origin=(1, 2, 3), RescaleSlope=1, RescaleIntercept=-24
    )
    folder = save(root / "s", slices)
    names = [get_testdata_file(name) for name in COMPRESSED]
    for modality in INVERTED:
        values = {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": 2, "RescaleIntercept": 5}
        names.append(str(save(root / modality, series(VOXELS, Modality=modality, **values))))
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder), str(root / "out.npz"), *names]
    subprocess.run(command, check=True, capture_output=True, timeout=300)  # noqa: S603
    return folder, np.load(root / "out.npz")


def test_monai_s_itk_reader_sees_the_same_numbers_at_the_same_places(read):
    folder, of_itk = read
    volume = read_volume(folder)
    for index in np.ndindex(of_itk["array"].shape):
        x, y, z = np.rint(np.linalg.inv(volume.affine.numpy()) @ of_itk["affine"] @ (*index, 1))[:3].astype(
            int
        )
        assert volume[0, x, y, z] == of_itk["array"][index]


def test_itk_as_decoder_gives_the_same_volume(read):
    folder, of_itk = read
    assert np.array_equal(read_volume(folder).numpy(), of_itk["folder"])
    plain = read_volume(get_testdata_file("MR_small.dcm")).numpy()
    for k in range(len(COMPRESSED)):
        assert np.array_equal(of_itk[f"v{k}"], plain)


def test_itk_and_pydicom_invert_the_same_values(read):
    folder, of_itk = read
    for k, modality in enumerate(INVERTED, len(COMPRESSED)):
        assert np.array_equal(of_itk[f"v{k}"], read_volume(folder.parent / modality).numpy())
