"""What is measured of a run, in numbers worked by hand, and what it leaves behind."""

import json
import math
import re

import pytest
from asked import Reader, Sides, evaluator_of

from medeyes_monai.errors import ConfigError
from medeyes_monai.evaluation import compare_predictions, measure, under_conditions, write_evaluation
from medeyes_monai.evaluation.abstention import abstention
from medeyes_monai.metrics import calibration


class Wrong(Reader):
    """A reader that says left or yes whatever it sees, and at times nothing."""

    def __init__(self, silent=(), rising=False):
        super().__init__(name="wrong")
        self.silent, self.rising = silent, rising

    def _one(self, case):
        said = super()._one(case)
        answer = None if case.key in self.silent else "yes" if "Is" in case.question else "left"
        path = type(said.episode.trajectory)(said.episode.trajectory.fixations, "then", answer)
        episode = type(said.episode)(
            **{name: getattr(said.episode, name) for name in said.episode.__slots__} | {"trajectory": path}
        )
        sure = 0.5 + int(case.key[1:]) / 20 if self.rising else 0.9
        return type(said)(episode, sure if answer else 0.0, said.seconds)


def ran(path, reader=None):
    evaluator = evaluator_of(path, reader)
    evaluator.run()
    return evaluator


def test_a_run_is_measured_as_worked_by_hand(tmp_path):
    evaluator = ran(tmp_path / "p.jsonl", Wrong(silent=["q0"]))
    found = measure(evaluator.records, also=["llava-med"])
    # pictures 0 and 2 are bright on the left: q0 is not answered, q1, q4 and q5 are right, the others wrong
    sections = {part.name: (part.score.value, part.answered) for part in found.chosen.sections()}
    assert sections == {"all": (3 / 8, 7), "closed": (2 / 4, 4), "open": (1 / 4, 3)}
    assert found.counts["questions"] == 8
    assert (found.counts["images"], found.counts["answered"], found.counts["looked"]) == (4, 7, 8)
    assert {name: (share.hits, share.count) for name, share in found.families.items()} == {
        "closed": (2, 4),
        "open": (1, 4),
    }
    # the look lies in the left half: it hits where that is the bright one
    assert found.grounding.figures["first_look"].value == 0.5
    assert found.grounding.figures["iou"].value == 0.5 * (40 * 40) / (40 * 80)
    assert found.sought is None
    sought = measure(evaluator.records, look_alikes=["dark"]).sought
    assert sought.to_dict() == found.grounding.to_dict()
    nothing = measure(evaluator.records, look_alikes=["bright"])
    assert nothing.sought is None
    assert "grounding: the data mark nothing in these images but bright" in nothing.notes
    assert [(step.looks, step.score.value) for step in found.curve] == [(0, 0.0), (1, 3 / 8)]
    assert found.calibration.ece == pytest.approx(7 / 8 * abs(0.9 - 3 / 7))
    assert found.scores["llava-med"].preset == "llava-med"


def test_a_half_chooses_the_threshold_that_the_other_half_is_tried_with():
    # answers about one image are wrong and sure, about the other right and less sure
    found = calibration([0.9, 0.9, 0.8, 0.8, 0.8], [False, False, True, True, True])
    pairs = [["a", "a", *[f"b{n}"] * 3] for n in range(30)]
    kept = next(kept for pair in pairs if (kept := abstention(found, pair, risk=0.0)).halves)
    assert (kept.whole.coverage, kept.whole.threshold) == (0.0, math.inf)
    tried = {half.count: (half.threshold, half.coverage, half.risk) for half in kept.halves}
    assert tried[2] == (0.8, 1.0, 1.0)
    assert tried[3][:2] == (math.inf, 0.0)
    assert kept.to_dict()["chosen_on_the_same"] == {
        "threshold": None,
        "coverage": 0.0,
        "risk": None,
        "count": 5,
    }
    assert abstention(found, ["a"] * 5, risk=0.0).halves == ()


def test_a_protocol_that_does_not_fit_is_said_and_left_out(tmp_path):
    evaluator = ran(tmp_path / "p.jsonl")
    records = evaluator.records
    for record in records:
        object.__setattr__(record.case, "options", ("left", "right", "yes", "no"))
        object.__setattr__(record.case, "scoring", "choice")
    found = measure(records, also=["llava-med", "medevalkit"])
    assert list(found.scores) == ["own", "medevalkit"]
    assert "no rule for options" in found.refused["llava-med"]
    with pytest.raises(ConfigError, match="no rule for options"):
        measure(records, preset="llava-med")


def test_an_evaluation_leaves_figures_tables_plots_and_a_page_with_wrong_answers_first(tmp_path, capsys):
    evaluator = ran(tmp_path / "predictions.jsonl", Wrong(silent=["q0"], rising=True))
    changed = under_conditions(evaluator, ["blanked", "mirrored"], tmp_path)
    for other in changed.values():
        other.run()
    write_evaluation(
        tmp_path,
        evaluator=evaluator,
        conditions=changed,
        also=["medevalkit"],
        training=Sides(2),
        title="<b>Sides</b>",
        show=5,
    )
    figures = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert figures["preset"] == "own"
    assert figures["scores"]["own"]["sections"]["open"]["value"] == 0.25
    assert figures["majority"]["closed"]["value"] == 0.5
    assert set(figures["faithfulness"]) == {"blanked", "mirrored"}
    # of 3 answers that name a side, and stay, whatever the mirror shows
    assert figures["laterality"]["stuck"]["hits"] == figures["laterality"]["stuck"]["count"] == 3
    assert (tmp_path / "plots.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "table.md").read_text("utf-8")
    assert "own: accuracy, closed" in table
    assert table.splitlines()[0] in capsys.readouterr().out
    page = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert "<b>Sides" not in page
    assert "<script" not in page
    shown = re.findall(r'<article class="is-(\w+) family-\d">', page)
    assert shown == ["wrong", "wrong", "wrong", "unanswered", "right"]
    sure = re.findall(r"<dt>confidence</dt><dd>([\d.]+)</dd>", page)
    assert sure == ["0.850", "0.800", "0.650", "0.000", "0.750"]
    assert '<label for="only-is-wrong">wrong (3)</label>' in page
    assert "#only-is-wrong:checked ~ article:not(.is-wrong) { display: none; }" in page


def test_runs_compare_question_by_question_from_their_files(tmp_path):
    ran(tmp_path / "good" / "predictions.jsonl")
    ran(tmp_path / "bad" / "predictions.jsonl", Wrong())
    table = compare_predictions([tmp_path / "good", tmp_path / "bad"], output=tmp_path / "out")
    assert table.header == ("", "n", "good", "bad")
    content = json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"))
    other = content["others_less_the_first"]["bad"]
    # 4 of 8 lost, none gained: McNemar's p is 2 / 2**4
    assert (other["only_first"], other["only_second"], other["mcnemar_p"]) == (4, 0, 0.125)
    assert other["difference"]["value"] == -0.5


def test_runs_that_cannot_be_compared_say_why(tmp_path):
    ran(tmp_path / "a" / "predictions.jsonl")
    short = evaluator_of(tmp_path / "b" / "predictions.jsonl", dataset=Sides(2))
    short.run()
    with pytest.raises(ConfigError, match="at least two runs, got 1"):
        compare_predictions([tmp_path / "a"])
    with pytest.raises(ConfigError, match="does not exist; give a folder"):
        compare_predictions([tmp_path / "a", tmp_path / "absent"])
    with pytest.raises(ConfigError, match="8 and 4 of which 4 are shared"):
        compare_predictions([tmp_path / "a", tmp_path / "b"])
    assert (
        compare_predictions([tmp_path / "a", tmp_path / "b"], shared=True)
        .rows[0][1:]
        .count("100.0 (100.0-100.0)")
        == 2
    )
