"""Studies that stay on disk: read slab by slab, they look and are searched like those in memory."""

from functools import partial

import nibabel
import numpy as np
import pytest
import torch
from dicom_series import enhanced, save, series
from searched import BRIGHT, QUESTION, Counting, ball

from medeyes_monai.errors import ConfigError, GeometryError, UnreadableImageError
from medeyes_monai.experts import BlobExpert
from medeyes_monai.geometry import Box
from medeyes_monai.inferers import FocusInferer
from medeyes_monai.io import open_volume, read_volume
from medeyes_monai.navigator import Navigator
from medeyes_monai.scenes import StreamedScene, VolumeScene


class Recorder:
    """A source that remembers how many slices it was asked for at once."""

    def __init__(self, source):
        self.source, self.shape, self.affine, self.most = source, source.shape, source.affine, 0

    def read(self, start, stop):
        self.most = max(self.most, stop - start)
        return self.source.read(start, stop)


@pytest.fixture(params=["nifti", "dicom"])
def on_disk(request, tmp_path):
    """A study on disk, and the same read as a whole."""
    volume, _ = ball(shape=(48, 40, 80), box=((30, 10, 40), (38, 18, 46)))
    voxels = volume[0].numpy()
    if request.param == "nifti":
        affine = np.array([[-1.0, 0, 0, 9], [0, 1, 0, -20], [0, 0, -2, 30], [0, 0, 0, 1]])
        path = tmp_path / "a.nii"
        nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
        return path
    return save(tmp_path / "series", series(voxels, spacing=(1.0, 1.0, 2.0)))


def test_a_study_on_disk_looks_and_is_searched_like_one_in_memory(on_disk):
    source = Recorder(open_volume(on_disk))
    settings = {"window": (-400, 1200), "min_extent": 8, "slabs": 8}
    whole = VolumeScene(read_volume(on_disk), key="a", **settings)
    streamed = StreamedScene(source, key="a", **settings)
    assert (streamed.shape, streamed.frame) == (whole.shape, whole.frame)
    assert np.array_equal(streamed.overview().pixels, whole.overview().pixels)
    for box in (Box((2, 3, 30), (20, 20, 50)), Box((0, 0, 79), (48, 40, 80)), Box((5, 5, 0), (9, 9, 3))):
        assert np.array_equal(streamed.look(box).pixels, whole.look(box).pixels)
        assert streamed.look(box).box == whole.look(box).box
        assert streamed.to_world(box) == whole.to_world(box)
        assert torch.equal(streamed.part(box).image.as_tensor(), whole.part(box).image.as_tensor())
        assert torch.allclose(streamed.part(box).image.affine, whole.part(box).image.affine)
    source.most = 0
    infer = partial(FocusInferer, max_looks=2, slab_mm=16, navigator=partial(Navigator, min_extent=4))
    one, other = (infer(Counting())(scene, question=QUESTION) for scene in (streamed, whole))
    assert one.trajectory == other.trajectory
    assert one.boxes
    assert [place.centre_mm for place in one.places] == [place.centre_mm for place in other.places]
    assert 0 < source.most <= 16
    (place,) = FocusInferer(BlobExpert(min_extent=8), slab_mm=60, max_looks=1)(
        streamed, question=QUESTION
    ).places
    assert whole.image[0][place.box.slices].max() == BRIGHT  # by an expert that reads voxels to judge
    assert source.most <= 60


def test_what_cannot_be_read_in_slabs_is_told(tmp_path):
    voxels = np.zeros((9, 9, 9), np.int16)
    sagittal = np.array([[0, 0, 1.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    for name, affine, words in (
        ("a.nii", sagittal, "slices that are not axial"),
        ("b.nii.gz", np.eye(4), "unpack it first"),
    ):
        nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / name)
        with pytest.raises(UnreadableImageError, match=words):
            open_volume(tmp_path / name)
    save(tmp_path, [enhanced(series(voxels))], ["e.dcm"])
    with pytest.raises(UnreadableImageError, match="read it as a whole, by read_volume"):
        open_volume(tmp_path / "e.dcm")
    with pytest.raises(UnreadableImageError, match="no such file"):
        open_volume(tmp_path / "c.nii")
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "d.nii")
    source = open_volume(tmp_path / "d.nii")
    with pytest.raises(ConfigError, match="needs a window"):
        StreamedScene(source, key="a", window=None)
    with pytest.raises(GeometryError, match="slices lie between 0 and 9"):
        source.read(5, 12)


@pytest.mark.parametrize("scaling", [(1, -1024), (0.5, 0)])
def test_slabs_of_scaled_values_are_those_of_the_whole(tmp_path, scaling):
    volume, _ = ball(shape=(9, 8, 7), box=((3, 3, 3), (6, 6, 5)))
    image = nibabel.Nifti1Image(volume[0].numpy(), np.eye(4))
    image.header.set_slope_inter(*scaling)
    image.to_filename(tmp_path / "a.nii")
    whole, source = read_volume(tmp_path / "a.nii"), open_volume(tmp_path / "a.nii")
    assert source.read(2, 5).dtype == whole.dtype
    assert torch.equal(source.read(2, 5).as_tensor(), whole[..., 2:5].as_tensor())


def test_a_corrupt_slice_in_the_middle_names_its_file(tmp_path):
    volume, _ = ball(shape=(24, 20, 9), box=((3, 3, 3), (9, 9, 6)))
    folder = save(tmp_path / "series", series(volume[0].numpy()))
    source = open_volume(folder)
    (folder / "004.dcm").write_bytes((folder / "004.dcm").read_bytes()[:-500])
    source.read(0, 4)
    with pytest.raises(UnreadableImageError, match=r"004\.dcm"):
        source.read(3, 6)
