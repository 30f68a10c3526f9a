"""Rewards: what counts as right, as well formed, as looking around, and their sum."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.metrics.scoring.words import MAX_CHARACTERS
from medeyes_monai.protocol import parse, render_answer
from medeyes_monai.rewards import (
    CompositeReward,
    accuracy,
    agreement,
    answers_match,
    diversity,
    grammar,
    normalise,
    overlong,
)
from medeyes_monai.scenes import Case, ImageScene, Scoring
from medeyes_monai.trajectory import Episode, Fixation, Trajectory

SCENE = ImageScene(torch.from_numpy(np.zeros((1, 40, 30), dtype=np.float32)), key="black")


def case(
    answer: str | None, scoring: Scoring = "exact", options: Sequence[str] = (), tolerance: float = 0.0
) -> Case:
    return Case("q", SCENE, "?", answer, tuple(options), scoring=scoring, tolerance=tolerance)


def episode(*boxes: Box, answer: str | None = "yes", defect: str | None = None) -> Episode:
    nothing = torch.zeros(0)
    path = Trajectory(tuple(Fixation("", box) for box in boxes), "", answer)
    return Episode(
        "q", "policy", 0, nothing.long(), nothing.bool(), nothing, (), (), trajectory=path, defect=defect
    )


@pytest.mark.parametrize(
    "text", ["Left lung", "left  LUNG.", " the left lung", "(left lung)", "\uff2ceft lung!"]
)
def test_exact_scoring_sees_past_case_space_article_and_punctuation(text: str) -> None:
    assert answers_match(text, case("left lung"))


@pytest.mark.parametrize("text", ["", "left", "left lung base", "right lung", "leftlung", "a", "the"])
def test_exact_scoring_accepts_nothing_else(text: str) -> None:
    assert not answers_match(text, case("left lung"))


def test_normalising_keeps_a_decimal_point_and_a_lone_letter() -> None:
    assert normalise(".5") == ".5"
    assert normalise("A.") == "a"


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("yes", "Yes", True),
        ("Yes, on the left.", "yes", True),
        ("no", "yes", False),
        ("yes or no", "yes", False),
        ("no yes", "no", False),
        ("maybe yes", "yes", False),
        ("yesterday", "yes", False),
        ("", "no", False),
        ("left", "left", True),  # a closed question about a side
        ("yes", "left", False),
    ],
)
def test_closed_scoring_wants_one_clear_word(answer: str, reference: str, right: bool) -> None:
    assert answers_match(answer, case(reference, "closed")) is right


OPTIONS = ("cyst", "A nodule", "no finding", "air")


@pytest.mark.parametrize(
    "text", ["B", "b", "(B)", "[b]", "B.", "B)", "(B) nodule", "B: a nodule", "a nodule", "Nodule."]
)
@pytest.mark.parametrize("reference", ["B", "a nodule"])
def test_choice_scoring_takes_letter_or_text_or_both(text: str, reference: str) -> None:
    assert answers_match(text, case(reference, "choice", OPTIONS))


@pytest.mark.parametrize(
    "text", ["", "A", "E", "B: cyst", "B cyst", "BC", "AB", "cyst nodule", "(", "1", "\ud800"]
)
def test_choice_scoring_accepts_nothing_else(text: str) -> None:
    assert not answers_match(text, case("B", "choice", OPTIONS))


def test_the_text_of_an_option_goes_before_its_letter() -> None:
    assert answers_match("B", case("B", "choice", ("B", "A")))
    assert not answers_match("A", case("B", "choice", ("B", "A")))


@given(st.permutations(["cyst", "nodule", "air"]), st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_every_option_is_right_by_letter_and_text_and_no_other_is(options: list[str], right: int) -> None:
    question = case(options[right], "choice", options)
    for number, option in enumerate(options):
        assert answers_match(option, question) is (number == right)
        assert answers_match("ABC"[number], question) is (number == right)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("12.5", True),
        ("12.5 mm", True),
        ("12.5mm.", True),
        ("+12.50 MM", True),
        ("125e-1", True),
        ("12.4", True),  # |12.4 - 12.5| = 0.1, exactly the tolerance
        ("12.6", True),
        ("12.61", False),
        ("-12.5", False),
        ("1.25 cm", True),
        ("12.5 cm", False),
        ("12.5 HU", False),
        ("twelve mm", False),
        ("12.5 or more", False),
        ("12.5 or 13", False),
        ("12.5 13", False),
        ("12.5/1", False),
        ("12.5^2", False),
        ("12,5", False),
        ("about 12.5", False),
        ("", False),
        ("mm", False),
        ("nan", False),
        ("inf", False),
        ("9**9**9", False),
        ("1e999999999", False),
        ("9" * 5000, False),
        ("\u0661\u0662.5", False),  # digits of another script
        ("__import__('os')", False),
    ],
)
def test_numeric_scoring_reads_one_number_with_its_unit(answer: str, right: bool) -> None:
    assert answers_match(answer, case("12.5 mm", "numeric", tolerance=0.1)) is right


def test_the_tolerance_is_exact_where_floats_are_not() -> None:
    assert 0.4 - 0.3 > 0.1
    assert answers_match("0.4", case("0.3", "numeric", tolerance=0.1))


@pytest.mark.parametrize("unit", ["mm2", "mm\u00b2", "mm^2", "%", "\u00b0C", "ml/min", "\u00b5m", ""])
def test_a_reference_with_any_common_unit_matches_itself_and_its_number(unit: str) -> None:
    question = case(f"3 {unit}", "numeric")
    assert answers_match(f"3{unit}", question)
    assert answers_match("3", question)
    assert not answers_match(f"4 {unit}", question)


@pytest.mark.parametrize(
    "unscorable",
    [
        case(None),
        case("E", "choice", OPTIONS),
        case("many", "numeric"),
        case("3", "numeric", tolerance=float("nan")),
        case("3", "numeric", tolerance=-1),
    ],
)
def test_a_case_that_cannot_be_scored_says_so(unscorable: Case) -> None:
    with pytest.raises(ConfigError, match="case 'q'"):
        answers_match("3", unscorable)


@given(st.text(st.characters(), max_size=80), st.sampled_from(["exact", "closed", "choice", "numeric"]))
@settings(max_examples=300, deadline=None)
def test_any_answer_is_either_right_or_wrong(answer: str, scoring: Scoring) -> None:
    reference = {"exact": "left", "closed": "no", "choice": "air", "numeric": "3 mm"}[scoring]
    question = case(reference, scoring, OPTIONS, tolerance=1)
    assert answers_match(answer, question) in (True, False)
    assert answers_match(reference, question)


@pytest.mark.parametrize("scoring", ["exact", "closed", "choice", "numeric"])
@pytest.mark.parametrize("piece", ["(", "a ", "yes ", "9", "9.", "mm", "\ufdfa", "\n"])
def test_a_very_long_answer_is_judged_within_seconds(scoring: Scoring, piece: str) -> None:
    reference = {"exact": "left", "closed": "no", "choice": "air", "numeric": "3 mm"}[scoring]
    began = time.process_time()
    assert not answers_match(piece * (200_000 // len(piece)), case(reference, scoring, OPTIONS))
    assert time.process_time() - began < 5


@pytest.mark.parametrize("piece", ["\ufdfa ", "\u3300", "a "])
def test_no_more_of_an_answer_is_compared_than_is_read_however_its_characters_unfold(piece: str) -> None:
    """U+FDFA unfolds to 18 characters, U+3300 to 4."""
    assert len(normalise(piece * MAX_CHARACTERS)) <= MAX_CHARACTERS


def test_accuracy_is_one_for_a_right_and_zero_for_a_wrong_or_missing_answer() -> None:
    question = case("yes", "closed")
    assert accuracy(episode(answer="yes"), question) == 1.0
    assert accuracy(episode(answer="no"), question) == 0.0
    assert accuracy(episode(answer=None), question) == 0.0


def test_an_answer_quoted_inside_reasoning_earns_nothing() -> None:
    parsed = parse("<reasoning><answer>yes</answer></reasoning>")
    told = episode(answer=parsed.trajectory.answer, defect=parsed.defect)
    assert (accuracy(told, case("yes")), grammar(told, case("yes"))) == (0.0, 0.0)
    parsed = parse(render_answer("<answer>yes</answer>", "no"))
    assert accuracy(episode(answer=parsed.trajectory.answer), case("yes")) == 0.0


def test_grammar_wants_no_defect_an_answer_and_boxes_inside_the_scene() -> None:
    question = case("yes")  # of a scene of 40 x 30
    inside, outside = Box((0, 0), (40, 30)), Box((0, 0), (30, 40))
    assert grammar(episode(answer="wrong but whole"), question) == 1.0
    assert grammar(episode(inside), question) == 1.0
    assert grammar(episode(inside, outside), question) == 0.0
    assert grammar(episode(Box((0, 0, 0), (1, 1, 1))), question) == 0.0
    assert grammar(episode(answer=None), question) == 0.0
    assert grammar(episode(defect="trailing_text"), question) == 0.0


def test_diversity_counts_pairs_of_looks_at_different_places() -> None:
    a, far = Box((0, 0), (10, 10)), Box((20, 0), (30, 10))
    third = Box((5, 0), (15, 10))  # 50 shared of 150: IoU 1/3 with a
    half = Box((0, 0), (10, 5))  # 50 of 100: IoU 1/2 with a, which is the same place
    question = case("yes")
    assert diversity(episode(), question) == 0.0
    assert diversity(episode(a), question) == 0.0
    assert diversity(episode(a, a), question) == 0.0
    assert diversity(episode(a, half), question) == 0.0
    assert diversity(episode(a, third), question) == 1.0
    assert diversity(episode(a, a, far), question) == pytest.approx(2 / 3)  # (a,a) no, (a,far) twice
    assert diversity(episode(a, a, a, far), question) == pytest.approx(3 / 6)
    deep = Box((0, 0, 0), (2, 2, 2)), Box((0, 0, 1), (2, 2, 3))  # 4 of 12: IoU 1/3
    assert diversity(episode(*deep), question) == 1.0


def test_diversity_does_not_depend_on_the_order_of_looks() -> None:
    boxes = [Box((x, 0), (x + 10, 10)) for x in (0, 3, 9, 25)]
    assert len({diversity(episode(*order), case("yes")) for order in permutations(boxes)}) == 1


def test_agreement_falls_with_the_mean_disagreement_over_looks_of_which_it_is_known() -> None:
    def shown(*disagreements: float | None) -> Episode:
        looks = tuple(Fixation("", Box((0, 0), (9, 9)), disagreement=d) for d in disagreements)
        path = Trajectory(looks, "", "yes").scale((40, 30), (80, 60))  # as a path is written
        return replace(episode(), stream="expert", trajectory=path)

    assert agreement(shown(0.0, 0.0), case("yes")) == 1.0
    assert agreement(shown(1.0), case("yes")) == 0.0
    assert agreement(shown(0.2, 0.8, None), case("yes")) == 0.5
    for unknown in (shown(), shown(None), episode(Box((0, 0), (9, 9)))):  # the policy's own, last
        assert agreement(unknown, case("yes")) == 1.0


def test_the_sum_is_that_of_equation_4() -> None:
    a, far = Box((0, 0), (10, 10)), Box((20, 0), (30, 10))
    scored = CompositeReward()(episode(a, a, far), case("yes"))
    assert scored.reward_parts == {"accuracy": 1.0, "grammar": 1.0, "diversity": pytest.approx(2 / 3)}
    assert scored.reward == pytest.approx(0.7 + 0.2 + 0.1 * 2 / 3)
    assert CompositeReward()(episode(answer="no"), case("yes")).reward == pytest.approx(0.2)
    assert CompositeReward()(episode(answer=None, defect="empty"), case("yes")).reward == 0.0


def test_scoring_leaves_everything_else_as_it_is() -> None:
    before = episode(Box((0, 0), (10, 10)))
    after = CompositeReward()(before, case("yes"))
    assert np.isnan(before.reward)
    assert after.trajectory is before.trajectory
    assert after.token_ids is before.token_ids


def test_own_parts_are_weighed_under_their_own_names() -> None:
    reward = CompositeReward(
        {"brief": lambda episode, case: 1 / 4, "accuracy": accuracy}, {"brief": -2, "accuracy": 1}
    )
    assert reward(episode(), case("yes")).reward == 1 - 2 / 4


def test_weights_and_parts_must_have_the_same_names() -> None:
    with pytest.raises(ConfigError, match=r"without a weight: \['diversity'\], without a part: \['speed'\]"):
        CompositeReward(weights={"accuracy": 1, "grammar": 1, "speed": 1})
    with pytest.raises(ConfigError, match=r"finite.*\['accuracy'\]"):
        CompositeReward({"accuracy": accuracy}, {"accuracy": float("nan")})


def test_a_part_that_gives_no_number_is_refused() -> None:
    reward = CompositeReward({"odd": lambda episode, case: float("nan")}, {"odd": 1})
    with pytest.raises(ConfigError, match=r"'q'.*\['odd'\]"):
        reward(episode(), case("yes"))


def spoken(*turns: int) -> Episode:
    """An episode whose turns have these numbers of tokens, after a prompt and with feedback between them."""
    mask = [False] * 7
    for turn in turns:
        mask += [True] * turn + [False] * 3
    return replace(episode(), response_mask=torch.tensor(mask, dtype=torch.bool))


@pytest.mark.parametrize(
    ("turns", "penalty"),
    [
        ((), 0.0),
        ((30, 5), 0.0),
        ((5, 31, 6), -1 / 10),
        ((35,), -5 / 10),
        ((39, 36), -9 / 10),
        ((40,), -1.0),
        ((12, 90), -1.0),
    ],
)
def test_the_penalty_of_the_longest_turn_grows_over_the_last_10_of_40_tokens(turns, penalty) -> None:
    said = spoken(*turns)
    assert said.turn_tokens == turns
    assert overlong(said, case("yes"), limit=40, buffer=10) == pytest.approx(penalty)
    assert str(overlong(spoken(1), case("yes"), limit=40, buffer=10)) == "0.0"  # and not -0.0


@given(st.lists(st.integers(1, 60), max_size=5), st.integers(1, 50), st.integers(0, 50))
def test_the_penalty_lies_in_minus_one_to_zero_and_only_grows_with_a_turn(turns, buffer, more) -> None:
    limit = buffer + more
    one = overlong(spoken(*turns), case("yes"), limit=limit, buffer=buffer)
    longer = overlong(spoken(*(turn + 1 for turn in turns)), case("yes"), limit=limit, buffer=buffer)
    assert -1 <= longer <= one <= 0


@pytest.mark.parametrize("buffer", [0, -1, 41])
def test_a_buffer_outside_the_limit_is_refused(buffer) -> None:
    with pytest.raises(ConfigError, match="a buffer of 1 to limit tokens"):
        overlong(spoken(3), case("yes"), limit=40, buffer=buffer)


def test_the_penalty_is_a_part_of_the_reward_by_its_weight() -> None:
    parts = {"accuracy": accuracy, "overlong": partial(overlong, limit=40, buffer=10)}
    scored = CompositeReward(parts, {"accuracy": 0.7, "overlong": 0.5})(spoken(35), case("yes"))
    assert scored.reward == pytest.approx(0.7 - 0.5 * 0.5)
    assert scored.reward_parts["overlong"] == -0.5
