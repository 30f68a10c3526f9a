"""Confidence: where it comes from, whether it is calibrated, and when to abstain."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import case, episode

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics import (
    CalibrationMetric,
    abstain,
    answer_confidence,
    calibration,
    choose_threshold,
    risk_coverage,
    turn_confidences,
)
from medeyes_monai.metrics.confidence import turn_spans

TURN = "<reasoning>so</reasoning><answer>left lung</answer>"
PIECES = ["<reasoning>", "so", "</reasoning>", "<answer>", "left", " lung", "</answer>", "<end>"]
PROMPT, FIRST = ["<prompt>", "<image>"], ["<look>", "<end>"]
VOCABULARY = [*PROMPT, *FIRST, "<feedback>", *PIECES]


def decode(tokens):
    return "".join(VOCABULARY[n] for n in tokens)


def told(chances, answer="left lung", turn=TURN, ids=None):
    """Make an episode of one look, whose answering turn has tokens of some probabilities."""
    ids = list(range(5, 13)) if ids is None else ids
    logprobs = [0, 0, math.log(0.5), math.log(0.5), 0, *map(math.log, chances)]
    mask = [False, False, True, True, False, *[True] * len(ids)]
    return episode(
        "q", answer, logprobs=logprobs, mask=mask, turns=["<look>", turn], token_ids=[0, 1, 2, 3, 4, *ids]
    )


def test_confidence_is_the_product_over_the_answers_own_tokens():
    chances = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    assert answer_confidence(told(chances), decode) == pytest.approx(0.5 * 0.4)
    assert answer_confidence(told(chances), decode, per_token=True) == pytest.approx(math.sqrt(0.5 * 0.4))


def test_an_answer_quoted_in_the_reasoning_is_not_the_answer():
    turn = "<reasoning>left</reasoning><answer>left</answer>"
    ids = [5, 9, 7, 8, 9, 11]
    asked = told([0.9, 0.1, 0.9, 0.9, 0.7, 0.9], "left", turn, ids)
    assert decode(ids) == turn
    assert answer_confidence(asked, decode) == pytest.approx(0.7)


def test_an_answer_cut_off_at_the_limit_counts_to_the_end():
    turn, ids = "<reasoning>so</reasoning><answer>left lung", list(range(5, 11))
    assert answer_confidence(told([1, 1, 1, 1, 0.5, 0.5], turn=turn, ids=ids), decode) == pytest.approx(0.25)


@pytest.mark.parametrize("answer", [None, ""])
def test_no_answer_has_no_confidence(answer):
    assert answer_confidence(told([0.9] * 8, answer), decode) == 0
    assert answer_confidence(episode("q", answer), decode) == 0


def test_the_confidence_of_a_turn_is_the_geometric_mean_of_its_tokens():
    asked = told([0.25, 1, 1, 1, 1, 1, 1, 1])
    assert turn_spans(asked) == [(2, 4), (5, 13)]
    assert turn_confidences(asked) == pytest.approx([0.5, 0.25 ** (1 / 8)])


def test_the_policys_own_tokens_give_the_answers_confidence(checkpoints):
    from medeyes_monai.policy import HuggingFacePolicy

    policy = HuggingFacePolicy(checkpoints["qwen2_5_vl"])
    before, answer = policy.encode("<reasoning>so</reasoning><answer>"), policy.encode("large solid")
    ids = [*before, *answer, *policy.encode("</answer>")]
    asked = episode(
        "q",
        "large solid",
        logprobs=[math.log(0.9)] * len(ids),
        mask=[True] * len(ids),
        turns=[policy.decode(ids)],
        token_ids=ids,
    )
    assert answer_confidence(asked, policy.decode) == pytest.approx(0.9 ** len(answer))


PAIRS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.05, 0.25, 0.55, 0.85, 1.0]), st.booleans()), min_size=1, max_size=20
)


def unzipped(pairs):
    return [sure for sure, _ in pairs], [right for _, right in pairs]


def test_calibration_error_is_that_worked_out_by_hand():
    # Bins of width 0.1: three at 0.95 of which 2 are right, two at 0.35 of which 1, one at 0.05, wrong.
    found = calibration([0.95, 0.95, 0.95, 0.35, 0.35, 0.05], [True, True, False, True, False, False])
    gaps = 3 * (0.95 - 2 / 3) + 2 * (1 / 2 - 0.35) + 1 * 0.05
    assert found.ece == pytest.approx(gaps / 6, abs=1e-6)
    assert found.brier == pytest.approx((2 * 0.05**2 + 0.95**2 + 0.65**2 + 0.35**2 + 0.05**2) / 6)
    filled = {round(part.high, 1): (part.count, part.accuracy) for part in found.bins if part.count}
    assert filled == {1.0: (3, pytest.approx(2 / 3)), 0.4: (2, 0.5), 0.1: (1, 0.0)}
    assert len(found.bins) == 10
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["bins"][5] == {"low": 0.5, "high": 0.6, "count": 0, "confidence": None, "accuracy": None}
    assert plain["accuracy"] == 0.5


def test_the_area_under_risk_and_coverage_is_that_worked_out_by_hand():
    # Surest first: right, wrong, right, wrong: risks 0, 1/2, 1/3, 2/4.
    coverage, risk = risk_coverage([0.9, 0.7, 0.5, 0.3], [True, False, True, False])
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert calibration([0.9, 0.7, 0.5, 0.3], [True, False, True, False]).aurc == pytest.approx(1 / 3)


@given(PAIRS, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_order_never_matters_and_figures_stay_in_bounds(pairs, random):
    found = calibration(*unzipped(pairs))
    shuffled = list(pairs)
    random.shuffle(shuffled)
    other = calibration(*unzipped(shuffled))
    assert (other.ece, other.brier, other.aurc) == pytest.approx(
        (found.ece, found.brier, found.aurc), abs=1e-6
    )
    assert other.risk == pytest.approx(found.risk)
    assert 0 <= found.ece <= 1
    assert 0 <= found.brier <= 1
    assert ((found.risk >= 0) & (found.risk <= 1)).all()
    assert found.risk[-1] == pytest.approx(1 - np.mean([right for _, right in pairs]))
    assert sum(part.count for part in found.bins) == found.count == len(pairs)


@given(st.lists(st.booleans(), min_size=1, max_size=12))
@settings(deadline=None, max_examples=30)
def test_a_confidence_that_knows_is_perfect_and_one_that_is_always_the_same_knows_nothing(right):
    knows = calibration([float(r) for r in right], right)
    assert (knows.ece, knows.brier) == (0, 0)
    assert knows.aurc <= calibration([0.5] * len(right), right).aurc + 1e-12
    flat = calibration([0.5] * len(right), right)
    assert flat.risk == pytest.approx(np.full(len(right), 1 - np.mean(right)))
    sure = calibration([1.0] * len(right), right)
    assert sure.ece == pytest.approx(1 - np.mean(right), abs=1e-6)


@given(PAIRS, st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]))
@settings(deadline=None, max_examples=60)
def test_a_chosen_threshold_keeps_its_risk_and_no_lower_one_does(pairs, risk):
    sure, right = unzipped(pairs)
    threshold = choose_threshold(sure, right, risk)
    chosen = abstain(sure, right, threshold)
    assert math.isnan(chosen.risk) == (threshold == math.inf)
    assert not chosen.risk > risk
    for level in set(sure):
        if level < threshold:
            assert abstain(sure, right, level).risk > risk


def test_a_threshold_is_chosen_on_one_set_and_applied_to_another():
    threshold = choose_threshold([0.9, 0.8, 0.6, 0.4], [True, True, False, True], 0.25)
    assert threshold == 0.4  # 1 of 4 wrong
    threshold = choose_threshold([0.9, 0.8, 0.6, 0.4], [True, True, False, True], 0.2)
    assert threshold == 0.8
    there = abstain([0.95, 0.85, 0.8, 0.3, 0.1], [True, False, True, True, False], threshold)
    assert (there.coverage, there.risk, there.count) == (3 / 5, pytest.approx(1 / 3), 5)
    nobody = abstain([0.5], [True], choose_threshold([0.9], [False], 0.1))
    assert (nobody.threshold, nobody.coverage) == (math.inf, 0)
    assert math.isnan(nobody.risk)


def test_what_is_no_confidence_is_refused():
    with pytest.raises(ConfigError, match=r"shapes \(2,\) and \(1,\)"):
        calibration([0.5, 0.5], [True])
    with pytest.raises(ConfigError, match="shapes"):
        calibration([], [])
    for odd in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match="from 0 to 1"):
            calibration([odd], [True])
    with pytest.raises(ConfigError, match=r"got 1\.5"):
        choose_threshold([0.5], [True], 1.5)


def test_the_metric_takes_the_confidence_of_answers_and_says_what_is_right_by_its_preset():
    metric = CalibrationMetric(decode)
    asked = case("q", "left lung")
    metric([told([1, 1, 1, 1, 0.5, 0.5, 1, 1])], [asked])
    metric([told([1] * 8, None)], [asked])
    found = metric.aggregate()
    assert (found.confidence.tolist(), found.right.tolist()) == (pytest.approx([0.25, 0]), [True, False])
    lenient = CalibrationMetric(decode, preset="llava-med")
    lenient([told([1] * 8, "in the left lung")], [asked])
    assert lenient.aggregate().right.tolist() == [True]
