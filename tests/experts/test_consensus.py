import logging
import math

import numpy as np
import pytest
from expert_scenes import QUERY, RingReader, bare_scene, make_scene, make_volume
from hypothesis import given, settings
from hypothesis import strategies as st

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts import AnnotationExpert, BlobExpert, Candidate, RandomBoxExpert, Verdict, checked
from medeyes_monai.experts.consensus import ConsensusExpert
from medeyes_monai.experts.consensus_rules import combined, spread
from medeyes_monai.geometry import Box

SHAPE = (60, 40)
SCENE = bare_scene(shape=SHAPE)
PLACE = Box((0, 0), (10, 10))


class Saying:
    """An expert that says what it was told to say."""

    def __init__(self, name, candidates=(), verdict=None, axes=(2, 3)):
        self.name, self.candidates, self.axes = name, candidates, axes
        self.verdict = verdict or Verdict(0.5, "")

    def scan(self, scene, query):
        return self.candidates

    def drill(self, scene, box, query):
        return self.verdict


class Down(Saying):
    """An expert that cannot be reached."""

    def scan(self, scene, query):
        raise ExpertError("no answer from the server")

    def drill(self, scene, box, query):
        raise ExpertError("no answer from the server")


def scan_of(*replies, **settings_of):
    return checked.scan(
        ConsensusExpert([Saying(str(n), r) for n, r in enumerate(replies)], **settings_of), SCENE, ""
    )


def drill_of(*verdicts, **settings_of):
    experts = [Saying(str(n), verdict=v) for n, v in enumerate(verdicts)]
    return checked.drill(ConsensusExpert(experts, **settings_of), SCENE, PLACE, "")


def told(candidates):
    masks = [None if c.mask is None else c.mask.tolist() for c in candidates]
    return [
        (c.box, c.confidence, c.finding, c.disagreement, m) for c, m in zip(candidates, masks, strict=True)
    ]


@st.composite
def candidates(draw):
    low = [draw(st.integers(0, n - 2)) for n in SHAPE]
    high = [draw(st.integers(a + 1, n)) for a, n in zip(low, SHAPE, strict=True)]
    box = Box(tuple(low), tuple(high))
    mask = np.random.default_rng(low[0]).random(box.extent) < 0.6 if draw(st.booleans()) else None
    confidence = draw(st.sampled_from((0.0, 0.2, 0.5, 0.5, 0.9, 1.0)) | st.floats(0, 1))
    return Candidate(box, confidence, draw(st.sampled_from(("", "ring", "disc"))), mask)


scans = st.lists(candidates(), max_size=4)
verdicts = st.builds(
    Verdict, st.floats(0, 1), st.sampled_from(("", "ring", "disc")), st.sampled_from((None, "yes", "no"))
)
rules = st.sampled_from(("mean", "noisy_or"))


# Laws.


@given(st.lists(st.tuples(scans, verdicts, st.floats(0.1, 9)), min_size=1, max_size=4), rules, st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_in_which_experts_are_listed_changes_nothing(replies, rule, random):
    listed = [(Saying(f"e{n}", cs, v), w) for n, (cs, v, w) in enumerate(replies)]
    shuffled = random.sample(listed, len(listed))
    one, other = (ConsensusExpert(*zip(*pairs, strict=True), combine=rule) for pairs in (listed, shuffled))
    assert one.name == other.name
    assert told(checked.scan(one, SCENE, "")) == told(checked.scan(other, SCENE, ""))
    assert checked.drill(one, SCENE, PLACE, "") == checked.drill(other, SCENE, PLACE, "")


@given(scans, verdicts, st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_experts_that_all_say_the_same_are_repeated_and_do_not_disagree(said, verdict, copies):
    alike = ConsensusExpert([Saying(f"e{n}", said, verdict) for n in range(copies)])
    found = checked.scan(alike, SCENE, "")
    assert len(found) == len(said)
    by_place = lambda c: (c.box.corners, c.finding)  # noqa: E731
    for a, b in zip(sorted(said, key=by_place), sorted(found, key=by_place), strict=True):
        assert (a.box, a.finding) == (b.box, b.finding)
    assert sorted(c.confidence for c in found) == pytest.approx(sorted(c.confidence for c in said), abs=1e-12)
    assert all(c.disagreement == 0 for c in found)
    heard = checked.drill(alike, SCENE, PLACE, "")
    assert (heard.finding, heard.answer, heard.disagreement) == (verdict.finding, verdict.answer, 0)
    assert heard.confidence == pytest.approx(verdict.confidence, abs=1e-12)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 5)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_mean_lies_between_the_experts_and_the_noisy_or_never_below_the_mean(pairs):
    values, raw = zip(*pairs, strict=True)
    weights = [w / math.fsum(raw) for w in raw]
    mean = combined(values, weights, "mean")
    assert min(values) - 1e-12 <= mean <= max(values) + 1e-12
    assert combined(values, weights, "noisy_or") >= mean - 1e-9
    assert 0 <= spread(values, weights) <= 1


@given(st.lists(scans, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_nothing_that_an_expert_proposed_is_lost_or_counted_twice(replies):
    found = scan_of(*replies)
    most = max(len(reply) for reply in replies)
    assert most <= len(found) <= sum(len(reply) for reply in replies)
    wanted = math.fsum(c.confidence for reply in replies for c in reply) / len(replies)
    assert math.fsum(c.confidence for c in found) == pytest.approx(wanted)


# Worked examples.


def test_two_regions_are_one_place_from_the_set_overlap_on_and_absence_counts_as_zero():
    small, large = Box((0, 0), (10, 10)), Box((0, 0), (10, 20))  # IoU 100 / 200
    first, second = Candidate(small, 0.9, "ring"), Candidate(large, 0.3, "disc")
    (together,) = scan_of([first], [second], iou=0.5)
    assert together.box == Box((0, 0), (10, 13))  # (0.9 * 10 + 0.3 * 20) / 1.2 = 12.5, rounded up
    assert together.confidence == pytest.approx(0.6)
    assert together.disagreement == pytest.approx(0.6)  # deviations of 0.3 about 0.6: 2 x 0.3
    assert together.finding == "ring"
    apart = scan_of([first], [second], iou=0.51)
    assert [(c.box, c.confidence) for c in apart] == [(small, 0.45), (large, 0.15)]
    assert [c.disagreement for c in apart] == pytest.approx([0.9, 0.3])


def test_a_region_joins_the_place_that_it_overlaps_most_and_one_expert_has_one_region_in_it():
    left, right = Box((0, 0), (10, 10)), Box((10, 0), (20, 10))
    between = Box((4, 0), (14, 10))  # IoU 6/14 with the left one, 4/16 with the right one
    found = scan_of([Candidate(left, 0.9), Candidate(right, 0.8)], [Candidate(between, 0.5)], iou=0.2)
    assert [c.confidence for c in found] == pytest.approx([0.7, 0.4])
    assert found[1].box == right
    twice = scan_of([Candidate(left, 0.9), Candidate(left, 0.4)], iou=0.2)
    assert [c.confidence for c in twice] == [0.9, 0.4]


def test_weights_decide_whom_to_believe():
    loud, quiet = Verdict(0.8, "ring", "yes"), Verdict(0.4, "disc", "no")
    believed = drill_of(loud, quiet, weights=(1, 3))
    assert believed.confidence == pytest.approx(0.5)  # (0.8 + 3 * 0.4) / 4
    assert (believed.finding, believed.answer) == ("disc", "no")
    assert believed.disagreement == pytest.approx(2 * math.sqrt(3 / 16))  # of the answers: shares 1/4 and 3/4
    assert drill_of(loud, quiet).answer == "yes"  # of equal weights the more confident
    assert drill_of(loud, quiet, quiet).answer == "no"
    assert drill_of(loud, Verdict(0.1, "", None), weights=(1, 3)).answer == "yes"  # who says nothing abstains


def test_disagreement_is_one_if_half_are_sure_and_half_see_nothing():
    sure, blind = Verdict(1.0, "ring"), Verdict(0.0, "normal")
    assert drill_of(sure, blind, sure, blind).disagreement == 1
    assert drill_of(sure, sure, sure, blind).disagreement == pytest.approx(2 * math.sqrt(3 / 16))
    assert drill_of(Verdict(0.9, "ring", "yes"), Verdict(0.9, "ring", "no")).disagreement == 1
    assert drill_of(Verdict(0.9, "ring", "yes"), Verdict(0.9, "spot", None)).disagreement == 0


def test_a_noisy_or_is_sure_as_soon_as_one_expert_is():
    assert drill_of(Verdict(1.0, ""), Verdict(0.0, ""), combine="noisy_or").confidence == 1
    assert drill_of(Verdict(0.5, ""), Verdict(0.5, ""), combine="noisy_or").confidence == 0.75
    # weights 3 : 1 are powers 1.5 and 0.5
    unequal = drill_of(Verdict(0.75, ""), Verdict(0.0, ""), combine="noisy_or", weights=(3, 1))
    assert unequal.confidence == pytest.approx(1 - 0.25**1.5)


def test_a_mask_holds_what_more_than_half_of_those_with_a_mask_call_inside():
    def outlined(box, inside):
        mask = np.zeros(box.extent, bool)
        mask[inside.start[0] - box.start[0] : inside.stop[0] - box.start[0]] = True
        return [Candidate(box, 0.5, "", mask)]

    wide = Box((0, 0), (12, 4))
    whole, left, right = (Box(s, e) for s, e in (((0, 0), (12, 4)), ((0, 0), (8, 4)), ((4, 0), (12, 4))))
    replies = [outlined(wide, b) for b in (whole, left, right)]
    (found,) = scan_of(*replies, [Candidate(wide, 0.5)])
    assert found.mask.all()  # of three outlines, two hold each voxel; the fourth expert has none
    (found,) = scan_of(*replies[1:])
    assert np.flatnonzero(found.mask[:, 0]).tolist() == [4, 5, 6, 7]
    (found,) = scan_of(outlined(wide, Box((0, 0), (3, 4))), outlined(wide, Box((6, 0), (9, 4))))
    assert found.mask is None
    moved = Box((2, 0), (14, 4))  # outlines are laid over each other in the image, not box on box
    (found,) = scan_of(outlined(wide, left), outlined(moved, Box((4, 0), (14, 4))))
    assert found.box == Box((1, 0), (13, 4))
    assert np.flatnonzero(found.mask[:, 0]).tolist() == [3, 4, 5, 6]  # voxels 4 to 8 of the image


def test_volumes_are_agreed_on_like_pictures():
    one, other = AnnotationExpert(RingReader(), seed=0), AnnotationExpert(RingReader(), seed=1)
    found = checked.scan(ConsensusExpert([one, other]), make_volume(), QUERY)
    assert found
    assert all(c.box.ndim == 3 for c in found)


# Failures.


def test_a_failing_expert_is_an_error_that_names_it_and_nobody_else():
    both = ConsensusExpert([Saying("well"), Down("ill")])
    for call in (lambda: both.scan(SCENE, ""), lambda: both.drill(SCENE, PLACE, "")):
        with pytest.raises(ExpertError, match=r"1 of 2 .* 2 are needed; failed: ill: no answer") as caught:
            call()
        assert "well" not in str(caught.value)


def test_nonsense_of_one_expert_is_a_failure_too():
    both = ConsensusExpert([Saying("well"), Saying("ill", [Candidate(Box((0, 0), (99, 99)), 0.5)])])
    with pytest.raises(ExpertError, match=r"failed: ill: region"):
        both.scan(SCENE, "")


def test_with_enough_others_it_goes_on_and_a_failure_is_logged_counted_and_not_taken_for_a_zero(caplog):
    said = [Candidate(PLACE, 0.8, "ring")]
    three = ConsensusExpert([Saying("a", said), Down("ill"), Saying("b", said)], needed=2)
    with caplog.at_level(logging.WARNING):
        (found,) = three.scan(SCENE, "")
    assert (found.confidence, found.disagreement) == (0.8, 0)
    assert "2 of 3 experts replied to a scan, 2 are needed, going on; failed: ill: no answer" in caplog.text
    three.drill(SCENE, PLACE, "")
    assert three.failures == {"ill": 2}
    with pytest.raises(ExpertError, match="1 of 3"):
        ConsensusExpert([Saying("a"), Down("ill"), Down("too")], needed=2).scan(SCENE, "")


def test_a_bug_in_an_expert_is_not_taken_for_a_failure():
    class Buggy(Saying):
        def scan(self, scene, query):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ConsensusExpert([Saying("well"), Buggy("bug")], needed=1).scan(SCENE, "")


# Settings.


def test_it_takes_the_images_that_all_of_its_experts_take():
    assert ConsensusExpert([AnnotationExpert(), RandomBoxExpert()]).axes == (2, 3)
    assert ConsensusExpert([AnnotationExpert(), Saying("flat", axes=(2,))]).axes == (2,)
    with pytest.raises(ConfigError, match="pictures only and others volumes only"):
        ConsensusExpert([Saying("flat", axes=(2,)), Saying("deep", axes=(3,))])


def test_settings_that_change_replies_change_the_name():
    two = [BlobExpert(), RandomBoxExpert()]
    variants = [
        ConsensusExpert(two),
        ConsensusExpert(two[:1]),
        ConsensusExpert([BlobExpert(3), two[1]]),
        ConsensusExpert(two, (1, 2)),
        ConsensusExpert(two, iou=0.3),
        ConsensusExpert(two, combine="noisy_or"),
        ConsensusExpert(two, needed=1),
    ]
    assert len({expert.name for expert in variants}) == len(variants)


@pytest.mark.parametrize(
    "arguments",
    [
        {"experts": []},
        {"weights": (1.0,)},
        {"weights": (1.0, 0.0)},
        {"weights": (1.0, math.nan)},
        {"iou": 0.0},
        {"iou": 1.1},
        {"combine": "median"},
        {"needed": 0},
        {"needed": 3},
    ],
)
def test_settings_out_of_range_are_refused(arguments):
    with pytest.raises(ConfigError):
        ConsensusExpert(**{"experts": [BlobExpert(), RandomBoxExpert()], **arguments})


def test_a_drill_of_real_experts_keeps_the_answer_and_says_how_far_they_are_apart():
    experts = [AnnotationExpert(RingReader(), seed=s) for s in range(2)] + [BlobExpert()]
    scene, ring = make_scene(), Box((118, 68), (182, 132))
    verdict = checked.drill(ConsensusExpert(experts), scene, ring, QUERY)
    apart = [checked.drill(expert, scene, ring, QUERY).confidence for expert in experts]
    assert verdict.answer == "yes"
    assert verdict.confidence == pytest.approx(sum(apart) / 3)
    assert verdict.disagreement == pytest.approx(2 * np.std(apart))
