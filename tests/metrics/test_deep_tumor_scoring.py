"""DeepTumorVQA's own rules, worked out by hand from its public evaluator."""

import pytest

from medeyes_monai.metrics.scoring import preset
from medeyes_monai.scenes import Case

GRADES = ("Mild", "Normal (no splenomegaly)", "Moderate", "Severe")


def judged(answer, reference, scoring, options=(), tolerance=0.0):
    case = Case("q", None, "?", reference, options, "measurement", scoring, tolerance)
    return preset("deep-tumor-vqa").judge(answer, case)


@pytest.mark.parametrize(
    ("answer", "reference", "score", "within"),
    [
        ("100", "100", 1.0, (1, 1, 1, 1)),
        ("about 92 ml", "100", 0.92, (0, 1, 1, 1)),
        ("<think>100</think> 140", "100", 0.6, (0, 0, 0, 1)),
        ("<think>100", "100", 0.0, (0, 0, 0, 0)),
        ("-10", "100", 0.0, (0, 0, 0, 0)),
        ("none", "100", 0.0, (0, 0, 0, 0)),
        ("0", "0", 1.0, (1, 1, 1, 1)),
        ("1", "0", 0.0, (0, 0, 0, 0)),
        ("-95", "-100 HU", 0.95, (1, 1, 1, 1)),
    ],
)
def test_a_number_has_its_relative_accuracy_and_the_bands_that_hold(answer, reference, score, within):
    said = judged(answer, reference, "numeric")
    assert said.score == pytest.approx(score)
    assert (said.kind, said.extras) == ("open", within)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", 1),
        ("b)", 1),
        ("It is (B).", 1),
        ("Because", 1),
        ("A", 0),
        ("Normal (no splenomegaly)", 0),
        ("", 0),
    ],
)
def test_a_choice_is_the_first_letter(answer, right):
    said = judged(answer, GRADES[1], "choice", GRADES)
    assert (said.kind, said.score) == ("closed", right)


@pytest.mark.parametrize(
    ("answer", "right"),
    [("yes", 1), ("Yes.", 1), ("I say yes and no", 1), ("no", 0), ("nothing", 0), ("maybe", 0)],
)
def test_yes_and_no_are_how_an_answer_begins_or_what_occurs(answer, right):
    assert judged(answer, "Yes", "closed").score == right


def test_a_category_is_compared_word_by_word():
    assert judged("normal no splenomegaly", GRADES[1], "exact").score == 1
    assert judged("normal", GRADES[1], "exact").score == 0
