"""Answers that are written down: a run goes on where it was, and never as another run."""

import json
import os
import signal

import pytest
import torch
from asked import LOOK, Reader, Sides, evaluator_of

from medeyes_monai.errors import ConfigError
from medeyes_monai.evaluation import read_predictions, under_conditions
from medeyes_monai.evaluation.records import Record
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import CONDITIONS


def ran(path, reader=None, dataset=None, **more):
    evaluator = evaluator_of(path, reader, dataset, **more)
    evaluator.run()
    return evaluator


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()[1:]]


def test_every_question_is_asked_once_and_written_with_all_that_was_done(tmp_path):
    evaluator = ran(tmp_path / "new" / "predictions.jsonl")
    assert evaluator.respondent.asked == [f"q{n}" for n in range(8)]
    first = rows(evaluator.path)[0]
    assert {key: first[key] for key in ("item", "key", "image", "question", "reference", "answer")} == {
        "item": 0,
        "key": "q0",
        "image": "picture-0",
        "question": "Which half is bright?",
        "reference": "left",
        "answer": "left",
    }
    assert (first["confidence"], first["seconds"], first["shape"]) == (0.75, 0.5, [80, 80])
    assert first["findings"] == [{"box": [0, 0, 40, 80], "label": "bright half", "subtle": True}]
    assert [turn["box"] for turn in first["turns"]] == [[0, 0, 40, 40], None]
    assert [turn["tokens"] for turn in first["turns"]] == [[1, 2], [3]]
    assert [turn["logprobs"] for turn in first["turns"]] == [[-0.5, -0.25], [-0.125]]


def test_a_record_read_back_is_the_record(tmp_path):
    evaluator = ran(tmp_path / "p.jsonl")
    run, records, skipped = read_predictions(tmp_path / "p.jsonl")
    assert (run, skipped) == (evaluator.identity, {})
    for record, row in zip(records, rows(tmp_path / "p.jsonl"), strict=True):
        assert record.to_row() == row == Record.from_row(row).to_row()
    assert records[0].episode.trajectory.boxes == (LOOK,)
    with pytest.raises(ConfigError, match="holds no pixels"):
        records[0].case.scene.overview()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_run_that_was_killed_goes_on_without_repeating_or_losing_a_question(tmp_path):
    path = tmp_path / "predictions.jsonl"
    child = os.fork()
    if child == 0:  # dies in its second batch
        torch.set_num_threads(1)
        ran(path, Reader(dies_after=4))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [row["item"] for row in rows(path)] == [0, 1, 2]  # one batch was written, the next was not
    again = ran(path)
    assert again.respondent.asked == [f"q{n}" for n in range(3, 8)]
    whole = ran(tmp_path / "whole.jsonl")
    assert path.read_bytes() == whole.path.read_bytes()
    assert ran(path).respondent.asked == []


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_last_line_that_was_cut_off_is_asked_again(tmp_path, cut):
    path = ran(tmp_path / "p.jsonl").path
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert ran(path).respondent.asked == ["q7"]
    assert path.read_bytes() == whole


def test_answers_of_another_run_are_refused_with_what_differs(tmp_path):
    path = ran(tmp_path / "p.jsonl").path
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"of another run, with another respondent\.name; give another"):
        ran(path, Reader(name="other"))
    with pytest.raises(ConfigError, match=r"data\.length, data\.pictures"):
        ran(path, dataset=Sides(3))
    with pytest.raises(ConfigError, match="another seed"):
        ran(path, seed=1)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: [lines[0], b"{nothing\n", *lines[2:]], "line 2: is damaged"),
        (lambda lines: [lines[0], b"[]\n", *lines[2:]], "line 2: wanted an object, got list"),
        (lambda lines: [lines[0], lines[1], lines[1]], "line 3: item 0 stands there twice"),
        (lambda lines: [lines[0], lines[1].replace(b'"answer"', b'"anwser"')], "line 2: KeyError.*answer"),
        (lambda lines: [lines[0], lines[1].replace(b"-0.5", b"0.5")], "line 2: wanted one log-prob"),
        (lambda lines: lines[1:], "is no file of predictions"),
        (lambda lines: [], "is no file of predictions"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path, damage, said):
    path = ran(tmp_path / "p.jsonl").path
    path.write_bytes(b"".join(damage(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(ConfigError, match=said):
        ran(path)


def test_an_item_that_cannot_be_read_is_counted_and_not_asked_again(tmp_path):
    evaluator = ran(tmp_path / "p.jsonl", dataset=Sides(unreadable=[2]))
    assert evaluator.respondent.asked == ["q0", "q1", "q3", "q4", "q5", "q6", "q7"]
    assert evaluator.skipped == 1
    assert ran(tmp_path / "p.jsonl", dataset=Sides(unreadable=[2])).respondent.asked == []


def test_a_question_that_cannot_be_scored_is_refused_before_anybody_is_asked(tmp_path):
    class Unanswered(Sides):
        def __getitem__(self, index):
            case = super().__getitem__(index)
            return type(case)(case.key, case.scene, case.question, None if index == 1 else case.answer)

    evaluator = evaluator_of(tmp_path / "p.jsonl", dataset=Unanswered())
    with pytest.raises(ConfigError, match=r"item 1 \(q1\) has no reference answer"):
        evaluator.run()
    assert evaluator.respondent.asked == []


def test_conditions_ask_again_what_was_looked_at_and_change_what_they_say(tmp_path):
    evaluator = ran(tmp_path / "p.jsonl")
    changed = under_conditions(evaluator, list(CONDITIONS), tmp_path)
    answers = {}
    for name, other in changed.items():
        other.run()
        answers[name] = [record.episode.trajectory.answer for record in other.records]
    seen = [record.episode.trajectory.answer for record in evaluator.records]
    assert seen == ["left", "yes", "right", "no"] * 2
    assert answers["blanked"] == ["left", "yes"] * 4  # grey is bright enough
    assert answers["other_image"] == ["right", "no", "left", "yes"] * 2
    assert answers["mirrored"] == ["right", "no", "left", "yes"] * 2
    assert answers["insertion"] == seen
    assert [r.case.answer for r in changed["mirrored"].records] == ["right", "yes", "left", "no"] * 2
    assert changed["deletion"].records[0].episode.trajectory.boxes == (Box((0, 0), (40, 40)),)


def test_a_condition_that_was_stopped_goes_on_with_the_same_images(tmp_path):
    evaluator = ran(tmp_path / "p.jsonl")
    whole = under_conditions(evaluator, ["other_image"], tmp_path)["other_image"]
    whole.run()
    lines = whole.path.read_bytes().splitlines(keepends=True)
    whole.path.write_bytes(b"".join(lines[:3]))
    again = under_conditions(evaluator, ["other_image"], tmp_path)["other_image"]
    again.run()
    assert again.path.read_bytes() == b"".join(lines)


def test_settings_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="a condition is one of blanked"):
        evaluator_of(tmp_path / "p.jsonl", condition="dark")
    with pytest.raises(ConfigError, match="unknown scoring preset 'mine'"):
        evaluator_of(tmp_path / "p.jsonl", preset="mine")
    with pytest.raises(ConfigError, match="run the evaluator first"):
        _ = evaluator_of(tmp_path / "p.jsonl").records
