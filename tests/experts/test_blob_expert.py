import numpy as np
import pytest
import torch
from expert_scenes import QUERY, PlainVolume, make_scene, make_volume
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy.ndimage import gaussian_laplace, maximum_filter

from medeyes_monai.errors import ExpertError
from medeyes_monai.experts import BlobExpert, checked
from medeyes_monai.experts.blobs import SIGMAS, _peaks, _scale_space
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import ImageScene, VolumeScene


def test_blobs_finds_the_bright_and_the_dark_spot_first_and_says_so():
    bright, dark = BlobExpert().scan(make_scene(), QUERY)[:2]
    assert (bright.finding, dark.finding) == ("bright spot", "dark spot")
    assert bright.box.contains((150, 100))
    assert dark.box.contains((350, 300))


def test_blobs_of_a_flat_image_are_none_and_a_drill_calls_it_uniform():
    scene = ImageScene(np.full((1, 256, 256), 80, np.uint8), key="flat")
    assert BlobExpert().scan(scene, QUERY) == ()
    verdict = BlobExpert().drill(scene, Box((0, 0), (64, 64)), QUERY)
    assert verdict.finding == "uniform"
    assert verdict.confidence == pytest.approx(0, abs=1e-9)


def test_a_drill_into_a_spot_is_surer_than_beside_it():
    expert, scene = BlobExpert(), make_scene()
    on, beside = (expert.drill(scene, b, QUERY) for b in (Box((118, 68), (182, 132)), Box((0, 0), (64, 64))))
    assert (on.finding, beside.finding) == ("bright spot", "uniform")
    assert on.confidence > beside.confidence


def test_blobs_keeps_no_more_than_the_best_and_none_that_overlap_much():
    candidates = BlobExpert(max_candidates=1).scan(make_scene(), QUERY)
    assert len(candidates) == 1
    noise = np.random.default_rng(0).integers(0, 255, (1, 512, 512), dtype=np.uint8)
    many = BlobExpert(max_candidates=6, min_extent=1).scan(ImageScene(noise, key="noise"), QUERY)
    assert len(many) <= 6
    assert all(a.box.iou(b.box) < 0.35 for a in many for b in many if a is not b)


def test_blobs_of_a_volume_are_its_bright_and_dark_ball():
    expert = BlobExpert(min_extent=16)
    bright, dark = checked.scan(expert, make_volume(), QUERY)[:2]
    assert {bright.finding, dark.finding} == {"bright spot", "dark spot"}
    by_name = {c.finding: c.box for c in (bright, dark)}
    assert by_name["bright spot"].contains((30, 40, 12))
    assert by_name["dark spot"].contains((70, 60, 28))


def test_a_drill_into_a_ball_is_surer_than_beside_it():
    expert, scene = BlobExpert(min_extent=16), make_volume()
    on, beside = (
        expert.drill(scene, b, QUERY) for b in (Box((20, 30, 2), (40, 50, 22)), Box((0, 0, 0), (16, 16, 16)))
    )
    assert (on.finding, beside.finding) == ("bright spot", "uniform")
    assert on.confidence > beside.confidence


def test_thick_slices_make_no_flat_blobs():
    """A ball of 12 mm in voxels of 1 x 1 x 4 mm is 3 slices thick, and is found as a ball."""
    x, y, z = np.ogrid[:64, :64, :16]
    image = torch.full((1, 64, 64, 16), -800, dtype=torch.int16)
    image[0][torch.from_numpy((x - 40) ** 2 + (y - 20) ** 2 + (4 * (z - 10)) ** 2 < 36)] = 40
    affine = torch.diag(torch.tensor([-1.0, -1.0, 4.0, 1.0]))
    scene = VolumeScene(MetaTensor(image, affine=affine), key="thick")
    best = BlobExpert(min_extent=16).scan(scene, QUERY)[0]
    assert best.box.contains((40, 20, 10))
    assert best.finding == "bright spot"
    assert best.box.extent[2] * 4 <= 2 * best.box.extent[0]


def test_a_flat_volume_has_no_blobs_and_one_without_voxels_is_refused():
    flat = PlainVolume(torch.full((1, 30, 30, 10), 7.0))
    assert BlobExpert().scan(flat, QUERY) == ()
    assert BlobExpert().drill(flat, Box((0, 0, 0), (1, 1, 1)), QUERY).finding == "uniform"
    flat.image = None
    with pytest.raises(ExpertError, match=r"blobs-.*needs the voxels"):
        BlobExpert().scan(flat, QUERY)


@given(st.integers(0, 999), st.sampled_from([(7, 9), (4, 5, 6), (1, 3, 8)]), st.sampled_from([2, 4, 200]))
@settings(max_examples=60, deadline=None)
def test_peaks_are_the_places_at_which_a_maximum_filter_changes_nothing(seed, shape, levels):
    values = np.random.default_rng(seed).integers(0, levels, shape) / levels  # few levels make plateaus
    expected = np.argwhere((values == maximum_filter(values, size=3)) & (values > 0.3))
    assert np.array_equal(_peaks(values, 0.3), expected)


@pytest.mark.parametrize("shape", [(61, 48), (20, 24, 17)])
def test_the_scale_space_is_the_laplacian_of_gaussians_of_a_mirrored_image(shape):
    grey = np.random.default_rng(0).random(shape)
    for found, sigma in zip(_scale_space(grey), SIGMAS, strict=True):
        expected = np.abs(gaussian_laplace(grey, sigma, mode="reflect", truncate=8)) * sigma**2
        assert np.abs(found - expected).max() < 0.02 * expected.max() + 1e-3
