"""The memo is filled ahead of a training: no call is made twice, and none is left for the training."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medeyes_monai.__main__ import main as run_verb
from medeyes_monai.experts import BlobExpert

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "prepare_expert_paths.py"
SMALL = (
    "max_epochs=2",
    "epoch_length=2",
    "questions=3",
    "train_size=6",  # so that each question is asked in either epoch
    "n_paths=6",
    "draws=2",
    "test_size=7",
    "val_size=7",
    "probe_size=7",
    "max_turn_tokens=8",
    "device=cpu",
)
SLOW = ("--set", "expert={_target_: slow_expert.Slow}")
EXPERT = '''
import os
import time
from pathlib import Path

from medeyes_monai.errors import ExpertError
from medeyes_monai.experts import BlobExpert

HERE = Path(__file__).parent


class Slow(BlobExpert):
    """Takes its time, writes down what it was asked, and fails while there is a file that says so."""

    def scan(self, scene, query):
        self.note("scan", scene, query)
        return super().scan(scene, query)

    def drill(self, scene, box, query):
        self.note("drill", scene, query, *box.corners)
        return super().drill(scene, box, query)

    def note(self, *what):
        time.sleep(float(os.environ.get("SLOW_EXPERT", "0")))
        scene = what[1]
        if (HERE / "down").exists() and scene.key in (HERE / "down").read_text().split():
            raise ExpertError(f"{self.name}: cannot be reached")
        line = "|".join(map(str, (what[0], scene.key, *what[2:])))
        with (HERE / "calls.txt").open("a") as log:
            log.write(line + "\\n")
'''


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "slow_expert.py").write_text(EXPERT)
    monkeypatch.chdir(ROOT)
    yield
    sys.modules.pop("slow_expert", None)


@pytest.fixture
def words(tmp_path: Path, checkpoints: dict[str, Path]) -> Callable[..., list[str]]:
    def of(*more: str) -> list[str]:
        sets = [*SMALL, f"policy_path={checkpoints['qwen3_vl']}", f"output_dir={tmp_path / 'out'}"]
        return [*more, *(word for text in sets for word in ("--set", text))]

    return of


def prepare(arguments: list[str]) -> int:
    return int(importlib.import_module("prepare_expert_paths").main(arguments))


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "expert_paths.json").read_text())
    return found


def replies(folder: Path) -> set[str]:
    return {path.name for path in (folder / "out" / "memo").rglob("*") if path.is_file()}


def asked(folder: Path) -> list[str]:
    return (folder / "calls.txt").read_text().splitlines()


def test_a_prepared_training_asks_its_expert_nothing_in_any_epoch(
    words: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert prepare(words("--expert", "classical")) == 0
    said = capsys.readouterr().out
    report = report_of(tmp_path)
    assert (report["questions"], report["images"], report["paths"]) == (6, 6, 6 * 6 * 2)
    assert report["calls"]["scan"] == 6  # for 72 paths: one for each picture, as each has one question
    assert 6 < report["calls"]["drill"] <= 6 * 8  # no more than there are candidates
    assert len(replies(tmp_path)) == sum(report["calls"].values())
    assert report["hits"]["scan"] > 6 * 11
    assert (report["yield"], report["lost"], report["fates"]) == (1.0, [], {"kept": 72})
    assert report["images_per_second"] == pytest.approx(6 / report["seconds"])
    assert "images/s" in said
    assert "100.0% kept" in said
    with Image.open(tmp_path / "out" / "expert_paths.png") as picture:
        assert min(picture.size) > 500

    assert prepare(words("--expert", "classical", "--jobs", "1")) == 0
    assert report_of(tmp_path)["calls"] == {}

    def asked_after_all(*_: object) -> None:
        raise AssertionError("the expert was asked")

    monkeypatch.setattr(BlobExpert, "scan", asked_after_all)
    monkeypatch.setattr(BlobExpert, "drill", asked_after_all)
    bundle = ["--bundle", str(ROOT / "bundle")]
    assert run_verb(["train", *words("--expert", "classical", *bundle)]) == 0
    steps = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [step["expert/yield"] for step in steps] == [1.0] * 4
    assert [step["expert/lost_share"] for step in steps] == [0.0] * 4


def test_a_preparation_that_is_killed_goes_on_where_it_was(
    words: Callable[..., list[str]], tmp_path: Path
) -> None:
    arguments = words("--expert", "classical", *SLOW)
    paths = os.pathsep.join((str(tmp_path), str(ROOT)))
    environment = os.environ | {"SLOW_EXPERT": "0.2", "PYTHONPATH": paths}
    command = [sys.executable, str(SCRIPT), *arguments, "--jobs", "2"]
    first = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)  # noqa: S603
    deadline = time.monotonic() + 400
    while not (tmp_path / "calls.txt").exists() or len(asked(tmp_path)) < 6:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_until_still(tmp_path)
    assert not (tmp_path / "out" / "expert_paths.json").exists()
    before = asked(tmp_path)
    assert prepare(arguments) == 0
    report = report_of(tmp_path)
    twice = [line for line, times in Counter(asked(tmp_path)).items() if times > 1]
    assert len(twice) <= 2  # what each of the two was at when it ended
    assert sum(report["calls"].values()) == len(asked(tmp_path)) - len(before)
    assert len(replies(tmp_path)) == len(set(asked(tmp_path)))


def wait_until_still(folder: Path) -> None:
    """Wait until the processes whose parent is gone have ended, each after the question that it is at."""
    last, since = -1, time.monotonic()
    while time.monotonic() - since < 5:
        if (now := len(asked(folder))) != last:
            last, since = now, time.monotonic()
        time.sleep(0.1)
    assert last < 6 * 9  # they did not go on to the end


def test_several_processes_do_what_one_does(words: Callable[..., list[str]], tmp_path: Path) -> None:
    assert prepare(words("--expert", "classical", "--jobs", "2")) == 0
    together, said = replies(tmp_path), report_of(tmp_path)
    (tmp_path / "out").rename(tmp_path / "before")
    assert prepare(words("--expert", "classical")) == 0
    assert replies(tmp_path) == together
    alone = report_of(tmp_path)
    for name in ("questions", "images", "calls", "hits", "paths", "fates", "ends", "lost", "expert"):
        assert said[name] == alone[name], name
    assert (said["jobs"], alone["jobs"]) == (2, 1)


def test_a_question_that_the_expert_lost_is_named_and_made_up_for_the_next_time(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words("--expert", "classical", *SLOW)
    (tmp_path / "down").write_text("phantom-0-train-2 phantom-0-train-4")
    assert prepare(arguments) == 1
    assert report_of(tmp_path)["lost"] == ["phantom-0-train-2", "phantom-0-train-4"]
    assert "lost        2: phantom-0-train-2, phantom-0-train-4" in capsys.readouterr().out
    (tmp_path / "down").unlink()
    assert prepare(arguments) == 0
    assert report_of(tmp_path)["calls"]["scan"] == 2
    assert max(Counter(asked(tmp_path)).values()) == 1


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_expert_that_stays_away_ends_the_preparation_in_one_line(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: str
) -> None:
    arguments = [*words("--expert", "classical", "--jobs", jobs, *SLOW), "--set", "train_size=60"]
    arguments += ["--set", "questions=15", "--set", "max_epochs=4"]
    (tmp_path / "down").write_text(" ".join(f"phantom-0-train-{n}" for n in range(60)))
    assert prepare(arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: blobs-")
    assert "failed at 20 of the latest 20 questions, above the limit of 20%" in last


def test_what_would_be_for_nothing_is_refused_with_the_way_out(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = {
        "memo::directory is null; set it": ["--expert", "annotations"],
        "has no expert paths: its sampler is NoneType": ["--set", "train::trainer::sampler=null"],
        "--jobs and --limit are at least 1": ["--jobs", "0"],
        "'clasical' is unknown; did you mean 'classical'?": ["--expert", "clasical"],
        "unknown key 'sed'": ["--set", "sed=1"],
        "train.jsonl does not exist": [
            *("--config", str(ROOT / "configs" / "vqa_rad.yaml")),
            *("--set", f"dataset_dir={tmp_path / 'absent'}"),
        ],
    }
    for said, more in refused.items():
        assert prepare(words(*more)) == 2
        assert said in capsys.readouterr().err
    assert replies(tmp_path) == set()


def test_a_limit_takes_the_questions_that_are_asked_first(
    words: Callable[..., list[str]], tmp_path: Path
) -> None:
    from medeyes_monai.training.batches import StepBatchSampler

    assert prepare(words("--expert", "classical", "--limit", "2", "--output", str(tmp_path / "else"))) == 0
    report = json.loads((tmp_path / "else" / "expert_paths.json").read_text())
    assert report["questions"] == 2
    configured = importlib.import_module("preparing.configured")
    files = [str(ROOT / "bundle" / "configs" / "train.yaml")]
    settings = {"max_epochs": 2, "epoch_length": 2, "questions": 3, "train_size": 6, "scene::patch": 32}
    plan = configured.Configured(files, settings).plan(2)
    batches = StepBatchSampler(6, 3, 0)
    assert {item.index for item in plan} == set(batches.batch_of(0)[:2])
    for item in plan:
        assert item.steps == tuple(step for step in range(4) if item.index in batches.batch_of(step))
