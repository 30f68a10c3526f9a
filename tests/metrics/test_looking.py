"""Was looking real: changes under conditions, laterality, and whether looks lead somewhere."""

import json
import math
from functools import partial

import pytest
from metric_cases import case, episode

from medeyes_monai.data.phantom import PhantomVQA
from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.metrics import (
    ProgressionMetric,
    answer_change,
    faithfulness_table,
    laterality,
    look_curve,
    look_table,
    score,
)
from medeyes_monai.scenes import CONDITIONS, ImageScene, under_condition

LOOK = Box((0, 0), (10, 10))


def scores(answers, references, looked=True, preset="own"):
    keys = [f"q{n}" for n in range(len(answers))]
    looks = looked if isinstance(looked, list) else [looked] * len(keys)
    cases = [case(key, reference) for key, reference in zip(keys, references, strict=True)]
    episodes = [
        episode(key, said, [LOOK] * sees) for key, said, sees in zip(keys, answers, looks, strict=True)
    ]
    return score(episodes, cases, preset)


REFERENCES = ["a", "a", "a", "a"]


def test_changes_are_counted_as_worked_out_by_hand():
    seen = scores(["a", "a", "b", "b"], REFERENCES)
    blank = scores(["A.", "c", "a", None], REFERENCES)
    change = answer_change("blanked", seen, blank)
    assert (change.flipped.hits, change.flipped.count) == (3, 4)  # "A." is "a"
    assert (change.lost.hits, change.lost.count) == (1, 2)
    assert (change.gained.hits, change.gained.count) == (1, 2)
    assert (change.scores.only_first, change.scores.only_second, change.scores.difference.value) == (1, 1, 0)
    assert json.loads(json.dumps(change.to_dict()))["flipped"]["hits"] == 3


def test_questions_without_a_look_are_left_out():
    seen = scores(["a", "a", "a", "a"], REFERENCES, [True, False, True, False])
    change = answer_change("random_place", seen, scores(["b"] * 4, REFERENCES))
    assert (change.flipped.hits, change.flipped.count) == (2, 2)
    with pytest.raises(ConfigError, match="looked at none of 4"):
        answer_change("blanked", scores(["a"] * 4, REFERENCES, False), seen)


def test_a_policy_that_ignores_its_looks_changes_nothing():
    seen = scores(["a", "b", None, "a"], REFERENCES)
    change = answer_change("deletion", seen, seen)
    assert (change.flipped.hits, change.lost.hits, change.gained.hits) == (0, 0, 0)
    assert change.scores.p_value == 1


def test_in_the_mirror_an_answer_is_expected_to_change_its_side():
    seen = scores(["left", "left", "yes", None], ["left", "left", "yes", "yes"], False)
    turned = ["right", "right", "yes", "yes"]
    follows = answer_change("mirrored", seen, scores(["right", "right", "yes", None], turned))
    assert (follows.flipped.hits, follows.flipped.count, follows.lost.hits) == (0, 4, 0)
    stuck = answer_change("mirrored", seen, scores(["left", "right", "no", None], turned))
    assert (stuck.flipped.hits, stuck.lost.hits, stuck.lost.count) == (2, 2, 3)


def test_laterality_counts_only_answers_that_name_a_side():
    seen = scores(["left lung", "right", "yes", None, "left"], ["x"] * 5)
    mirrored = scores(["right lung", "right", "yes", None, "mass"], ["x"] * 5)
    sides = laterality(seen, mirrored)
    assert (sides.followed.hits, sides.followed.count) == (1, 3)
    assert (sides.stuck.hits, sides.stuck.count) == (1, 3)
    with pytest.raises(ConfigError, match="5 and 4"):
        laterality(seen, scores(["a"] * 4, REFERENCES))


def test_the_table_of_conditions_has_a_row_for_each():
    seen = scores(["a", "a", "b", "b"], REFERENCES)
    change = answer_change("blanked", seen, scores(["c", "a", "b", "b"], REFERENCES))
    table = faithfulness_table({"blanked": change})
    ((name, count, difference, *shares, p_value),) = table.rows
    assert (name, count, p_value) == ("blanked", "4", "1")
    assert difference.startswith("-25.0 (")
    assert shares == ["25.0 (4.6-69.9)", "50.0 (9.5-90.5)", "0.0 (0.0-65.8)"]  # Wilson's intervals


def progression(*paths, **more):
    metric = ProgressionMetric()
    keys = [str(n) for n in range(len(paths))]
    metric(
        [episode(key, boxes=path, **more) for key, path in zip(keys, paths, strict=True)],
        [case(key) for key in keys],
    )
    return metric.aggregate()


def test_progression_is_that_worked_out_by_hand():
    big, half, away = Box((0, 0), (20, 20)), Box((0, 0), (20, 10)), Box((50, 50), (60, 60))
    found = progression([big, half, away], [half, big], [big], []).figures
    # sizes 400, 200, 100: last over first 1/4; and 200, 400: 2. Geometric mean of 1/4 and 2.
    assert found["size_ratio"].value == pytest.approx(math.sqrt(1 / 4 * 2))
    assert (found["shrinks"].value, found["shrinks"].count) == (0.5, 2)
    # first path: half lies in big, away not in half: 1 of 2; second: big lies in half for its half, not more.
    assert found["nested"].value == pytest.approx((1 / 2 + 0) / 2)


def test_equal_looks_neither_shrink_nor_grow():
    found = progression([LOOK, LOOK]).figures
    assert (found["shrinks"].value, found["size_ratio"].value, found["nested"].value) == (0, 1, 1)


def test_volumes_are_measured_by_their_voxels():
    found = progression([Box((0, 0, 0), (4, 4, 4)), Box((0, 0, 0), (4, 4, 2))]).figures
    assert found["size_ratio"].value == 0.5


def test_confidence_is_compared_from_the_first_turn_to_the_answer():
    chances = [math.log(p) for p in (0.5, 0.5, 1.0, 0.9, 0.9)]
    mask = [True, True, False, True, True]
    rises = progression([LOOK], logprobs=chances, mask=mask).figures
    assert rises["confidence_gain"].value == pytest.approx(0.4, abs=1e-6)
    assert rises["confidence_rises"].value == 1
    falls = progression([LOOK], logprobs=chances[::-1], mask=mask[::-1]).figures
    assert falls["confidence_gain"].value == pytest.approx(-0.4, abs=1e-6)
    assert falls["confidence_rises"].value == 0
    assert progression([], logprobs=chances, mask=mask).figures["confidence_gain"].count == 0


def test_what_is_not_known_of_any_path_is_none_in_json():
    plain = json.loads(json.dumps(progression([]).to_dict(), allow_nan=False))
    assert plain["count"] == 1
    assert plain["figures"]["size_ratio"]["value"] is None


def test_a_curve_over_looks_tells_how_many_are_needed():
    runs = {
        2: scores(["a", "a", "a", "b"], REFERENCES),
        0: scores([None, None, None, "b"], REFERENCES),
        1: scores(["a", None, "a", "b"], REFERENCES),
    }
    steps = look_curve(runs)
    assert [step.looks for step in steps] == [0, 1, 2]
    assert [step.score.value for step in steps] == [0, 0.5, 0.75]
    assert [step.answered for step in steps] == [1, 3, 4]
    assert look_table(steps).rows[1][:3] == ("1", "4", "3")
    with pytest.raises(ConfigError, match="different questions"):
        look_curve({0: runs[0], 1: runs[1].restrict(runs[1].cases[:2])})
    with pytest.raises(ConfigError, match="at least one run"):
        look_curve({})


def test_a_real_policy_can_be_asked_under_every_condition(looking):
    scene = partial(ImageScene, patch=looking.patch, overview_pixels=(4 * looking.patch) ** 2)
    data = PhantomVQA("val", size=4, families=("laterality",), scene=scene)
    cases = [data[n] for n in range(4)]
    infer = EpisodeInferer(max_looks=2, max_turn_tokens=6, greedy=False)
    episodes = infer(cases, looking)
    seen = score(episodes, cases)
    looks = {episode.case: episode.trajectory.boxes for episode in episodes}
    assert any(looks.values())
    for name in CONDITIONS:
        changed = under_condition(name, cases, looks)
        answers = score(infer(changed, looking), changed)
        assert answers.cases == seen.cases
        assert 0 <= answer_change(name, seen, answers).flipped.value <= 1
    runs = {k: score(EpisodeInferer(max_looks=k, max_turn_tokens=6)(cases, looking), cases) for k in (0, 1)}
    assert [step.score.count for step in look_curve(runs)] == [4, 4]
