import numpy as np
import pytest
from expert_scenes import QUERY, make_scene

from medeyes_monai.experts import BlobExpert
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import ImageScene


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
