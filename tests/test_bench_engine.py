import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "bench_engine.py"
PARTS = ("rollout", "scaling", "memory", "precision", "gpu")


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        yield importlib.import_module("bench_engine")


@pytest.fixture(scope="module")
def folder(bench: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a whole run at small sizes, without TRL."""
    target: Path = tmp_path_factory.mktemp("bench")
    bench.main(
        ["--quick", "--repeats", "2", "--tokens", "4", "--only", ",".join(PARTS), "--output", str(target)]
    )
    return target


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "bench.json").read_text()))


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_benchmark_passes_its_own_checks(found: dict[str, Any], part: str) -> None:
    lines = [line for line in found["lines"] if line["part"] == part]
    checks = [check for line in lines for check in line["checks"]]
    assert checks
    assert [check for check in checks if not check["passed"]] == []
    assert all(line["value"] > 0 for line in lines)


def test_benchmark_keeps_every_repeat_of_what_it_times(found: dict[str, Any]) -> None:
    timed = [line for line in found["lines"] if line["part"] in ("rollout", "scaling")]
    assert {len(times) for line in timed for times in line["seconds"].values()} == {2}
    assert {"ours", "generate"} <= {name for line in timed for name in line["seconds"]}


def test_benchmark_says_with_what_it_was_measured(found: dict[str, Any]) -> None:
    facts = found["environment"]
    assert {"python", "torch", "transformers", "trl", "CPUs", "threads", "device"} <= facts.keys()
    assert found["arguments"]["parts"] == list(PARTS)


def test_benchmark_writes_a_table_with_every_line_and_a_plot(folder: Path, found: dict[str, Any]) -> None:
    table = (folder / "bench.md").read_text()
    assert all(line["name"] in table for line in found["lines"])
    assert "FAIL" not in table
    assert "not judged" in table
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_rollouts_of_the_benchmark_notice_a_wrong_log_probability(
    bench: ModuleType, checkpoints: dict[str, Path]
) -> None:
    rollouts = importlib.import_module("bench.rollouts")
    some = rollouts.Bench(checkpoints["qwen3_vl"])
    work = rollouts.Work(side=64, draws=2, turns=2, tokens=3)
    episodes = some.ours(some.cases(work, 0), work, 0)
    assert [episode.defect for episode in episodes] == [None, None]
    assert some.error(episodes) < 1e-5
    wrong = episodes[1].behaviour_logprobs.clone()
    wrong[episodes[1].response_mask.nonzero()[0]] += 0.1
    assert some.error([episodes[0], replace(episodes[1], behaviour_logprobs=wrong)]) == pytest.approx(
        0.1, abs=1e-4
    )


def test_verdict_tells_a_missed_target_and_a_failed_check(bench: ModuleType, tmp_path: Path) -> None:
    results = importlib.import_module("bench.results")
    report = results.Report(tmp_path, {"environment": {"python": "3"}}, judged=True)
    report.add(results.Line("rollout", "fast", 3.0, "x", (">=", 2.5), [results.Bound("error", 0, "<=", 1)]))
    report.add(results.Line("rollout", "slow", 2.0, "x", (">=", 2.5)))
    report.add(
        results.Line("rollout", "wrong", 3.0, "x", (">=", 2.5), [results.Bound("e", float("nan"), "<=", 1)])
    )
    verdicts = [row.split(" | ")[3] for row in (tmp_path / "bench.md").read_text().splitlines()[2:5]]
    assert verdicts == ["pass", "FAIL", "FAIL (check)"]


def test_each_finished_line_is_on_disk_before_the_next_begins(bench: ModuleType, tmp_path: Path) -> None:
    results = importlib.import_module("bench.results")
    report = results.Report(tmp_path, {"environment": {}}, judged=False)
    for number in (1, 2):
        report.add(results.Line("memory", f"line {number}", float(number), "GiB"))
        lines = json.loads((tmp_path / "bench.json").read_text())["lines"]
        assert [line["value"] for line in lines] == [1.0, 2.0][:number]


def test_contestants_are_timed_in_turns_after_a_warm_up(bench: ModuleType) -> None:
    setting = importlib.import_module("bench.setting")
    order: list[tuple[str, int]] = []

    def contestant(name: str) -> Any:
        return lambda repeat: order.append((name, repeat))

    times, _ = setting.interleaved({"a": contestant("a"), "b": contestant("b")}, 2)
    assert order == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert [len(times[name]) for name in "ab"] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "rollout,speed"], "unknown part 'speed'; there are rollout, step"),
        (["--repeats", "0"], "--repeats and --threads must be at least 1"),
        (["--tokens", "1"], "--tokens at least 2"),
    ],
)
def test_benchmark_refuses_what_it_cannot_run(
    bench: ModuleType, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert message in capsys.readouterr().err


def test_without_trl_the_part_step_names_the_extra(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(SystemExit):
        bench.main(["--only", "step", "--output", str(tmp_path / "out")])
    assert "medeyes-monai[bench]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trl") is None, reason="needs the extra bench")
def test_step_of_trl_and_ours_have_one_gradient_on_equal_completions(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--repeats", "1", "--only", "step"]
    done = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr[-2000:]
    lines = json.loads((tmp_path / "bench.json").read_text())["lines"]
    checks = {check["name"]: check for line in lines for check in line["checks"]}
    assert all(check["passed"] for check in checks.values())
    assert checks["cosine of the gradients on equal completions"]["value"] > 0.99
    assert len(lines) == 3
