"""Scores of a run: counts, closed and open apart, intervals, and paired comparison."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_cases import case, episode

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.metrics import (
    AnswerMetric,
    Estimate,
    compare_runs,
    estimates,
    mcnemar,
    paired,
    score,
    score_table,
)


def run(answers, references, preset="own", images=None, family="open"):
    keys = [f"q{n}" for n in range(len(answers))]
    cases = [
        case(key, reference, family, image=images[n] if images else None)
        for n, (key, reference) in enumerate(zip(keys, references, strict=True))
    ]
    return score([episode(key, said) for key, said in zip(keys, answers, strict=True)], cases, preset)


MIXED = [
    ("a", "left lung", "open", "lung"),  # wrong; 1 of 2 words right
    ("b", "mass", "open", "the mass"),  # right
    ("c", "yes", "closed", "Yes, there is."),  # right
    ("d", "no", "closed", None),  # not answered
]


def mixed_cases():
    rules = {"open": "exact", "closed": "closed"}
    return [case(key, reference, family, scoring=rules[family]) for key, reference, family, _ in MIXED]


def mixed(preset="own"):
    cases = mixed_cases()
    return score([episode(key, said) for key, _, _, said in MIXED], cases, preset)


def test_closed_and_open_questions_are_counted_apart():
    sections = {part.name: (part.score.value, part.score.count, part.answered) for part in mixed().sections()}
    assert sections == {"all": (2 / 4, 4, 3), "closed": (1 / 2, 2, 1), "open": (1 / 2, 2, 2)}


def test_a_result_names_its_preset_its_measures_and_what_is_assumed():
    plain = json.loads(json.dumps(mixed("llava-med").to_dict(), allow_nan=False))
    assert plain["preset"] == "llava-med"
    assert plain["sections"]["open"]["measure"] == "recall"
    assert plain["sections"]["closed"]["measure"] == "accuracy"
    assert plain["sections"]["all"]["measure"] == "accuracy and recall"
    assert plain["sections"]["open"]["value"] == (1 / 2 + 1) / 2
    assert "4 images" in plain["interval"]
    assert "MedEvalKit" not in plain["known"]
    assert plain["assumed"]


def test_overlaps_are_means_over_open_questions_only():
    # "lung" of "left lung": precision 1, recall 1/2; "the mass" of "mass": both 1
    overlaps = mixed().overlaps()
    assert (overlaps["precision"].value, overlaps["recall"].value) == (1, 0.75)
    assert overlaps["recall"].count == 2


def test_a_missing_answer_is_wrong_under_every_preset_even_where_an_empty_one_is_guessed():
    asked = case("q", "cyst", options=("cyst", "mass"), scoring="choice")
    assert score([episode("q", None)], [asked], "medevalkit").score.tolist() == [0]
    assert score([episode("q", "")], [asked], "medevalkit").score.tolist() == [
        1
    ]  # taken for the first option


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(4)), st.integers(1, 4))
def test_neither_order_nor_batches_change_anything(order, size):
    cases = mixed_cases()
    episodes = [episode(MIXED[n][0], MIXED[n][3]) for n in order]
    metric = AnswerMetric()
    for start in range(0, 4, size):
        metric(episodes[start : start + size], cases)
    assert metric.aggregate().to_dict() == mixed().to_dict()


def test_several_episodes_of_one_question_are_refused():
    with pytest.raises(ConfigError, match="2 episodes answer 1 questions"):
        score([episode("a"), episode("a")], [case("a")])
    with pytest.raises(ConfigError, match="no episodes"):
        score([], [case("a")])


def test_restricting_keeps_rows_together():
    part = mixed().restrict(["d", "a", "unknown"])
    assert (part.cases, part.answers, part.closed.tolist()) == (("a", "d"), ("lung", None), [False, True])
    assert part.extras.shape == (2, 5)
    with pytest.raises(ConfigError, match="none of 1"):
        mixed().restrict(["z"])


def test_looks_are_kept_with_the_answers():
    box = Box((0, 0), (4, 4))
    scores = score([episode("a", "x", [box, box]), episode("b", "x")], [case("a"), case("b")])
    assert scores.looks.tolist() == [2, 0]


def test_the_interval_is_that_of_the_binomial_distribution():
    # 400 questions, half right: standard error 0.025, so 0.5 -+ 0.049
    estimate = estimates([0.0, 1.0] * 200)[0]
    assert estimate.value == 0.5
    assert (estimate.low, estimate.high) == pytest.approx((0.451, 0.549), abs=0.006)


def test_questions_about_one_image_are_drawn_together():
    # Ten images with 40 equal questions each say as much as ten questions.
    values = [float(n % 2) for n in range(10) for _ in range(40)]
    images = [n for n in range(10) for _ in range(40)]
    together, apart = estimates(values, images)[0], estimates(values)[0]
    alone = estimates([float(n % 2) for n in range(10)])[0]
    assert together.high - together.low == pytest.approx(alone.high - alone.low)
    assert together.high - together.low > 4 * (apart.high - apart.low)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_an_interval_holds_its_mean_stays_in_bounds_and_ignores_order_and_names(values, random):
    estimate = estimates(values, resamples=100)[0]
    assert 0 <= estimate.low <= estimate.high <= 1
    names = [f"image {n}" for n in range(len(values))]
    pairs = list(zip(values, names, strict=True))
    random.shuffle(pairs)
    other = estimates([value for value, _ in pairs], [name for _, name in pairs], resamples=100)[0]
    assert other.value == pytest.approx(estimate.value)
    assert (other.low, other.high) == pytest.approx((estimate.low, estimate.high))


def test_equal_values_have_an_interval_without_width_and_no_values_none():
    assert estimates([1.0, 1.0]) == [Estimate(1.0, 1.0, 1.0, 2)]
    nothing = estimates([[math.nan], [math.nan]])[0]
    assert nothing.count == 0
    assert nothing.to_dict() == {"value": None, "low": None, "high": None, "count": 0}
    assert nothing.percent() == "-"


def test_unknown_values_are_left_out_of_their_column_only():
    first, second = estimates([[1.0, math.nan], [0.0, 1.0]])
    assert (first.value, first.count, second.value, second.count) == (0.5, 2, 1.0, 1)


def test_clusters_and_rows_must_match():
    with pytest.raises(ConfigError, match="3 rows"):
        estimates([1.0, 0.0, 1.0], ["a", "b"])


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 1, 1.0),
        (0, 6, 2 / 64),  # two tails of six equal draws
        (2, 8, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_mcnemars_test_is_exact(only_first, only_second, p_value):
    assert mcnemar(only_first, only_second) == pytest.approx(p_value)
    assert mcnemar(only_second, only_first) == pytest.approx(p_value)


def test_a_comparison_counts_the_questions_that_only_one_run_has_right():
    references = ["x"] * 8
    first = run(["x", "x", "x", "-", "-", "-", "-", "-"], references)
    second = run(["x", "-", "x", "x", "x", "x", "x", "x"], references)
    compared = paired(first, second)
    assert (compared.only_first, compared.only_second) == (1, 5)
    assert compared.p_value == pytest.approx(14 / 64)
    assert compared.difference.value == pytest.approx(4 / 8)
    assert compared.difference.count == 8
    back = paired(second, first)
    assert (back.only_first, back.only_second, back.p_value) == (5, 1, compared.p_value)
    assert back.difference.value == pytest.approx(-4 / 8)


def test_a_run_does_not_differ_from_itself():
    same = paired(mixed(), mixed())
    assert (same.difference.value, same.difference.low, same.difference.high, same.p_value) == (0, 0, 0, 1)


def test_pairing_makes_a_steady_small_gain_visible():
    references, rng = ["x"] * 300, np.random.default_rng(0)
    before = ["x" if right else "-" for right in rng.random(300) < 0.5]
    wrong = [n for n, said in enumerate(before) if said == "-"][:12]
    after = ["x" if n in wrong else said for n, said in enumerate(before)]
    first, second = run(before, references), run(after, references)
    assert paired(first, second).difference.low > 0
    assert first.sections()[0].score.high > second.sections()[0].score.low  # unpaired, they overlap


def test_scores_by_degrees_have_no_mcnemar_test():
    first = run(["left", "lung"], ["left lung", "lung"], "llava-med")
    compared = paired(first, first)
    assert compared.p_value is None
    assert compared.only_first is None
    assert json.loads(json.dumps(compared.to_dict()))["mcnemar_p"] is None


def test_runs_of_other_presets_or_questions_do_not_compare():
    one, two = run(["x", "x"], ["x", "x"]), run(["x", "x"], ["x", "x"], "medevalkit")
    with pytest.raises(ConfigError, match="'own' and 'medevalkit'"):
        paired(one, two)
    with pytest.raises(ConfigError, match="2 and 1 of which 1 are shared"):
        paired(one, one.restrict(["q0"]))
    with pytest.raises(ConfigError, match="two runs, got 1"):
        compare_runs({"only": one})


def test_a_table_of_scores_names_the_preset_in_every_row_and_compares_with_the_first_run():
    references = ["x"] * 4
    runs = {"base": run(["x", "-", "-", "-"], references), "new": run(["x", "x", "-", None], references)}
    table = score_table(runs)
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.header == ("", "n", "base", "new")
    assert all(label.startswith("own: ") for label in rows)
    assert rows["own: accuracy, all"][0] == "4"
    assert rows["own: accuracy, all"][1].startswith("25.0 (")
    assert "own: accuracy, closed" not in rows
    assert rows["own: recall, open"][2].startswith("50.0 (")
    assert rows["own: difference"][2].startswith("+25.0 (+0.0 to ")
    assert rows["own: McNemar's p"] == ("4", "-", "1")
    assert "mean" not in score_table({"base": runs["base"]}).markdown()
    with pytest.raises(ConfigError, match="at least one run"):
        score_table({})
