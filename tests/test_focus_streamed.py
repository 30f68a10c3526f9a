"""Searches in volumes that are not in memory, down to those that one slab holds."""

import nibabel
import pytest
from searched import BRIGHT, QUESTION, Counting, ball

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import AnnotationExpert, BlobExpert
from medeyes_monai.inferers import FocusInferer
from medeyes_monai.io import open_volume, read_volume
from medeyes_monai.navigator import SlabExpert
from medeyes_monai.scenes import BlankedScene, Finding, StreamedScene, VolumeScene

SETTINGS = {"window": (-400, 1200), "min_extent": 8}


@pytest.fixture
def both(tmp_path):
    """A study 40 mm thick, on disk and in memory."""
    volume, _ = ball(shape=(48, 40, 20), box=((30, 10, 8), (38, 18, 14)))
    nibabel.save(nibabel.Nifti1Image(volume[0].numpy(), volume.affine.numpy()), tmp_path / "a.nii")
    whole = VolumeScene(read_volume(tmp_path / "a.nii"), key="a", **SETTINGS)
    return StreamedScene(open_volume(tmp_path / "a.nii"), key="a", **SETTINGS), whole


@pytest.mark.parametrize("slab_mm", [20.0, 40.0, 80.0])
@pytest.mark.parametrize("keep", [None, lambda voxels, start: bool((voxels > 0).any())])
@pytest.mark.parametrize("expert", [Counting, lambda: BlobExpert(min_extent=8)])
def test_a_study_on_disk_no_thicker_than_a_slab_is_searched_like_one_in_memory(both, slab_mm, keep, expert):
    streamed, whole = (
        FocusInferer(expert(), slab_mm=slab_mm, filter_fn=keep, max_looks=1)(scene, question=QUESTION)
        for scene in both
    )
    (place,), (wanted,) = streamed.places, whole.places
    voxels = both[1].image[0]
    assert voxels[place.box.slices].max() == voxels[wanted.box.slices].max() == BRIGHT
    if expert is Counting:
        assert place.box == wanted.box


def test_a_filter_that_has_no_voxels_to_tell_by_says_so_and_without_one_nothing_is_missed():
    volume, box = ball(shape=(48, 40, 20), box=((30, 10, 8), (38, 18, 14)))
    blank = BlankedScene(VolumeScene(volume, key="a", findings=[Finding(box, "ball")]))
    exact = AnnotationExpert(miss_rate=0, false_alarm_rate=0, confidence_noise=0, drill_error=0, min_extent=8)
    assert SlabExpert(exact).scan(blank, QUESTION)  # an expert that needs no voxels
    with pytest.raises(ConfigError, match="BlankedScene shows none"):
        SlabExpert(exact, filter_fn=lambda voxels, start: True).scan(blank, QUESTION)
    with pytest.raises(ConfigError, match="BlankedScene has no parts"):
        SlabExpert(exact, slab_mm=20).scan(blank, QUESTION)
