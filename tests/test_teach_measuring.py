"""The program that compares measuring with guessing: what it teaches is true, and both sides see the same."""

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest

from medeyes_monai.data.phantom3d import PhantomVQA3D
from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.scoring import answers_match
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.tiny import make_tiny_checkpoint
from medeyes_monai.protocol import parse
from medeyes_monai.sampler import write_episode
from medeyes_monai.tools import Measure


@pytest.fixture
def teaching(monkeypatch, request):
    """The program."""
    monkeypatch.syspath_prepend(str(request.config.rootpath / "scripts"))
    return importlib.import_module("teach_measuring")


@pytest.fixture
def lessons(teaching):
    """What is taught; it stands beside the program."""
    return importlib.import_module("supervised.measuring")


@pytest.fixture
def policy(teaching):
    """The policy that is taught."""
    return HuggingFacePolicy(teaching.START)


def test_what_is_taught_ends_at_the_lesion_that_is_asked_about_with_what_the_tool_says(lessons, policy):
    data = PhantomVQA3D("val", size=12, families=lessons.FAMILIES)
    told = 0
    for case in (data[n] for n in range(len(data))):
        measured, guessed = (lessons.taught_path(case, policy, tool) for tool in (Measure(), None))
        asked = next(f for f in case.scene.findings if f" {case.question.split()[-4]} " in f.label)
        assert guessed.boxes[-1].intersection(asked.box) is not None
        assert guessed.answer == case.answer
        assert guessed.reasoning.startswith(" ".join(asked.label.split()[:6]))
        assert " mm" not in guessed.reasoning
        if measured is None:
            continue
        told += 1
        assert measured.boxes == guessed.boxes
        assert answers_match(measured.answer, case)
        assert measured.answer in measured.calls[0].reply
        (written,) = write_episode(measured, case, policy).trajectory.calls
        assert Measure().use(written, case.scene).reply == written.reply
    assert told >= 9


def test_a_question_about_what_is_not_there_is_refused(lessons, policy):
    case = replace(PhantomVQA3D("val", size=1, families=["diameter"])[0], question="How wide?")
    with pytest.raises(ConfigError, match="no candidate is what"):
        lessons.taught_path(case, policy, None)


def test_what_is_to_be_repeated_of_a_reply_stands_in_it_next_to_numbers_that_differ(lessons, policy):
    rng, answers = np.random.default_rng(0), set()
    for _ in range(20):
        episode = lessons.told_reply(policy, rng)
        known, said = (
            policy.decode(episode.token_ids[episode.response_mask == taught].tolist()) for taught in (0, 1)
        )
        path = parse(said.removesuffix("<|im_end|>")).trajectory
        assert path.answer in path.reasoning
        assert known.count(path.reasoning) == 1
        assert path.answer.split()[1] == ("mm" if "diameter" in known else "ml")
        answers.add(path.answer)
    assert len(answers) == 20


def test_a_run_of_a_few_steps_writes_both_policies_and_a_table(teaching, tmp_path, monkeypatch):
    start, output = tmp_path / "start", tmp_path / "found"
    make_tiny_checkpoint(start)
    sizes = ["--volumes=3", "--steps=1", "--reading-steps=1", "--batch=2", "--test-size=2", "--workers=0"]
    monkeypatch.setattr("sys.argv", ["teach_measuring", f"--start={start}", f"--output={output}", *sizes])
    teaching.main()
    found = json.loads((output / "results.json").read_text())
    assert len(found["with Measure"]) == len(found["led to the lesion"]) == len(found["without"]) == 2
    assert "diameter" in (output / "table.md").read_text()
    for name in ("with_measure", "without"):
        HuggingFacePolicy(output / name)
    known = output / "with_measure"
    monkeypatch.setattr(
        "sys.argv", ["x", f"--policy={known}", f"--output={tmp_path / 'one'}", "--test-size=2"]
    )
    teaching.main()
    again = json.loads((tmp_path / "one/results.json").read_text())
    assert again["with Measure"] == found["with Measure"]
    assert "without" not in again


def test_a_policy_is_led_by_looks_up_to_the_lesion_that_is_asked_about(teaching, policy, monkeypatch):
    seen = []

    def rollout(policy, cases, begun=(), **settings):
        seen.extend(begun)
        return [case.key for case in cases]

    monkeypatch.setattr(teaching, "rollout", rollout)
    monkeypatch.setattr(teaching, "score", lambda episodes, cases: (episodes, cases))
    data = PhantomVQA3D("val", size=12, families=teaching.FAMILIES)
    found = teaching.scores_of(policy, data, ["Measure"], led=True)
    assert list(found) == ["diameter", "volume"]
    for family, (episodes, cases) in found.items():
        assert [case.family for case in cases] == [family] * 6
        assert [case.key for case in cases] == episodes
    for path, case in zip(seen, (data[n] for n in range(12)), strict=True):
        asked = next(f for f in case.scene.findings if f" {case.question.split()[-4]} " in f.label)
        assert path.boxes[-1].intersection(asked.box) is not None
        assert path.answer is None
        assert not path.calls


def test_replies_in_words_are_taught_beside_scans_in_an_order_of_their_own(teaching, policy, monkeypatch):
    fitting, batches = importlib.import_module("supervised.fitting"), []

    def loss(policy, episodes):
        batches.append(episodes)
        return policy.core.get_input_embeddings().weight.sum()

    monkeypatch.setattr(fitting, "said_loss", loss)
    for draw in (None, lambda rng: "told"):
        fitting.teach_episodes(policy, range(9), steps=2, batch=4, rate=0.0, seed=1, name="x", draw=draw)
    plain, mixed = batches[:2], batches[2:]
    assert mixed == [[*scans, "told", "told"] for scans in plain]
