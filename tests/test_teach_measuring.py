"""The program that compares measuring with guessing: what it teaches is true, and both sides see the same."""

import json

import pytest

from medeyes_monai.data.phantom3d import PhantomVQA3D
from medeyes_monai.metrics.scoring import answers_match
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.tiny import make_tiny_checkpoint
from medeyes_monai.tools import Measure


@pytest.fixture
def teaching(monkeypatch, request):
    """The program."""
    monkeypatch.syspath_prepend(str(request.config.rootpath / "scripts"))
    return pytest.importorskip("teach_measuring")


def test_what_is_taught_ends_at_the_lesion_that_is_asked_about_with_an_answer_within_the_tolerance(teaching):
    data = PhantomVQA3D("val", size=12, families=teaching.FAMILIES)
    cases = [data[n] for n in range(len(data))]
    paths = [
        (teaching.taught_path(case, 1, Measure()), teaching.taught_path(case, 1, None)) for case in cases
    ]
    assert sum(measured is not None for measured, _ in paths) >= 10
    for case, (measured, guessed) in zip(cases, paths, strict=True):
        asked = next(f for f in case.scene.findings if f" {case.question.split()[-4]} " in f.label)
        assert guessed.boxes[-1].intersection(asked.box) is not None
        assert guessed.answer == case.answer
        assert guessed.reasoning.startswith(asked.label.rpartition(" ")[0].rpartition(" ")[0])
        assert " mm" not in guessed.reasoning
        if measured is not None:
            assert measured.boxes == guessed.boxes
            assert answers_match(measured.answer, case)
            assert measured.answer in measured.calls[0].reply


def test_a_run_of_a_few_steps_writes_both_policies_and_a_table(teaching, tmp_path, monkeypatch):
    start, output = tmp_path / "start", tmp_path / "found"
    make_tiny_checkpoint(start)
    sizes = ["--volumes=3", "--steps=1", "--batch=2", "--test-size=2", "--workers=0"]
    monkeypatch.setattr("sys.argv", ["teach_measuring", f"--start={start}", f"--output={output}", *sizes])
    teaching.main()
    found = json.loads((output / "results.json").read_text())
    assert found["with Measure"]["volume"]["count"] == found["without"]["volume"]["count"] == 1
    assert "diameter" in (output / "table.md").read_text()
    for name in ("with_measure", "without"):
        HuggingFacePolicy(output / name)
