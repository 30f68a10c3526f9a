"""A study that stays on disk shows what one in memory does: other windows, single slices, whole planes."""

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.io import open_volume, read_volume
from medeyes_monai.scenes import StreamedScene, VolumeScene
from medeyes_monai.tools import Measure, Window
from medeyes_monai.trajectory import ToolCall

SETTINGS = {"window": (-400, 1200), "min_extent": 8, "slabs": 4}


class Recorder:
    """A source that remembers how many slices it was asked for at once."""

    def __init__(self, source):
        self.source, self.shape, self.affine, self.most = source, source.shape, source.affine, 0

    def read(self, start, stop):
        self.most = max(self.most, stop - start)
        return self.source.read(start, stop)


@pytest.fixture
def both(tmp_path):
    """A noisy study with axes of its own, on disk and in memory."""
    noise = np.random.default_rng(0).integers(-1000, 400, (32, 40, 50), dtype=np.int16)
    affine = np.array([[-0.8, 0, 0, 9], [0, 0.8, 0, -20], [0, 0, -2.5, 30], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(noise, affine), tmp_path / "a.nii")
    whole = VolumeScene(read_volume(tmp_path / "a.nii"), key="a", **SETTINGS)
    return StreamedScene(Recorder(open_volume(tmp_path / "a.nii")), key="a", **SETTINGS), whole


@pytest.mark.parametrize("box", [Box((3, 30, 17), (4, 31, 18)), Box((2, 3, 10), (30, 9, 45))])
def test_the_planes_of_a_study_on_disk_are_those_of_one_in_memory(both, box):
    streamed, _ = both
    streamed._source.most = 0
    (pixels, sheet), (wanted, as_wanted) = (scene.planes(box, 90) for scene in both)
    assert sheet == as_wanted
    assert np.array_equal(pixels, wanted)
    assert streamed._source.most <= 16
    with pytest.raises(GeometryError, match="not inside"):
        streamed.planes(Box((0, 0, 0), (1, 1, 99)), 90)


def test_a_window_is_changed_as_that_of_a_volume_in_memory(both):
    streamed, _ = both
    box, before = Box((4, 4, 20), (20, 20, 36)), streamed.overview().pixels
    call = ToolCall("Window", values=(("centre", -700), ("width", 300)))
    (shown, wanted) = (Window().use(call, scene) for scene in both)
    assert shown.reply == wanted.reply == "centre -700, width 300"
    assert np.array_equal(shown.scene.look(box).pixels, wanted.scene.look(box).pixels)
    assert np.array_equal(shown.scene.overview().pixels, wanted.scene.overview().pixels)
    parts = [outcome.scene.part(box).overview().pixels for outcome in (shown, wanted)]
    assert np.array_equal(*parts)
    assert np.array_equal(streamed.overview().pixels, before)
    assert not np.array_equal(shown.scene.overview().pixels, before)
    with pytest.raises(ConfigError, match="needs a window"):
        streamed.with_window(None)
    with pytest.raises(ConfigError, match="unknown window"):
        streamed.with_window("lungs")


def test_slices_and_measurements_are_those_of_a_volume_in_memory(both):
    streamed, whole = both
    flat = Box((3, 4), (20, 30))
    assert streamed.on_slice(flat, 7) == whole.on_slice(flat, 7)
    shown, wanted = (scene.look(scene.on_slice(flat, 7)) for scene in both)
    assert shown.box == wanted.box
    assert np.array_equal(shown.pixels, wanted.pixels)
    for box, index in ((flat, 50), (Box((0, 0, 0), (9, 9, 9)), 5)):
        with pytest.raises(GeometryError, match="slice from 0 to 49"):
            streamed.on_slice(box, index)
    call = ToolCall("Measure", box=Box((4, 4, 20), (20, 20, 30)))
    assert Measure().use(call, streamed).reply == Measure().use(call, whole).reply


def test_a_thin_projection_is_that_of_a_volume_in_memory(both):
    streamed, whole = both
    settings = SETTINGS | {"projection_mm": 5.0}
    thin = StreamedScene(streamed._source, key="a", **settings).overview().pixels
    assert np.array_equal(thin, VolumeScene(whole.image, key="a", **settings).overview().pixels)
    assert not np.array_equal(thin, streamed.overview().pixels)


def test_values_that_are_not_finite_are_refused_where_they_are_read():
    class Broken:
        shape, affine = (16, 16, 40), np.eye(4)

        def read(self, start, stop):
            values = torch.arange(start, stop).float().expand(1, 16, 16, -1)
            affine = torch.eye(4, dtype=torch.float64)
            affine[2, 3] = start
            return MetaTensor(torch.where(values == 20, torch.nan, values), affine=affine)

    scene = StreamedScene(Broken(), key="a", window=(0, 100), min_extent=4)
    scene.look(Box((0, 0, 0), (4, 4, 10)))
    for show in (scene.overview, lambda: scene.planes(Box((0, 0, 0), (1, 1, 1)), 40)):
        with pytest.raises(GeometryError, match="not finite"):
            show()
