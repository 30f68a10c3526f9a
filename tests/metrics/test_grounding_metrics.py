"""Gaze against boxes and masks: numbers worked out by hand, in two and three dimensions, and laws."""

import json
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import case, episode

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.metrics import GroundingMetric, agreement, is_hit, marked_findings
from medeyes_monai.metrics.regions import overlap_of_regions, pieces, size_of
from medeyes_monai.scenes import Finding

LESION, RIVAL = Box((10, 10), (20, 20)), Box((40, 40), (50, 50))


def as_mask(boxes, shape):
    mask = np.zeros(shape, dtype=bool)
    for box in boxes:
        mask[box.slices] = True
    return mask


def boxes(ndim, most=5):
    side = st.tuples(st.integers(0, 8), st.integers(1, 4)).map(lambda pair: (pair[0], pair[0] + pair[1]))
    box = st.lists(side, min_size=ndim, max_size=ndim).map(lambda sides: Box(*zip(*sides, strict=True)))
    return st.lists(box, max_size=most)


@pytest.mark.parametrize("ndim", [2, 3])
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_regions_are_as_large_as_their_voxels(ndim, data):
    looks, truth = data.draw(boxes(ndim)), data.draw(boxes(ndim))
    shape = (12,) * ndim
    seen, marked = as_mask(looks, shape), as_mask(truth, shape)
    assert size_of(truth) == size_of(marked) == marked.sum()
    assert overlap_of_regions(looks, truth) == overlap_of_regions(looks, marked) == (seen & marked).sum()


@pytest.mark.parametrize("ndim", [2, 3])
@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_agreement_is_bounded_symmetric_ignores_order_and_dice_follows_from_iou(ndim, data):
    looks, truth = data.draw(boxes(ndim)), data.draw(boxes(ndim).filter(bool))
    iou, dice = agreement(looks, truth)
    assert 0 <= iou <= dice <= 1
    assert dice == pytest.approx(2 * iou / (1 + iou))
    assert agreement(looks[::-1], truth[::-1]) == (iou, dice)
    assert agreement([*looks, *looks], truth) == (iou, dice)
    assert agreement(truth, truth) == (1, 1)
    assert agreement([], truth) == (0, 0)
    if looks:
        assert agreement(truth, looks) == (iou, dice)


def test_agreement_in_three_dimensions_is_that_worked_out_by_hand():
    # 4 x 4 x 2 = 32 and 2 x 4 x 4 = 32 voxels, of which 2 x 4 x 2 = 16 are shared: 16 of 48; 32 of 64.
    look, truth = Box((0, 0, 0), (4, 4, 2)), Box((2, 0, 0), (4, 4, 4))
    assert agreement([look], [truth]) == (16 / 48, 32 / 64)
    assert agreement([look], as_mask([truth], (6, 6, 6))) == (16 / 48, 32 / 64)


def test_a_mask_may_reach_less_far_than_the_looks():
    mask = as_mask([Box((2, 2), (4, 4))], (5, 5))
    assert agreement([Box((3, 3), (9, 9))], mask) == (1 / 39, 2 / 40)  # 36 + 4 - 1
    assert overlap_of_regions([Box((7, 7), (9, 9))], mask) == 0


def test_a_look_hits_where_its_centre_lies_or_where_it_overlaps_enough():
    look = Box((12, 12), (30, 30))  # centre (21, 21); shares 8 x 8 of 324 + 100
    assert not is_hit(look, [LESION])
    assert is_hit(look, [LESION], least_iou=64 / 360)
    assert not is_hit(look, [LESION], least_iou=65 / 360)
    ring = as_mask([LESION], (60, 60)) & ~as_mask([Box((14, 14), (16, 16))], (60, 60))
    assert not is_hit(LESION, ring)  # its centre is in the hole
    assert is_hit(Box((16, 16), (17, 17)), ring)
    assert not is_hit(Box((58, 58), (70, 70)), ring)  # its centre is beyond the mask


def test_looks_and_truth_of_other_axes_are_refused():
    with pytest.raises(GeometryError, match="2, 3"):
        agreement([Box((0, 0, 0), (1, 1, 1))], [LESION])
    with pytest.raises(GeometryError, match="2, 3"):
        overlap_of_regions([Box((0, 0, 0), (1, 1, 1))], np.ones((4, 4), dtype=bool))
    with pytest.raises(GeometryError, match="3D look"):
        is_hit(Box((0, 0, 0), (1, 1, 1)), np.ones((4, 4), dtype=bool))
    with pytest.raises(GeometryError, match="leave the case out"):
        agreement([LESION], [])


def test_a_mask_is_one_thing_and_boxes_are_one_each():
    assert pieces([LESION, RIVAL]) == [[LESION], [RIVAL]]
    assert len(pieces(np.ones((3, 3), dtype=bool))) == 1


def findings(*found):
    return [Finding(box, "lesion") for box in found]


def grounding(paths, found=(LESION,), **settings):
    metric = GroundingMetric(**settings)
    keys = [str(n) for n in range(len(paths))]
    metric(
        [episode(key, boxes=path) for key, path in zip(keys, paths, strict=True)],
        [case(key, findings=findings(*found)) for key in keys],
    )
    return metric.aggregate()


def values(result):
    return {name: mean.value for name, mean in result.figures.items()}


def test_every_figure_of_a_path_is_that_worked_out_by_hand():
    away, half, inside = Box((60, 60), (70, 70)), Box((15, 10), (25, 20)), Box((10, 10), (20, 15))
    # The centre of half, (20, 15), is on the lesion's far edge, outside; that of inside is (15, 12.5).
    # Union: 100 + 100 + 50 - 25 shared by half and inside = 225; of the lesion's 100, 50 + 50 - 25 = 75.
    found = values(grounding([[away, half, inside]], looks=3))
    assert found["iou"] == pytest.approx(75 / 250)
    assert found["dice"] == pytest.approx(150 / 325)
    assert found["best_iou"] == pytest.approx(50 / 100)
    assert (found["first_look"], found["pointing"], found["found"]) == (0, 1, 1)
    assert [found[f"hit@{k}"] for k in (1, 2, 3)] == [0, 0, 1]


def test_found_is_the_share_of_things_that_some_look_hits():
    found = values(grounding([[LESION]], found=(LESION, RIVAL)))
    assert found["found"] == 0.5
    assert (found["iou"], found["best_iou"], found["pointing"]) == (0.5, 1, 1)


def test_an_episode_without_looks_counts_as_zero_and_one_without_truth_not_at_all():
    metric = GroundingMetric()
    cases = [case("a", findings=findings(LESION)), case("b", findings=findings(LESION)), case("c")]
    metric([episode("a", boxes=[LESION]), episode("b"), episode("c", boxes=[LESION])], cases)
    result = metric.aggregate()
    assert (result.count, result.without_looks) == (2, 1)
    assert set(values(result).values()) == {0.5}
    json.dumps(result.to_dict(), allow_nan=False)


def test_perfect_looks_have_1_and_misses_0_everywhere():
    assert set(values(grounding([[LESION]] * 3)).values()) == {1}
    assert set(values(grounding([[RIVAL], []])).values()) == {0}


def test_hits_can_be_asked_to_overlap():
    loose = Box((5, 5), (25, 25))  # same centre; 100 of 400
    assert values(grounding([[loose]]))["first_look"] == 1
    assert values(grounding([[loose]], least_iou=0.5))["first_look"] == 0
    assert values(grounding([[loose]], least_iou=0.25))["first_look"] == 1


@given(st.lists(st.sampled_from([LESION, RIVAL, Box((0, 0), (60, 60)), Box((18, 18), (22, 22))]), max_size=5))
@settings(deadline=None, max_examples=40)
def test_more_looks_never_unmake_a_hit_and_the_first_look_is_hit_at_1(path):
    found = values(grounding([path], looks=5))
    hits = [found[f"hit@{k}"] for k in range(1, 6)]
    assert hits == sorted(hits)
    assert hits[0] == found["first_look"]
    assert hits[-1] == float(found["found"] > 0) >= found["pointing"]
    assert all(0 <= value <= 1 for value in found.values())


def test_masks_can_be_handed_in_and_give_what_their_boxes_give():
    paths = [[Box((12, 5), (30, 18)), LESION], [RIVAL], []]
    mask = as_mask([LESION], (64, 64))
    assert values(grounding(paths, truth=lambda _: mask)) == values(grounding(paths))


def test_subtle_findings_and_chosen_families_are_what_counts():
    heart = Finding(LESION, "heart", subtle=False)
    metric = GroundingMetric(families=["open"])
    cases = [case("a", findings=[heart]), case("b", family="heart", findings=findings(LESION))]
    metric([episode("a"), episode("b")], cases)
    result = metric.aggregate()
    assert result.count == 0
    assert math.isnan(result.figures["iou"].value)
    assert result.to_dict()["figures"]["iou"]["value"] is None


def test_a_look_at_what_only_looks_like_it_does_not_count():
    marked = [Finding(LESION, "large solid"), Finding(RIVAL, "small benign")]
    metric = GroundingMetric(partial(marked_findings, look_alikes=["benign"]))
    metric(
        [episode("a", boxes=[RIVAL]), episode("b", boxes=[RIVAL, LESION])],
        [case(key, findings=marked) for key in "ab"],
    )
    found = metric.aggregate().figures
    assert (found["first_look"].value, found["hit@1"].value, found["hit@2"].value) == (0.0, 0.0, 0.5)
    assert found["found"].value == 0.5


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ConfigError, match="got 0 and None"):
        GroundingMetric(looks=0)
    with pytest.raises(ConfigError, match="got 4 and 0"):
        GroundingMetric(least_iou=0)
