"""Detectors as experts: MONAI's own, and one by hand whose boxes are known."""

import math

import pytest
import torch
from expert_networks import by_hand, retina_net
from expert_scenes import QUERY, RingReader, make_scene, make_volume
from monai.transforms import Compose, DivisiblePad, Zoom

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts import DetectorExpert, Verdict, check_expert
from medeyes_monai.geometry import Box

BRIGHT = Box((137, 87), (164, 114))
"""The bright spot of ``make_scene``."""


def test_a_detectors_boxes_are_candidates_with_its_scores_best_first():
    found = DetectorExpert(by_hand, ("ring", "disc"), min_extent=1).scan(make_scene(), QUERY)
    assert [(c.finding, c.confidence) for c in found] == [("ring", 0.75), ("disc", 0.5)]
    assert found[0].box == BRIGHT


def test_boxes_below_the_threshold_are_left_out_and_no_more_than_wanted_are_kept():
    scan = lambda **s: DetectorExpert(by_hand, ("ring", "disc"), **s).scan(make_scene(), QUERY)  # noqa: E731
    assert [c.finding for c in scan(score_threshold=0.6)] == ["ring"]
    assert [c.finding for c in scan(max_candidates=1)] == ["ring"]
    assert scan(score_threshold=0.8) == ()
    assert scan(min_extent=64)[0].box == BRIGHT.expand((512, 400), minimum=64)


@pytest.mark.parametrize(
    "transform",
    [DivisiblePad(k=96), Compose([Zoom(0.5, keep_size=False), DivisiblePad(k=64)])],
    ids=["pad", "zoom and pad"],
)
def test_boxes_found_on_another_grid_come_back_to_their_place(transform):
    expert = DetectorExpert(by_hand, ("ring", "disc"), preprocessing=transform, min_extent=1)
    found = expert.scan(make_scene(), QUERY)[0].box
    assert max(abs(a - b) for a, b in zip(found.corners, BRIGHT.corners, strict=True)) <= 2


def test_a_drill_names_the_best_box_whose_centre_is_in_the_region():
    expert = DetectorExpert(by_hand, ("ring", "disc"), reader=RingReader())
    assert expert.drill(make_scene(), BRIGHT, QUERY) == Verdict(0.75, "ring", "yes")
    assert expert.drill(make_scene(), Box((330, 280), (370, 320)), QUERY) == Verdict(0.0, "disc", "no")
    assert expert.drill(make_scene(), Box((0, 0), (137, 90)), QUERY) == Verdict(0.0, "normal", "no")
    assert expert.drill(make_scene(), Box.whole((512, 400)), QUERY).finding == "ring"


def test_a_detector_for_volumes_finds_balls():
    expert = DetectorExpert(by_hand, ("ring", "disc"), spatial_dims=3, min_extent=1)
    assert expert.scan(make_volume(), QUERY)[0].box == Box((25, 35, 7), (36, 46, 18))
    assert expert.drill(make_volume(), Box((20, 30, 5), (40, 50, 20)), QUERY).finding == "ring"


@pytest.mark.filterwarnings(
    "ignore:__array_wrap__ must accept context:DeprecationWarning"
)  # monai on NumPy 2
@pytest.mark.parametrize("dims", [2, 3])
def test_monais_own_detector_keeps_the_contract_without_torchvision(dims):
    scene = make_scene() if dims == 2 else make_volume()

    def make():
        return DetectorExpert(retina_net(dims), ("ring", "disc"), spatial_dims=dims, score_threshold=0.0)

    candidates = check_expert(make(), scene, QUERY, make)
    assert len(candidates) == 16
    assert {c.finding for c in candidates} <= {"ring", "disc"}


GOOD = {
    "boxes": torch.tensor([[1.0, 2, 9, 8]]),
    "labels": torch.tensor([0]),
    "labels_scores": torch.tensor([0.5]),
}


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (None, "one dictionary for an image"),
        ([], "one dictionary for an image"),
        ([GOOD, GOOD], "one dictionary for an image"),
        ([{"boxes": GOOD["boxes"]}], "with boxes, labels, labels_scores"),
        ([{**GOOD, "boxes": torch.zeros(1, 6)}], r"boxes of \(1, 4\) and as many labels, got \(1, 6\)"),
        ([{**GOOD, "labels": torch.tensor([0, 1])}], "as many labels"),
        ([{**GOOD, "labels": torch.tensor([2])}], "classes beyond its 2 labels"),
        ([{**GOOD, "labels_scores": torch.tensor([1.5])}], "out of its range"),
        ([{**GOOD, "labels_scores": torch.tensor([math.nan])}], "out of its range"),
        ([{**GOOD, "boxes": torch.full((1, 4), math.inf)}], "out of its range"),
    ],
)
def test_an_output_of_another_form_is_refused_with_the_experts_name(output, said):
    expert = DetectorExpert(lambda images: output, ("ring", "disc"))
    with pytest.raises(ExpertError, match=rf"^{expert.name}: .*{said}"):
        expert.scan(make_scene(), QUERY)


def test_boxes_that_enclose_nothing_of_the_image_are_left_out():
    outside = {**GOOD, "boxes": torch.tensor([[600.0, 2, 700, 8], [5, 5, 5, 9], [-5, -5, 9, 9]])}
    outside |= {"labels": torch.tensor([0, 0, 1]), "labels_scores": torch.tensor([0.9, 0.8, 0.7])}
    found = DetectorExpert(lambda images: [outside], ("ring", "disc"), min_extent=1).scan(make_scene(), QUERY)
    assert [(c.finding, c.box) for c in found] == [("disc", Box((0, 0), (9, 9)))]


def test_a_detector_that_finds_nothing_proposes_nothing():
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0), "labels_scores": torch.zeros(0)}
    assert DetectorExpert(lambda images: [nothing], ("ring",)).scan(make_scene(), QUERY) == ()


def test_an_image_that_the_detector_refuses_is_told():
    with pytest.raises(ExpertError, match=r"detector-.*refused an image of \(1, 96, 80, 40\)"):
        DetectorExpert(retina_net(2), ("ring", "disc"), spatial_dims=3).scan(make_volume(), QUERY)


@pytest.mark.parametrize(
    "wrong",
    [{"spatial_dims": 1}, {"labels": ()}, {"score_threshold": 2}, {"context": 0}, {"max_candidates": 0}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        DetectorExpert(by_hand, **{"labels": ("ring",), **wrong})


def test_other_settings_have_other_names():
    settings = [{}, {"score_threshold": 0.3}, {"version": "2"}, {"spatial_dims": 3}, {"reader": RingReader()}]
    assert len({DetectorExpert(by_hand, ("ring", "disc"), **s).name for s in settings}) == len(settings)
