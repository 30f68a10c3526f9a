"""Segmentation networks as experts; networks by hand, so that what they find is known."""

import math

import numpy as np
import pytest
import torch
from expert_networks import LABELS, ByBrightness, brightness_expert
from expert_scenes import QUERY, PlainVolume, RingReader, make_scene, make_volume
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet
from monai.transforms import Compose, DivisiblePad, Flip, Orientation, Zoom

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts import Reading, SegmentationExpert, Verdict, checked
from medeyes_monai.experts.components import components
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import ImageScene, VolumeScene

BRIGHT, DARK = Box((137, 87), (164, 114)), Box((337, 287), (364, 314))
"""The spots of ``make_scene``: all pixels nearer than 14 to (150, 100) and (350, 300)."""


def softmax(*logits):
    """Probabilities by hand."""
    powers = [math.exp(v) for v in logits]
    return [p / sum(powers) for p in powers]


# Components of a map.


def test_components_are_found_named_and_ordered_by_hand():
    chances = np.zeros((3, 6, 6), np.float32)
    chances[1, 0:2, 0:2] = [[0.5, 0.6], [0.7, 1.0]]  # mean 0.7
    chances[2, 4:6, 5] = [0.8, 0.9]  # mean 0.85
    chances[2, 3, 0] = 0.49
    first, second = components(chances, ("background", "a", "b"), (1, 2))
    assert (first.label, first.box, second.label, second.box) == (
        "b",
        Box((4, 5), (6, 6)),
        "a",
        Box((0, 0), (2, 2)),
    )
    assert (first.mean, first.peak, second.mean, second.peak) == pytest.approx((0.85, 0.9, 0.7, 1.0))
    assert components(chances, ("background", "a", "b"), (1, 2), min_voxels=3)[0].label == "a"
    assert len(components(chances, ("background", "a", "b"), (1,))) == 1


def test_neighbouring_classes_are_one_component_with_the_more_probable_name():
    chances = np.zeros((3, 4, 4), np.float32)
    chances[1, 1, 1:3] = 0.4
    chances[2, 1, 1:3] = [0.3, 0.2]
    (both,) = components(chances, ("background", "a", "b"), (1, 2))  # 0.7 and 0.6 together
    assert (both.label, both.mean, both.label_mean) == ("a", pytest.approx(0.65), pytest.approx(0.4))
    assert components(chances, ("background", "a", "b"), (1, 2), exclusive=False) == []


def test_a_components_mask_is_its_own_where_boxes_overlap():
    chances = np.zeros((2, 5, 5), np.float32)
    chances[1, :, 0] = chances[1, 4, :] = 1  # an L
    chances[1, 0, 4] = 0.9
    ell, dot = components(chances, ("background", "a"), (1,), offset=(10, 20))
    assert (ell.box, dot.box) == (Box((10, 20), (15, 25)), Box((10, 24), (11, 25)))
    assert ell.mask.sum() == 9


# Scans.


def test_a_scan_proposes_each_spot_with_its_box_mask_and_mean_probability():
    bright, dark = brightness_expert(min_extent=1).scan(make_scene(), QUERY)
    assert (bright.finding, bright.box, dark.finding, dark.box) == ("bright", BRIGHT, "dark", DARK)
    # grey 220: 220 / 255 = 0.863, 10: 0.039; logits are 0, 20 (v - 0.7), 20 (0.15 - v)
    v, w = 220 / 255, 10 / 255
    assert bright.confidence == pytest.approx(softmax(0, 20 * (v - 0.7), 20 * (0.15 - v))[1], abs=1e-5)
    assert dark.confidence == pytest.approx(softmax(0, 20 * (w - 0.7), 20 * (0.15 - w))[2], abs=1e-5)
    x, y = np.mgrid[137:164, 87:114]
    assert np.array_equal(bright.mask, np.hypot(x - 150, y - 100) < 14)


def test_the_confidence_is_the_mean_of_a_component_or_its_peak():
    image = np.full((1, 64, 64), 100, np.uint8)
    image[0, 20:24, 20:24], image[0, 24:28, 20:24] = 200, 255
    scene = ImageScene(image, key="two greys")
    (mean,), (peak,) = (
        brightness_expert(min_extent=1, confidence=c).scan(scene, QUERY) for c in ("mean", "peak")
    )
    low, high = (softmax(0, 20 * (v - 0.7), 20 * (0.15 - v))[1] for v in (200 / 255, 1.0))
    assert mean.confidence == pytest.approx((low + high) / 2, abs=1e-5)
    assert peak.confidence == pytest.approx(high, abs=1e-5)


def test_candidates_are_grown_to_the_least_extent_and_their_masks_with_them():
    bright = brightness_expert(min_extent=64).scan(make_scene(), QUERY)[0]
    assert bright.box == BRIGHT.expand((512, 400), minimum=64)
    assert bright.mask.sum() == brightness_expert(min_extent=1).scan(make_scene(), QUERY)[0].mask.sum()
    assert bright.mask[150 - bright.box.start[0], 100 - bright.box.start[1]]


def test_plain_classes_are_proposed_with_no_confidence_and_come_last():
    found = brightness_expert(plain=("bright",)).scan(make_scene(), QUERY)
    assert [(c.finding, c.confidence > 0) for c in found] == [("dark", True), ("bright", False)]


def test_components_below_the_threshold_or_too_small_are_not_proposed():
    assert [c.finding for c in brightness_expert(threshold=0.93).scan(make_scene(), QUERY)] == ["bright"]
    assert brightness_expert(min_voxels=700).scan(make_scene(), QUERY) == ()
    assert len(brightness_expert(max_candidates=1).scan(make_scene(), QUERY)) == 1


def test_classes_that_may_overlap_are_proposed_side_by_side():
    class Both(torch.nn.Module):
        def forward(self, image):
            return torch.cat([image - 150, image - 150], dim=1)

    expert = SegmentationExpert(Both(), ("ring", "disc"), activation="sigmoid", min_extent=1)
    assert {(c.finding, c.box) for c in expert.scan(make_scene(), QUERY)} == {
        ("ring", BRIGHT),
        ("disc", BRIGHT),
    }


@pytest.mark.parametrize("roi", [(64, 64), (100, 90), (600, 600)])
def test_a_sliding_window_finds_what_the_whole_image_shows(roi):
    windowed = brightness_expert(inferer=SlidingWindowInferer(roi, overlap=0.25, mode="gaussian"))
    told = [[(c.box, round(c.confidence, 5)) for c in e.scan(make_scene(), QUERY)] for e in
            (windowed, brightness_expert())]  # fmt: skip
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("transform", "within"),
    [
        (DivisiblePad(k=96), 0),
        (Flip(spatial_axis=0), 0),
        (Zoom(0.5, keep_size=False), 2),
        (Compose([Zoom(0.5, keep_size=False), DivisiblePad(k=64)]), 2),
    ],
    ids=["pad", "flip", "zoom", "zoom and pad"],
)
def test_what_a_preprocessing_moves_comes_back_to_its_place(transform, within):
    expert = brightness_expert(preprocessing=lambda image: transform(image / 255), min_extent=1)
    for found, true in zip(expert.scan(make_scene(), QUERY), (BRIGHT, DARK), strict=True):
        assert max(abs(a - b) for a, b in zip(found.box.corners, true.corners, strict=True)) <= within
    verdict = expert.drill(make_scene(), Box((120, 70), (160, 110)), QUERY)
    assert verdict.finding == "bright"


# Drills.


def test_a_drill_names_what_fills_most_of_the_region_with_the_probability_of_its_class():
    expert, scene = brightness_expert(), make_scene()
    scanned = expert.scan(scene, QUERY)[0]
    assert expert.drill(scene, BRIGHT, QUERY) == Verdict(
        pytest.approx(scanned.confidence, abs=1e-6), "bright"
    )
    wide = Box((150, 100), (364, 314))  # a quarter of the bright spot and all of the dark one
    assert expert.drill(scene, wide, QUERY).finding == "dark"


def test_a_drill_where_nothing_is_says_normal_and_is_not_sure_of_anything():
    assert brightness_expert().drill(make_scene(), Box((0, 0), (64, 64)), QUERY) == Verdict(0.0, "normal")


def test_one_voxel_is_named_by_what_surrounds_it():
    scene = make_scene()
    assert brightness_expert().drill(scene, Box((150, 100), (151, 101)), QUERY).finding == "bright"
    assert brightness_expert().drill(scene, Box((180, 100), (181, 101)), QUERY).finding == "normal"


def test_a_plain_class_is_named_only_where_nothing_else_is():
    expert = brightness_expert(plain=("bright",))
    assert expert.drill(make_scene(), Box((100, 60), (400, 340)), QUERY).finding == "dark"
    assert expert.drill(make_scene(), BRIGHT, QUERY).finding == "bright"


def test_a_drill_is_as_sure_as_its_finding_matters_and_answers_by_the_reader():
    class Words:
        def __call__(self, scene, region):
            return {"bright": "ring", "dark": "disc"}[region.label]

    class Supporting(RingReader):
        def read(self, query, seen, candidates):
            return Reading("yes" if "disc" in seen else "no", "ring" in seen)

    expert = brightness_expert(describe=Words(), reader=RingReader())
    sure = brightness_expert().drill(make_scene(), BRIGHT, QUERY).confidence
    other = brightness_expert().drill(make_scene(), DARK, QUERY).confidence
    assert expert.drill(make_scene(), BRIGHT, QUERY) == Verdict(sure, "ring", "yes")  # settles it
    assert expert.drill(make_scene(), DARK, QUERY) == Verdict(0.0, "disc", "no")  # neither here nor there
    partly = brightness_expert(describe=Words(), reader=Supporting())
    assert partly.drill(make_scene(), DARK, QUERY) == Verdict(
        0.5 * other, "disc", "yes"
    )  # changes the answer


# Volumes.


def test_a_network_for_volumes_finds_balls_and_says_where_they_are():
    expert = brightness_expert(spatial_dims=3, min_extent=1)
    bright, dark = checked.scan(expert, make_volume(), QUERY)
    assert (bright.box, dark.box) == (Box((25, 35, 7), (36, 46, 18)), Box((65, 55, 23), (76, 66, 34)))
    assert bright.mask.shape == (11, 11, 11)
    assert checked.drill(expert, make_volume(), Box((28, 38, 10), (32, 42, 14)), QUERY).finding == "bright"


def test_a_window_slides_over_volumes_and_other_orientations_come_back():
    turn = Orientation(axcodes="RAS", labels=None)
    expert = brightness_expert(
        spatial_dims=3,
        min_extent=1,
        inferer=SlidingWindowInferer((32, 32, 16), overlap=0.25),
        preprocessing=lambda image: turn(image / 255),
    )
    image = make_volume().image.as_tensor()
    affine = torch.diag(torch.tensor([-0.7, -0.7, 2.5, 1.0], dtype=torch.float64))
    scene = VolumeScene(MetaTensor(image, affine=affine), key="thick")
    assert expert.scan(scene, QUERY)[0].box == Box((25, 35, 7), (36, 46, 18))
    grown = brightness_expert(spatial_dims=3, min_extent=25).scan(scene, QUERY)[0]
    assert grown.box.extent == (25, 25, 11)  # 25 voxels of 0.7 mm are 17.5 mm: 7 slices, the ball has more


# What cannot be run is refused by name.


class Returning(ByBrightness):
    """A network whose output is made wrong."""

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def forward(self, image):
        return self.wrong(super().forward(image))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda out: out * math.nan, "not finite"),
        (lambda out: out[:, :2], r"3 labels returns \(1, 3, 512, 400\) here, got \(1, 2, 512, 400\)"),
        (lambda out: out[..., ::2], "got"),
        (lambda out: [out, out], "one tensor of .* got list"),
    ],
    ids=["nan", "channels", "shape", "list"],
)
def test_an_output_that_is_no_map_is_refused_with_the_experts_name(wrong, said):
    expert = SegmentationExpert(Returning(wrong), LABELS)
    with pytest.raises(ExpertError, match=rf"^{expert.name}: .*{said}"):
        expert.scan(make_scene(), QUERY)


def test_an_image_that_the_network_refuses_is_told_with_a_way_out():
    network = UNet(2, in_channels=3, out_channels=2, channels=(8, 16), strides=(2,))
    with pytest.raises(ExpertError, match=r"refused an image of \(1, 512, 400\): .*mind channels"):
        SegmentationExpert(network, ("background", "ring")).scan(make_scene(), QUERY)


def test_a_scene_without_voxels_is_refused_with_a_way_out():
    scene = PlainVolume(torch.zeros(1, 20, 20, 20))
    scene.image = None
    with pytest.raises(ExpertError, match=r"segmentation-.*take a scene that has it, such as ImageScene"):
        brightness_expert(spatial_dims=3).scan(scene, QUERY)


def test_a_preprocessing_that_returns_no_image_is_refused():
    with pytest.raises(ExpertError, match="preprocessing returns a tensor of 3 axes, got shape"):
        brightness_expert(preprocessing=lambda image: image[0]).scan(make_scene(), QUERY)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"spatial_dims": 4}, "spatial_dims is one of 2, 3, got 4"),
        ({"activation": "relu"}, "activation is one of"),
        ({"confidence": "median"}, "confidence is one of"),
        ({"threshold": 1.0}, "threshold is a probability"),
        ({"min_voxels": 0}, "at least 1"),
        ({"plain": ("heart",)}, r"plain names \['heart'\]"),
        ({"labels": ("ring", "disc", "dot")}, "exclusive classes need one that is 'background'"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        brightness_expert(**wrong)


def test_other_weights_settings_or_versions_have_other_names():
    settings = [{}, {"threshold": 0.6}, {"version": "2"}, {"reader": RingReader()}, {"plain": ("dark",)},
                {"spatial_dims": 3}, {"together": True}]  # fmt: skip
    experts = [brightness_expert(**s) for s in settings]
    torch.manual_seed(0)
    unets = [UNet(2, 1, 3, channels=(4, 8), strides=(2,)) for _ in range(2)]
    names = {e.name for e in (*experts, *(SegmentationExpert(u, LABELS) for u in unets))}
    assert len(names) == len(settings) + 2
    assert brightness_expert().name == brightness_expert().name
