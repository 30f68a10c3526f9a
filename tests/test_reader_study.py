"""The reader study: blinded, balanced, escaped; answers read strictly; figures that can be worked by hand."""

import base64
import hashlib
import importlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reader_studies import HOSTILE, answer_rows, make_case, make_items, make_key, make_path, write_answers

from medeyes_monai.data.phantom import PhantomVQA
from medeyes_monai.errors import ConfigError
from medeyes_monai.evaluation.journal import Journal
from medeyes_monai.evaluation.records import Answered, record_of
from medeyes_monai.geometry import Box
from medeyes_monai.reports.reader_study import (
    RatedCase,
    analyse,
    choose_items,
    design_study,
    questionnaire,
    read_answers,
    read_key,
    read_predictions,
    study_item,
    write_key,
    write_questionnaires,
    write_results,
)
from medeyes_monai.reports.reader_study.predictions import Prediction
from medeyes_monai.scenes import Case, Finding, ImageScene, VolumeScene
from medeyes_monai.trajectory import Episode, Fixation, Trajectory

ROOT = Path(__file__).resolve().parents[1]
VOID = {"meta", "img", "br", "input"}


class Page(HTMLParser):
    """Notes what a browser would make of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text, self.inside = [], [], [], "", {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.inside[self.open[-1] if self.open else ""] = data
        self.text += data


def pixels(png):
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture)


ITEMS = make_items(9, wrong=(1, 2, 5))


@pytest.mark.parametrize(("number", "readers"), [(2, 1), (5, 2), (8, 3), (9, 4)])
def test_each_reader_sees_every_item_once_and_half_of_them_with_looks(number, readers):
    items = ITEMS[:number]
    for seed in range(6):
        key = design_study(items, readers, seed)
        lists = list(key.readers.values())
        for shown in lists:
            assert sorted(one.item for one in shown) == sorted(item.key for item in items)
            assert abs(2 * sum(one.path for one in shown) - number) <= 1
            right = [one.path for one in shown if key.items[one.item].right]
            assert abs(2 * sum(right) - len(right)) <= 1
        for odd, even in zip(lists[::2], lists[1::2], strict=False):
            assert {one.item for one in odd if one.path} == {one.item for one in even if not one.path}


def test_readers_have_orders_of_their_own_that_another_seed_changes():
    key, other = (design_study(ITEMS, 3, seed) for seed in (0, 1))
    orders = [tuple(one.item for one in shown) for k in (key, other) for shown in k.readers.values()]
    assert len(set(orders)) == 6
    assert key.study != other.study
    assert design_study(ITEMS, 3, 0) == key


def test_a_page_tells_neither_source_nor_truth_and_shows_looks_only_where_the_key_says_so():
    items = make_items(looks=2)
    key = design_study(items, 2, seed=0)
    for reader, shown in key.readers.items():
        text = questionnaire(key, reader, items)
        assert re.findall(r"SOURCE|REFERENCE|SECRET|family", text) == []
        parts = text.split("<section")[2:-1]
        assert [part.count('data-rating="usefulness"') for part in parts] == [2 * one.path for one in shown]
        assert ["bright here" in part for part in parts] == [one.path for one in shown]
        assert [part.count("<img") for part in parts] == [4 if one.path else 1 for one in shown]


def test_a_page_is_the_same_whatever_the_reference_is():
    cases = [make_case(f"{n}", reference="yes") for n in range(2)]
    other = [make_case(f"{n}", reference="maybe yes") for n in range(2)]
    pages = []
    for some in (cases, other):
        items = [study_item(case, make_path("yes and no")) for case in some]
        key = design_study(items, 1, seed=0)
        pages.append(questionnaire(key, "reader-1", items).replace(key.study, ""))
    assert pages[0] == pages[1]


def test_text_of_data_and_model_is_shown_and_never_run():
    case = make_case("a", question=HOSTILE)
    items = [study_item(case, make_path(HOSTILE, said=HOSTILE)), *make_items(1)]
    page = Page(questionnaire(design_study(items, 2, 0), "reader-1", items))
    text = page.text + Page(questionnaire(design_study(items, 2, 0), "reader-2", items)).text
    assert (
        text.count(HOSTILE) == 6
    )  # question and answer twice, the look, and what was written before the answer
    assert page.tags.count("script") == 1
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name in ("href", "style")]
    assert {value[:22] for _, name, value in page.attributes if name == "src"} == {"data:image/png;base64,"}
    assert page.open == []


def test_the_page_may_run_its_own_script_and_style_and_nothing_else():
    items = make_items()
    page = Page(questionnaire(make_key(), "reader-1", items))
    (policy,) = [value for tag, name, value in page.attributes if (tag, name) == ("meta", "content")][:1]
    digests = {
        name: base64.b64encode(hashlib.sha256(page.inside[name].encode()).digest()).decode()
        for name in ("style", "script")
    }
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests['style']}'; "
        f"script-src 'sha256-{digests['script']}'; base-uri 'none'; form-action 'none'"
    )


def test_every_choice_has_a_label_and_every_group_a_question():
    page = questionnaire(make_key(), "reader-1", make_items())
    assert page.count("<fieldset") == page.count("<legend") == 4 * 3 + 2
    assert len(re.findall(r'<label><input type="radio"[^>]*> \d <span>[^<]+</span></label>', page)) == 5 * 14
    assert page.count('<input type="radio"') == 5 * 14


def test_the_image_has_its_own_resolution_is_not_mirrored_and_hides_findings():
    finding = Finding(Box((100, 40), (200, 90)), "mass")
    plain, known = (make_case("a", side=300, findings=found) for found in ((), (finding,)))
    item, other = (study_item(case, make_path()) for case in (plain, known))
    image, marked = pixels(item.image), pixels(item.marked)
    assert image.shape == (300, 600, 3)
    assert image[10, 10].tolist() == [255] * 3
    assert image[10, -10].tolist() == image[-10, 10].tolist() == [60] * 3
    assert (item.image, item.marked) == (other.image, other.marked)
    rows, columns = np.where((marked != image).any(-1))
    assert columns.max() < 100 < 300 > rows.max()  # the box is at 0 to 24, its tag beside it


def test_looks_show_what_the_model_saw_and_a_volume_says_how_it_is_turned():
    case = make_case()
    item = study_item(case, make_path(looks=2))
    seen = case.scene.look(make_path(looks=2).boxes[1]).pixels
    inner = pixels(item.looks[1].picture)[30:-4, 30:-4]  # without frame and number
    assert set(np.unique(inner)) <= set(np.unique(seen))
    scene = VolumeScene(np.random.default_rng(0).normal(size=(1, 64, 64, 8)).astype(np.float32), key="v")
    volume = Case(key="v", scene=scene, question="Is it?", answer="yes")
    shown = study_item(volume, Trajectory((Fixation("", Box((0, 0, 1), (9, 9, 4))),), "", "yes"))
    assert shown.marked is None
    assert "patient's right is on the left" in shown.convention
    assert item.convention == ""
    told = study_item(case, make_path(), sides="R < L")
    assert "R &lt; L</p>" in questionnaire(design_study([told, shown], 1, 0), "reader-1", [told, shown])


@pytest.mark.parametrize(
    ("case", "path", "reason"),
    [
        (make_case(reference=None), make_path(), "without a reference answer"),
        (make_case(), make_path(answer=None), "without an answer of the model"),
        (make_case(), make_path(looks=0), "without a look"),
    ],
)
def test_what_cannot_be_judged_is_not_in_a_study(case, path, reason):
    with pytest.raises(ConfigError, match=reason):
        study_item(case, path)
    items, passed = choose_items([Prediction(0, case.key, case.question, path, "x")], [case], 5, 0)
    assert (items, dict(passed)) == ([], {reason: 1})


def test_a_balanced_choice_has_as_many_right_as_wrong_answers_as_far_as_there_are():
    cases = [make_case(f"{n}") for n in range(10)]
    answers = ["yes"] * 7 + ["no"] * 3
    found = [
        Prediction(n, case.key, case.question, make_path(answer), "x")
        for n, (case, answer) in enumerate(zip(cases, answers, strict=True))
    ]
    for number, right in ((4, 2), (6, 3), (8, 5), (20, 7)):
        items, _ = choose_items(found, cases, number, seed=1, balanced=True)
        assert (len({item.key for item in items}), sum(item.right for item in items)) == (
            min(10, number),
            right,
        )


def test_a_key_is_read_back_and_never_overwritten(tmp_path):
    key = make_key()
    write_key(key, tmp_path / "key.json")
    assert read_key(tmp_path / "key.json") == key
    with pytest.raises(ConfigError, match="not overwritten"):
        write_key(key, tmp_path / "key.json")
    content = json.loads((tmp_path / "key.json").read_text())
    content["readers"]["reader-2"][0]["path"] = "yes"
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"bad.json: readers.reader-2\[0\].path: "):
        read_key(tmp_path / "bad.json")


def test_questionnaires_lie_in_a_folder_that_holds_nothing_else(tmp_path):
    key = make_key(readers=3)
    written = write_questionnaires(tmp_path / "pages", key, make_items())
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "pages", *written]
    with pytest.raises(ConfigError, match="the key knows 4 items, got 3"):
        write_questionnaires(tmp_path / "pages", key, make_items(3))


BAD = {
    "cases[0].trust: ": ({"trust": 6}, {}),
    "cases[0].correctness: ": ({"correctness": "4"}, {}),
    "cases[0].confidence: ": ({"confidence": True}, {}),
    "cases[0].usefulness: wanted": ({"usefulness": [1] * 7}, {}),
    "cases[0].case: wanted 1, got 2": ({"case": 2}, {}),
    "cases[0]: ": ({"more": 1}, {}),
    "study: is of another study": ({}, {"study": "0" * 16}),
    "reader: is not one of the 2": ({}, {"reader": "reader-9"}),
    "format: ": ({}, {"format": "x"}),
    "cases: wanted 4, got 0": ({}, {"cases": []}),
}


@pytest.mark.parametrize("message", BAD)
def test_answers_that_were_not_asked_are_refused_by_file_and_field(tmp_path, message):
    key = make_key()
    first, fields = BAD[message]
    rows = answer_rows(key, "reader-1")
    rows[0] |= first
    path = write_answers(tmp_path, key, "reader-1", rows, **fields)
    with pytest.raises(ConfigError, match=re.escape(f"answers-reader-1.json: {message}")):
        read_answers([path], key)


@pytest.mark.parametrize("text", ['{"format": NaN}', '{"a": 1, "a": 2}', "[1", "[" * 100_000, "\ud800"])
def test_a_file_that_is_no_json_is_refused_by_its_name(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text.encode("utf-8", errors="surrogatepass"))
    with pytest.raises(ConfigError, match=r"x\.json"):
        read_answers([tmp_path / "x.json"], make_key())


def test_a_reader_who_comes_twice_is_refused(tmp_path):
    key = make_key()
    path = write_answers(tmp_path, key, "reader-1", answer_rows(key, "reader-1"))
    again = path.with_name("copy.json")
    again.write_bytes(path.read_bytes())
    with pytest.raises(ConfigError, match=r"copy.json: reader: reader-1 is also in answers-reader-1.json"):
        read_answers([path, again], key)


def rated(reader, item, path, right, correctness, useful=None, trust=3):
    looks = () if not path else (useful, None) if useful else (None, None)
    return RatedCase(reader, item, path, right, "rated", correctness, 4 if path else 2, trust, looks, "")


WORKED = [
    rated("A", "i1", True, True, 5, useful=4),
    rated("A", "i2", True, False, 2, useful=1),
    rated("A", "i3", False, True, 2),
    rated("A", "i4", False, False, 1),
    rated("B", "i1", False, True, 4),
    rated("B", "i2", False, False, 3),
    rated("B", "i3", True, True, 4, useful=5),
    rated("B", "i4", True, False, 5),
]


def test_the_effect_of_looks_is_what_it_is_by_hand():
    pytest.importorskip("krippendorff")
    results = analyse(WORKED, resamples=50)
    # Accurate with looks: A 1 1, B 1 0. Without: A 0 1, B 1 0 (undecided is not accurate).
    accuracy = results.effects["accuracy"]
    assert (accuracy.shown.value, accuracy.hidden.value) == (0.75, 0.5)
    # Items: 1 - 1, 1 - 0, 1 - 0, 0 - 1. Readers: 1 - 1/2, 1/2 - 1/2.
    assert (accuracy.over_items.value, accuracy.over_items.count) == (0.25, 4)
    assert (accuracy.over_readers.value, accuracy.readers["A"]) == (0.25, (1.0, 0.5))
    right, wrong = (results.effects[f"accuracy, model {name}"].over_items for name in ("right", "wrong"))
    assert (right.value, right.count, wrong.value, wrong.count) == (0.5, 2, 0.0, 2)
    confidence = results.effects["confidence"].over_items
    assert (confidence.value, confidence.low, confidence.high) == (2, 2, 2)
    undecided = results.effects["undecided"]
    assert (undecided.shown.value, undecided.hidden.value) == (0, 1 / 4)


def test_agreement_of_readers_is_what_it_is_by_hand():
    pytest.importorskip("krippendorff")
    agreement = analyse(WORKED, resamples=50).agreement
    # A takes the answers for 1 -1 -1 -1, B for 1 0 1 1: one of four agrees. Cohen's chance is 1/4 * 3/4,
    # Fleiss's that of the pooled 4, 1 and 3 of 8: (16 + 1 + 9) / 64.
    assert agreement["judgement, A and B: Cohen's kappa"].value == pytest.approx(1 / 13)
    assert agreement["judgement, all: Fleiss' kappa"].value == pytest.approx((16 - 26) / (64 - 26))
    # Nominal alpha: 6 of 8 values stand in pairs that differ; expected (8 * 8 - 26) / (8 * 7).
    alpha = agreement["judgement, all: Krippendorff's alpha"].value
    assert alpha == pytest.approx(1 - (6 / 8) / ((64 - 26) / 56))
    assert math.isnan(agreement["judgement, with looks: Fleiss' kappa"].value)


def test_usefulness_is_told_by_look_and_by_whether_the_model_was_right():
    pytest.importorskip("krippendorff")
    useful = analyse(WORKED, resamples=50).usefulness
    assert {number: (mean.value, mean.count) for number, mean in useful.by_look.items()} == {1: (10 / 3, 3)}
    assert (useful.right.value, useful.wrong.value) == (4.5, 1)
    assert useful.each["i1"][0] == (4.0, 1)
    assert useful.each["i4"][0][1] == 0


def test_incomplete_answers_are_counted_and_what_was_given_is_used(tmp_path):
    pytest.importorskip("krippendorff")
    key = make_key()
    rows = answer_rows(key, "reader-1")
    rows[0] |= {"trust": None, "left": True}
    rows[1] |= {"correctness": None}
    files = [write_answers(tmp_path, key, "reader-1", rows)]
    files.append(write_answers(tmp_path, key, "reader-2", answer_rows(key, "reader-2", correctness=None)))
    results = analyse(read_answers(files, key), resamples=20)
    assert results.states == {
        "reader-1": {"rated": 2, "left": 1, "open": 1},
        "reader-2": {"rated": 0, "left": 0, "open": 4},
    }
    effects = results.effects
    assert effects["accuracy"].shown.count + effects["accuracy"].hidden.count == 3
    assert effects["trust"].shown.count + effects["trust"].hidden.count == 7
    write_results(tmp_path / "out", results)
    plain = json.loads((tmp_path / "out" / "results.json").read_text())
    assert plain["agreement"]["judgement, all: Fleiss' kappa"]["value"] is None
    with Image.open(io.BytesIO((tmp_path / "out" / "results.png").read_bytes())) as picture:
        assert picture.width > picture.height


def test_a_study_of_which_nothing_was_rated_is_refused():
    with pytest.raises(ConfigError, match="nothing to analyse"):
        analyse([rated("A", "i1", True, True, None)])


def write_predictions(path, cases, **changes):
    rows = [{"format": "medeyes predictions 1", "fingerprint": "", "run": {}}]
    for n, case in enumerate(cases):
        look = {"box": [4, 4, 90, 90], "reasoning": "there", "text": ""}
        last = {"box": None, "reasoning": None, "text": ""}
        row = {
            "item": n,
            "key": case.key,
            "question": case.question,
            "answer": case.answer,
            "reasoning": "so",
        }
        rows.append(row | {"turns": [look, last]} | changes)
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"item": 99, "skipped": "x"}]) + '{"cut'
    )
    return path


def test_predictions_are_read_with_the_images_of_their_data(tmp_path):
    cases = [make_case("a", side=128), make_case("b", side=128, question="Which?")]
    found = read_predictions(write_predictions(tmp_path / "predictions.jsonl", cases))
    assert [one.path.boxes for one in found] == [(Box((4, 4), (90, 90)),)] * 2
    items, _ = choose_items(found, cases, 5, 0)
    assert {item.key for item in items} == {"a", "b"}
    with pytest.raises(ConfigError, match=r"line \d: item \d of the data is another question"):
        choose_items(found, cases[::-1], 5, 0)
    with pytest.raises(ConfigError, match="not among the 1 questions"):
        choose_items(found[1:], cases[:1], 5, 0)


def test_what_an_evaluation_writes_is_what_a_study_reads(tmp_path):
    case, path, nothing = make_case(), make_path(looks=2), torch.zeros(0)
    tokens = (nothing.long(), nothing.bool(), nothing)
    episode = Episode(case.key, "policy", 0, *tokens, (), ("one", "two", "three"), path)
    writer = Journal(tmp_path / "predictions.jsonl", {"condition": None})
    writer.append([record_of(0, case, Answered(episode, None, 0.5))], {1: "unreadable"})
    (read,) = read_predictions(tmp_path)
    assert (read.item, read.key, read.question, read.path) == (0, case.key, case.question, path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": 3}, "line 2: wanted text, got int"),
        ({"turns": [{"box": [1, 2], "reasoning": ""}]}, "line 2"),
        ({"turns": [{"box": None}, {}]}, "line 2: lacks 'box'"),
    ],
)
def test_damaged_predictions_are_refused_by_line(tmp_path, changes, message):
    path = write_predictions(tmp_path / "p.jsonl", [make_case()], **changes)
    with pytest.raises(ConfigError, match=f"p.jsonl, {message}"):
        read_predictions(path)
    path.write_text('{"format": "medeyes predictions 1", "run": {"condition": "blanked"}}\n')
    with pytest.raises(ConfigError, match="under the condition 'blanked'"):
        read_predictions(path)
    path.write_text('{"format": "other"}\n')
    with pytest.raises(ConfigError, match="line 1: wanted the format"):
        read_predictions(path)


def test_the_script_makes_a_study_and_analyses_what_comes_back(tmp_path, monkeypatch, capsys):
    pytest.importorskip("krippendorff")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = importlib.import_module("reader_study")
    cases = list(PhantomVQA("test", size=7, scene=lambda image, **more: ImageScene(image, patch=32, **more)))
    file = write_predictions(tmp_path / "predictions.jsonl", cases)
    small = ["--bundle", str(ROOT / "bundle"), "--set", "test_size=7", "--set", "scene::patch=32"]
    make = ["make", str(file), str(tmp_path / "study"), "--readers", "2", "--cases", "4", *small]
    assert script.main(make) == 0
    assert "items: 4, of which the model answered 4 right" in capsys.readouterr().out
    key_file = tmp_path / "study" / "organiser" / "key.json"
    key = read_key(key_file)
    answers = [str(write_answers(tmp_path, key, name, answer_rows(key, name))) for name in key.readers]
    out = tmp_path / "results"
    assert script.main(["analyse", str(key_file), *answers, "--output", str(out), "--resamples", "20"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["results.json", "results.md", "results.png"]
    assert "| accuracy (%)" in capsys.readouterr().out
    assert script.main(make) == 2
    assert "not overwritten" in capsys.readouterr().err
