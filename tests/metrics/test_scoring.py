"""Scoring rules and published protocols against answers that were judged by hand, and their laws."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medeyes_monai.data.phantom import ANSWERS
from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.scoring import (
    PRESETS,
    SPELLINGS,
    answer_type,
    answers_match,
    bleu,
    named_option,
    normalise,
    overlap,
    preset,
    read_quantity,
)
from medeyes_monai.metrics.scoring.llava_med import open_scores
from medeyes_monai.metrics.scoring.medevalkit import open_extras
from medeyes_monai.rewards import accuracy
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Trajectory

HAND = json.loads((Path(__file__).parent / "hand_scored.json").read_text("utf-8"))
RULES = ("exact", "closed", "choice", "numeric")
PROTOCOLS = {"medevalkit": "medevalkit", "slake": "medevalkit-slake", "llava": "llava-med"}


def case(reference, scoring="exact", options=(), tolerance=0.0, family="open"):
    return Case("q", None, "?", reference, tuple(options), family, scoring, tolerance)


def hand_case(row, scoring="exact"):
    options = HAND["options"].get(row.get("options"), ())
    family = "closed" if options else row.get("type", "open")
    return case(row["reference"], scoring, options, row.get("tolerance", 0.0), family)


@pytest.mark.parametrize("row", HAND["rows"], ids=lambda row: f"{row['answer']} for {row['reference']}")
def test_every_protocol_says_what_was_judged_by_hand(row):
    answer = row["answer"]
    said = {rule: int(answers_match(answer, hand_case(row, rule))) for rule in RULES if rule in row}
    said |= {
        name: preset(protocol).judge(answer, hand_case(row)).score
        for name, protocol in PROTOCOLS.items()
        if name in row
    }
    if "recall" in row:
        said["recall"] = overlap(answer, row["reference"])[1]
        assert answers_match(answer, hand_case(row, "open")) is bool(row["exact"])
    assert said == {name: row[name] for name in said}
    assert said.keys() == row.keys() - {"answer", "reference", "type", "options", "tolerance"}


def test_enough_answers_of_each_kind_were_judged_by_hand():
    counts = {name: sum(name in row for row in HAND["rows"]) for name in (*RULES, "recall", *PROTOCOLS)}
    assert len(HAND["rows"]) >= 60
    assert all(count >= 15 for count in counts.values()), counts


def test_the_reward_is_the_own_preset():
    class Said:
        def __init__(self, answer):
            self.trajectory = Trajectory(answer=answer)

    for row in HAND["rows"]:
        for rule in RULES[: 4 if "numeric" in row else 3]:
            asked = hand_case(row, rule)
            assert accuracy(Said(row["answer"]), asked) == preset("own").judge(row["answer"], asked).score


WORDS = sorted({word for words in ANSWERS.values() for word in words})


@pytest.mark.parametrize("family", sorted(ANSWERS))
def test_the_benchmarks_answers_are_right_only_as_themselves(family):
    for reference in ANSWERS[family]:
        for word in WORDS:
            for said in (word, word.upper(), f" {word}.", f"the {word}"):
                assert answers_match(said, case(reference)) is (word == reference)
                assert answers_match(said, case(reference, "choice", ANSWERS[family])) is (word == reference)
            for said in (f"{word} {word}", f"{word} {reference}", f"{reference}{word}", f"not {word}"):
                assert not answers_match(said, case(reference))


@given(st.text(max_size=60))
@example("a the an")
@example("C.T.")
@example("1,000,000")
@settings(deadline=None, max_examples=300)
def test_normalising_twice_is_normalising_once_for_words_and_numbers(text):
    once = normalise(text)
    assert once == once.strip()
    assert normalise(text.upper().lower()) == normalise(text.lower()) or not text.isascii()


@given(
    st.lists(st.sampled_from(["left", "lung", "the", "2", "x-ray", "no", "C.T.", "-3.5", "%"]), max_size=6)
)
@settings(deadline=None)
def test_case_space_and_punctuation_around_an_answer_never_matter(words):
    text = " ".join(words)
    assert normalise(f"  {text.upper()} ?! ".replace(" ", "  ")) == normalise(text)


@pytest.mark.parametrize("forms", SPELLINGS, ids=lambda forms: forms[0])
def test_what_has_several_spellings_is_the_same_in_all_and_as_nothing_else_here(forms):
    first, *others = forms
    assert {normalise(f"In {form.upper()}?") for form in forms} == {f"in {normalise(first)}"}
    rest = {normalise(form) for group in SPELLINGS if group != forms for form in group}
    assert normalise(first) not in rest
    assert others


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("A 2 cm lesion in a lobe", "2 cm lesion in lobe"),
        ("vitamin A deficiency", "vitamin a deficiency"),
        ("thirty two", "32"),
        ("thirty zero", "30 0"),
        ("ninety nine and one", "99 and 1"),
        ("zero", "0"),
        ("don\u2019t know", "dont know"),
        ("3-4 cm", "3 4 cm"),
        ("-4 cm", "-4 cm"),
        ("<5 cm", "< 5 cm"),
        ("L4-L5", "l4 l5"),
        ("10,000", "10000"),
        ("1,5", "1,5"),
        ("120/80", "120/80"),
        ("T1/T2", "t1 t2"),
        ("snake_case", "snake case"),
    ],
)
def test_normal_forms(text, plain):
    assert normalise(text) == plain


OPTIONS = ("cyst", "nodule", "hepatitis B", "no change")


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("I would choose C.", 2),
        ("It is hepatitis B.", 2),  # not the letter
        ("hepatitis", None),
        ("It is A", 0),
        ("It is a mess", None),
        ("(d)", 3),
        ("[D] no change", 3),
        ("Answer: D) no change", 3),
        ("D because nothing changed", None),  # a bare letter before other words
        ("A, not B", None),
        ("neither a cyst nor a nodule", None),
        ("There is no effusion. It is a nodule.", 1),
        ("There is no effusion, but a nodule", 1),
        ("no effusion or nodule", None),
        ("nodule, nodule, nodule", 1),
        ("A/B", None),
        ("options A and B", None),
        ("bed", None),
        ("This is T2 weighted", None),
        ("\\boxed{B}", 1),
        ("the letter B", 1),
        ("E", None),
        ("nodules", None),
    ],
)
def test_options_in_sentences(text, option):
    assert named_option(text, OPTIONS) == option


def test_a_long_text_is_not_searched_for_options():
    assert named_option("well " * 300 + "nodule", OPTIONS) == 1
    assert named_option("well " * 500 + "nodule", OPTIONS) is None


@pytest.mark.parametrize(
    "piece", ["nodule ", "not a nodule. ", "A or B, ", "(", "is is is ", "answer: ", "twenty "]
)
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_no_protocol_takes_long_about_a_long_answer(piece, name):
    began = time.process_time()
    options = OPTIONS if name in ("own", "medevalkit") else ()
    for length in (1_999, 50_000):
        text = (piece * length)[:length]
        preset(name).judge(text, case("nodule", "choice" if options else "exact", options, family="open"))
    assert time.process_time() - began < 5


@given(
    st.text(max_size=40), st.sampled_from(sorted(PRESETS)), st.sampled_from(["yes", "no", "left lung", "2"])
)
@settings(deadline=None, max_examples=200)
def test_any_answer_has_scores_between_0_and_1(answer, name, reference):
    for family in ("closed", "open"):
        said = preset(name).judge(answer, case(reference, family=family))
        assert all(0 <= value <= 1 for value in (said.score, *said.extras))
        assert len(said.extras) == (len(preset(name).extras) if said.kind == "open" else 0)


@given(st.lists(st.sampled_from(["mass", "left", "lobe", "2"]), min_size=1, max_size=6))
@settings(deadline=None)
def test_the_reference_itself_has_every_overlap_of_1_and_an_empty_answer_of_0(words):
    precision, recall, f1, bleu1, bleu4 = overlap(" ".join(words), " ".join(words))
    assert (precision, recall, f1) == (1, 1, 1)
    assert bleu1 == pytest.approx(1)
    assert bleu4 == pytest.approx(float(len(words) >= 4))  # no sequence of four, no BLEU-4
    assert set(overlap("", " ".join(words))) == {0}


def test_overlaps_are_those_worked_out_by_hand():
    # Left, lobe and mass are shared: 3 of 4 words and 3 of 5.
    precision, recall, f1, bleu1, bleu4 = overlap("LLL mass", "mass in left upper lobe")
    assert (precision, recall) == (3 / 4, 3 / 5)
    assert f1 == pytest.approx(2 * 3 / (4 + 5))
    assert bleu1 == pytest.approx(3 / 4 * 2.718281828 ** (1 - 5 / 4))  # shorter than the reference
    assert bleu4 == 0
    # 2-grams: "b c" of ("a b", "b c"); unigrams b, c of three; as long as the reference.
    assert bleu(["a", "b", "c"], ["x", "b", "c"], 2) == pytest.approx((2 / 3 * 1 / 2) ** 0.5)


def test_medevalkits_words_are_a_set_and_llava_meds_count_as_often_as_they_are_said():
    # given {left, lung}, wanted {left, lung, base}: 2 of 2 and 2 of 3
    assert open_extras("left left lung", "left lung base")[:3] == pytest.approx((1, 2 / 3, 0.8))
    # said 3 shared words of 3; 3 of 3 + 1 missed
    assert open_scores("left left lung", "left lung base")[:3] == pytest.approx((3 / 4, 1, 6 / 7))


def test_what_a_protocol_takes_for_closed():
    side = case("left", family="closed/organ")
    assert [preset(name).judge("left", side).kind for name in PRESETS] == [
        "closed",
        "open",
        "closed",
        "closed",
        "open",
    ]
    assert answer_type(case("Yes", family="all")) == "closed"
    assert answer_type(case("yes", family="open")) == "open"
    assert answer_type(case("cyst", options=OPTIONS, family="all")) == "closed"
    assert answer_type(case("left", family="closedness")) == "open"


@pytest.mark.parametrize("name", ["medevalkit-slake", "llava-med"])
def test_a_protocol_without_a_rule_for_options_says_so(name):
    with pytest.raises(ConfigError, match=r"no rule for options.*'q'.*medevalkit"):
        preset(name).judge("A", case("cyst", options=OPTIONS))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_case_without_reference_cannot_be_scored_by_any_protocol(name):
    with pytest.raises(ConfigError, match="no reference"):
        preset(name).judge("left", case(None))


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="own, medevalkit, medevalkit-slake, llava-med"):
        preset("vqa")


@pytest.mark.parametrize(
    ("given_", "wanted", "right"),
    [
        ("0.5 cm", "5 mm", True),
        ("5000 um", "5 mm", True),
        ("1 m", "1000 mm", True),
        ("2 cm2", "200 mm\u00b2", True),
        ("2 cm^2", "200 mm2", True),
        ("1000 mm3", "1 ml", True),
        ("1 cm3", "1 cc", True),
        ("5 mm", "5 mm2", False),
        ("5 mm", "5 kg", False),
        ("5 kg", "5 kg", True),
        ("45 degrees", "45\u00b0", True),
        ("thirty two percent", "32 %", True),
        ("5", "5 cm", True),  # a bare number is in the reference's unit
        ("5 cm", "5", True),
    ],
)
def test_units_are_converted_where_they_measure_the_same(given_, wanted, right):
    assert answers_match(given_, case(wanted, "numeric")) is right


def test_the_tolerance_is_in_the_unit_of_the_reference():
    assert answers_match("1.3 cm", case("12 mm", "numeric", tolerance=1))  # 13 mm, 1 mm away
    assert not answers_match("13 mm", case("1.2 cm", "numeric", tolerance=0.09))
    assert answers_match("13 mm", case("1.2 cm", "numeric", tolerance=0.1))


@pytest.mark.parametrize("text", ["a 12", "the twelve", "first", "twelve or so many", "cm", "1e999"])
def test_what_is_no_quantity_is_not_read_as_one(text):
    assert read_quantity(text) is None
