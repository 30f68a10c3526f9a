"""The program that tells what limits a policy: finding, naming, counting."""

import importlib
from pathlib import Path

import pytest

from medeyes_monai.data.phantom import LOOK_FAMILIES, PhantomVQA
from medeyes_monai.geometry import Box
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.sampler import write_episode
from medeyes_monai.trajectory import Fixation, Trajectory

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "bundle" / "models" / "tiny_policy"


@pytest.fixture(scope="module")
def diagnosing():
    """The program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield importlib.import_module("diagnose_policy")


def test_what_a_path_finds_and_states_is_counted_as_worked_by_hand(diagnosing):
    policy, case = HuggingFacePolicy(TINY), PhantomVQA("val", size=1, families=LOOK_FAMILIES)[0]
    first, *others = [finding for finding in case.scene.findings if finding.subtle]
    count = 2  # as drawn
    look = Fixation(f"{count} candidates", first.box.expand(case.scene.shape, minimum=32))
    episode = write_episode(Trajectory((look,), "so", case.answer), case, policy)
    assert diagnosing.found(episode, case) == [True] + [False] * len(others)
    assert diagnosing.counted(episode, case)
    for words in (f"{count + 1} candidates", "so"):
        wrong = Trajectory((Fixation(words, Box((0, 0), (32, 32))),), "so", case.answer)
        assert not diagnosing.counted(write_episode(wrong, case, policy), case)


def test_the_shipped_policy_names_what_it_is_shown_and_seldom_finds_it(diagnosing, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["diagnose_policy", str(TINY), "--splits=val", "--size=20"])
    diagnosing.main()
    row = capsys.readouterr().out.strip().splitlines()[-1].split("|")
    finds, names, counts, answers = (float(cell.split()[0]) for cell in row[3:7])
    assert names > 90 > 60 > finds
    assert counts >= 70
    assert answers < 80
