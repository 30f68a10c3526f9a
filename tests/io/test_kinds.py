"""Whether a file is a picture or a volume is told by its header, once."""

import nibabel
import nrrd
import numpy as np
import pytest
import torch
from dicom_series import enhanced, save, series, slice_dataset
from monai.data import ImageReader
from PIL import Image

from medeyes_monai.errors import UnreadableImageError
from medeyes_monai.io import read_any, read_image, read_volume
from medeyes_monai.io.nifti import NiftiReader
from medeyes_monai.io.nrrds import PlainNrrdReader

VOXELS = np.random.default_rng(0).integers(-1000, 2000, (7, 6, 5), dtype=np.int16)
SPACE = {"space": "RAS", "space directions": np.eye(3), "space origin": np.zeros(3)}


def test_folders_and_files_of_several_slices_are_volumes(tmp_path):
    save(tmp_path / "folder", series(VOXELS))
    save(tmp_path, [enhanced(series(VOXELS))], ["frames.dcm"])
    save(tmp_path, [enhanced(series(VOXELS[..., :1]))], ["one frame.dcm"])
    nibabel.save(nibabel.Nifti1Image(VOXELS, np.eye(4)), tmp_path / "a.nii.gz")
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS, SPACE)
    for name in ("folder", "frames.dcm", "one frame.dcm", "a.nii.gz", "a.nrrd"):
        volume, expected = read_any(tmp_path / name), read_volume(tmp_path / name)
        assert torch.equal(volume.as_tensor(), expected.as_tensor())
        assert torch.equal(volume.affine, expected.affine)


def test_single_slices_are_pictures(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    save(tmp_path, series(VOXELS[..., :1]), ["a.dcm"])
    nibabel.save(nibabel.Nifti1Image(VOXELS[..., :1], np.eye(4)), tmp_path / "a.nii")
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS[..., 0], {"spacings": [2.0, 3.0]})
    for name in ("a.png", "a.dcm", "a.nii", "a.nrrd"):
        assert torch.equal(read_any(tmp_path / name).as_tensor(), read_image(tmp_path / name).as_tensor())


@pytest.mark.parametrize(("name", "reader"), [("a.nii", NiftiReader), ("a.nrrd", PlainNrrdReader)])
def test_a_volume_is_decoded_once(tmp_path, monkeypatch, name, reader):
    nibabel.save(nibabel.Nifti1Image(VOXELS, np.eye(4)), tmp_path / "a.nii")
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS, SPACE)
    decoded, read = [], reader.read

    def counted(self: ImageReader, data: object) -> object:
        decoded.append(data)
        return read(self, data)

    monkeypatch.setattr(reader, "read", counted)
    read_any(tmp_path / name)
    assert len(decoded) == 1


def test_arguments_reach_the_reader_of_volumes(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.stack([VOXELS, VOXELS + 1], -1), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UnreadableImageError, match="frame=0 to 1"):
        read_any(tmp_path / "a.nii")
    assert np.array_equal(read_any(tmp_path / "a.nii", frame=1)[0].numpy(), VOXELS + 1)
    with pytest.raises(UnreadableImageError, match="raise max_voxels"):
        read_any(tmp_path / "a.nii", frame=1, max_voxels=100)


def test_what_is_neither_is_told_with_its_name(tmp_path):
    save(tmp_path, [slice_dataset(np.zeros((3, 4, 4), np.int16), (0, 0, 0), NumberOfFrames=3)], ["cine.dcm"])
    (tmp_path / "half.nrrd").write_bytes(b"NRRD0004\ntype: int16\n")
    for name, words in (
        ("absent.nii", "no such file"),
        ("cine.dcm", "do not say where they lie"),
        ("half.nrrd", "cannot be read as Nrrd"),
    ):
        with pytest.raises(UnreadableImageError, match=rf"{name}: .*{words}"):
            read_any(tmp_path / name)
