"""The ablation: rows are files, runs are finished once, and tables hold what the hand computes."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from medeyes_monai.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "ablate.py"
ROWS = ROOT / "configs" / "ablation"
SMALL = (
    "max_epochs=2",
    "epoch_length=1",
    "questions=2",
    "draws=2",
    "test_size=7",
    "val_size=7",
    "device=cpu",
)
CONTENT = {"accuracy": {"test": 0.5}}


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        patch.chdir(ROOT)
        yield


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


def ablate(*words: object) -> int:
    return int(module("ablate").main([str(word) for word in words]))


def small(policy: Path, output: Path, *words: object) -> list[str]:
    sets = [*SMALL, f"policy_path={policy}", "max_turn_tokens=8"]
    given = [word for text in sets for word in ("--set", text)]
    return [*map(str, words), *given, "--output", str(output)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A copy of the rows, to add to."""
    return Path(shutil.copytree(ROWS, tmp_path / "rows"))


def add_row(folder: Path, name: str, about: str, body: str = "") -> None:
    (folder / f"{name}.yaml").write_text(f"_ablation: {about}\n{body}")


def plan_of(folder: Path, output: Path, **settings: object) -> Any:
    catalogue = module("ablation.rows").read_rows(folder)
    bench = module("ablation.runs").Bench(ROOT / "bundle", output, settings)
    return module("ablation.plan").Plan(bench, catalogue, 1)


def pretend(plan: Any, row: str, seed: int = 0) -> Any:
    """A finished run without having trained; returns it."""
    run = plan.run_of(plan.catalogue.rows[row], seed)
    run.begin()
    module("ablation.runs").write_sealed(run.folder / "result.json", CONTENT)
    return run


# Rows


def test_adding_a_row_is_adding_a_file(rows: Path) -> None:
    add_row(rows, "mine", "{block: doubts, label: mine}", "learning_rate: 1.0e-5\n")
    catalogue = module("ablation.rows").read_rows(rows)
    assert [row.name for row in catalogue.select(["mine"], [])] == ["full", "mine"]  # with what it refers to
    assert catalogue.rows["mine"].merged(ROOT / "bundle/configs/train.yaml", {})["learning_rate"] == 1e-5
    assert "mine" in [row.name for row in catalogue.select([], ["doubts"])]


def test_a_file_with_axes_is_a_row_for_each_combination_of_their_values(rows: Path) -> None:
    axes = "{a: {x: {seed: 1}, y: {seed: 2}}, b: {1: {draws: 1}, 2: {draws: 2}}}"
    add_row(rows, "many", f"{{block: mine, label: many, axes: {axes}}}")
    many = module("ablation.rows").read_rows(rows).select(["many"], [])[1:]
    assert [row.name for row in many] == ["many.x.1", "many.x.2", "many.y.1", "many.y.2"]
    assert many[2].settings == {"seed": 2, "draws": 1}
    assert many[2].label == "many: y, 1"


def test_every_row_there_is_can_be_run() -> None:
    starts = {"weak": ROOT / "bundle/models/tiny_policy"}
    catalogue = module("ablation.rows").read_rows(ROWS, starts)
    assert {"components", "doubts", "warm_starts", "sweeps"} <= set(catalogue.blocks)
    for row in catalogue.rows.values():
        row.check(ROOT / "bundle" / "configs" / "train.yaml", {"seed": 0, "output_dir": "out"})


def test_what_a_file_says_about_its_row_has_no_effect_on_training(rows: Path, tmp_path: Path) -> None:
    add_row(rows, "same", "{block: another, label: another name, reference: null}")
    plan = plan_of(rows, tmp_path)
    full, same = (plan.run_of(plan.catalogue.rows[name], 0) for name in ("full", "same"))
    assert full.folder == same.folder  # one configuration, one run


def test_rows_that_come_to_one_configuration_share_the_runs_of_the_first() -> None:
    plan = plan_of(ROWS, Path("out"))
    shared = {name for name, row in plan.catalogue.rows.items() if plan.run_of(row, 0).row.name == "full"}
    assert {"full", "paths.4", "turns.4", "advantage.on_baseline", "shaping.shaped"} <= shared
    assert not shared & {"no_cvs", "paths.6", "advantage.joint", "scan_only"}


def test_every_component_row_differs_from_the_full_method() -> None:
    plan = plan_of(ROWS, Path("out"))
    names = [name for name, row in plan.catalogue.rows.items() if row.block == "components"]
    assert len({plan.run_of(plan.catalogue.rows[name], 0).sha256 for name in names}) == len(names) == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "no_such"], "unknown row 'no_such'; there are full, drill_only"),
        (["--block", "no_such"], "unknown block 'no_such'; there are components, doubts"),
        (["--block", "warm_starts"], "need --warm-starts name=path"),
        (["--rows", "warm_full"], "row 'warm_full' needs --warm-starts"),
        (["--rows", "warm_full", "--warm-starts", "weak=absent"], "absent is no folder"),
        ([], "give --rows, or --block, one of components, doubts"),
        (["--rows", "full", "--seeds", "one"], "--seeds are whole numbers"),
        (["--rows", "full", "--jobs", "0"], "--jobs and --threads must be at least 1"),
        (["--rows", "full", "--set", "learning_rat=1"], "did you mean 'learning_rate'"),
        (["--rows", "full", "--configs", "absent"], "_base.yaml does not exist"),
        (["--table-only"], "results.jsonl does not exist; run some rows first"),
    ],
)
def test_what_cannot_be_run_ends_in_one_line_and_writes_nothing(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate(*words, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert not (tmp_path / "out").exists()


def test_a_file_that_does_not_say_what_its_row_is_is_refused(rows: Path) -> None:
    add_row(rows, "mine", "{block: doubts, name: mine}")
    with pytest.raises(ConfigError, match=r"mine\.yaml: _ablation must map block and label"):
        module("ablation.rows").read_rows(rows)


# Runs


def test_a_finished_run_is_not_repeated_and_other_seeds_are(tmp_path: Path) -> None:
    plan = plan_of(ROWS, tmp_path)
    pretend(plan, "full")
    tasks = plan.tasks([plan.catalogue.rows["full"]], [0, 1])
    assert [task.name for task in tasks] == ["full, seed 1"]


def test_a_run_of_another_version_is_refused_with_what_changed_and_nothing_is_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pretend(plan_of(ROWS, tmp_path, learning_rate=1e-5), "full")
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    assert ablate("--rows", "full", "--seeds", "0", "--output", tmp_path) == 2
    error = capsys.readouterr().err
    assert "made with another version of the configuration (learning_rate was 1e-05, is 0.0002)" in error
    assert "use another --output" in error
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


def test_a_run_from_other_weights_is_another_version(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    policy = Path(shutil.copytree(checkpoints["qwen3_vl"], tmp_path / "policy"))
    pretend(plan_of(ROWS, tmp_path / "out", policy_path=str(policy)), "full")
    (policy / "model.safetensors").write_bytes(b"other weights")
    module("ablation.runs").files_of.cache_clear()
    plan = plan_of(ROWS, tmp_path / "out", policy_path=str(policy))
    with pytest.raises(
        ConfigError,
        match=r"another version of the configuration .policy::model\.safetensors was",
    ):
        plan.tasks([plan.catalogue.rows["full"]], [0])


@pytest.mark.parametrize(
    "harm", [lambda text: text[: len(text) // 2], lambda text: text.replace("0.5", "0.9")]
)
def test_a_result_that_is_not_what_was_written_is_refused(tmp_path: Path, harm: Any) -> None:
    plan = plan_of(ROWS, tmp_path)
    result = pretend(plan, "full").folder / "result.json"
    result.write_text(harm(result.read_text()))
    with pytest.raises(ConfigError, match=r"result\.json is not whole.*nothing was overwritten"):
        plan.tasks([plan.catalogue.rows["full"]], [0])


def test_a_folder_with_files_of_others_is_refused(tmp_path: Path) -> None:
    plan = plan_of(ROWS, tmp_path)
    (tmp_path / "runs" / "full" / "seed-0").mkdir(parents=True)
    (tmp_path / "runs" / "full" / "seed-0" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds files that no run of this program made"):
        plan.tasks([plan.catalogue.rows["full"]], [0])


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    for seed in (0, 1):
        pretend(plan_of(ROWS, tmp_path, learning_rate=1e-5), "full", seed)
    plan = plan_of(ROWS, tmp_path)
    with pytest.raises(ConfigError, match=r"(?s)seed-0.*seed-1"):
        plan.tasks([plan.catalogue.rows["full"]], [0, 1])


def test_the_command_of_a_run_reads_its_settings_back_as_they_are(tmp_path: Path) -> None:
    weights = {"accuracy": 1.0, "grammar": 1e-5, "diversity": 0.0}
    plan = plan_of(ROWS, tmp_path, **{"reward::weights": weights, "test::dataset": "@validate::dataset"})
    command = plan.run_of(plan.catalogue.rows["full"], 3).command()
    given = [command[n + 1] for n, word in enumerate(command) if word == "--set"]
    read = dict(map(importlib.import_module("medeyes_monai.io.configs").read_setting, given))
    assert read["reward::weights"] == weights
    assert read["test::dataset"] == "@validate::dataset"
    output = command[command.index("--output") + 1]
    assert (read["seed"], output) == (3, str(tmp_path / "runs" / "full" / "seed-3"))


# Processes


def task(folder: Path, code: str, done: list[float]) -> Any:
    return module("ablation.processes").Task(
        folder.name, [sys.executable, "-c", code], folder, lambda: None, done.append
    )


def test_a_task_that_fails_does_not_stop_the_others_and_says_its_last_line(tmp_path: Path) -> None:
    done: list[float] = []
    tasks = [task(tmp_path / "bad", "print('early'); raise SystemExit('it broke')", done)]
    tasks += [task(tmp_path / name, "pass", done) for name in ("a", "b")]
    failures = module("ablation.processes").run_all(tasks, jobs=2, threads=1)
    assert failures == {"bad": "it broke"}
    assert len(done) == 2


def test_two_programs_do_not_write_into_one_folder_even_if_the_first_was_killed(tmp_path: Path) -> None:
    first = f"""if True:
        import sys; sys.path.insert(0, {str(SCRIPT.parent)!r})
        from pathlib import Path
        from ablation.processes import Task, run_all
        code = "import time; print('up', flush=True); time.sleep(30)"
        command = [sys.executable, "-c", code]
        nothing = lambda *_: None
        run_all([Task("t", command, Path({str(tmp_path)!r}) / "t", nothing, nothing)], jobs=1, threads=1)
    """
    program = subprocess.Popen([sys.executable, "-c", first])  # noqa: S603
    log = tmp_path / "t" / "log.txt"
    try:
        wait_for(lambda: log.is_file() and "up" in log.read_text())
    finally:
        program.kill()  # no time to end its child
    program.wait()
    failures = module("ablation.processes").run_all([task(tmp_path / "t", "pass", [])], jobs=1, threads=1)
    assert "another process is at work" in failures["t"]


def test_ctrl_c_ends_all_children(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    first = f"""if True:
        import signal, sys; sys.path.insert(0, {str(SCRIPT.parent)!r})
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        from pathlib import Path
        from ablation.processes import Task, run_all
        nothing = lambda *_: None
        folders = [Path({str(tmp_path)!r}) / name for name in "ab"]
        tasks = [Task(f.name, [sys.executable, "-c", {code!r}], f, nothing, nothing) for f in folders]
        run_all(tasks, jobs=2, threads=1)
    """
    program = subprocess.Popen([sys.executable, "-c", first], stderr=subprocess.PIPE)  # noqa: S603
    logs = [tmp_path / name / "log.txt" for name in "ab"]
    try:
        wait_for(lambda: all(log.is_file() and log.read_text().strip() for log in logs))
    finally:
        program.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in program.communicate()[1]
    for log in logs:
        with pytest.raises(ProcessLookupError):
            os.kill(int(log.read_text().splitlines()[0]), 0)


def test_a_warm_start_is_made_once_and_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    warm = module("ablation.warm_starts")
    starts = warm.read_warm_starts(f"weak=30,mine={ROOT / 'bundle/models/tiny_policy'}", tmp_path)
    assert starts["mine"].steps is None
    (making,) = warm.tasks_for(starts.values())
    assert making.command[1:] == [
        str(ROOT / "scripts" / "build_tiny_policy.py"),
        *("--output", str(tmp_path / "warm_starts" / ".weak-30" / "policy"), "--protocol-steps", "30"),
    ]
    for code in ("raise SystemExit(1)", ""):
        assert not starts["weak"].path.exists()
        program = f"import os, sys; os.makedirs({making.command[3]!r}); {code}"
        quick = replace(making, command=[sys.executable, "-c", program])
        module("ablation.processes").run_all([quick], jobs=1, threads=1)
    assert starts["weak"].path.is_dir()
    assert warm.tasks_for(starts.values()) == []


@pytest.mark.parametrize("text", ["weak", "weak=", "=30", "weak=1,weak=2", "a.b=1"])
def test_warm_starts_that_cannot_be_read_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--warm-starts is name=path or name=steps"):
        module("ablation.warm_starts").read_warm_starts(text, tmp_path)


def wait_for(condition: Any, seconds: float = 30) -> None:
    for _ in range(int(seconds / 0.05)):  # not by the clock, which may run on where a machine is paused
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s")


def test_the_last_line_of_a_progress_bar_is_what_it_last_showed(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("start\ntrain: 1/2\rtrain: 2/2\r\n\n")
    assert module("ablation.processes").last_line(tmp_path / "log") == "train: 2/2"


# Tables


def record(row: str, seed: int, test: float, **more: Any) -> dict[str, Any]:
    share = {"value": test, "hits": 1, "count": 2}
    evaluation = {"format": share, "looks": 1.5, "gaze_hit": share, "gaze_iou": None}
    return {
        "row": row,
        "run": row,
        "block": "components",
        "label": row,
        "reference": None if row == "full" else "full",
        "warm_start": None,
        "seed": seed,
        "accuracy": {"start": 0.4, "test": test, "blanked": 0.2, "ood": test - 0.1},
        "evaluations": {"test": evaluation},
        "validation": [[0, 0.4], [5, test]],
        "updates_to_90": 5,
        "seconds": 60.0,
        "machine": {"cpus": 2},
    } | more


def test_differences_are_paired_by_seed_with_the_interval_of_their_mean() -> None:
    lines = [record("full", seed, value) for seed, value in enumerate((0.8, 0.9, 0.7))]
    lines += [record("no_cvs", seed, value) for seed, value in enumerate((0.7, 0.8, 0.4))]
    table = module("ablation.tables").markdown(lines)
    # -0.1, -0.1, -0.3: mean -0.1667, deviation 0.11547; 4.3027 * 0.11547 / sqrt(3) = 0.2868
    assert "-16.7 (-45.4 to +12.0) [-10.0, -10.0, -30.0]" in table
    assert "| no_cvs | 0, 1, 2 | 63.3 ± 20.8 |" in table  # of 0.7, 0.8, 0.4
    assert "Runs: 6; cpus 2." in table


def test_a_seed_without_its_partner_is_not_compared() -> None:
    lines = [record("full", 0, 0.8), record("no_cvs", 0, 0.7), record("no_cvs", 1, 0.1)]
    paired = module("ablation.tables").paired({0: 0.7, 1: 0.1}, {0: 0.8})
    assert paired.by_seed == {0: pytest.approx(-0.1)}
    assert "| -10.0 | -10.0 |" in module("ablation.tables").markdown(lines)


def test_updates_to_a_level_are_counted_to_the_first_that_reached_it() -> None:
    updates_to = module("ablation.results").updates_to
    assert updates_to([[0, 0.5], [5, 0.72], [10, 0.6], [15, 0.8]], 0.9 * 0.8) == 5
    assert updates_to([[0, 0.5]], 0.6) is None


def test_a_block_in_which_nothing_was_run_is_not_shown() -> None:
    lines = [record("full", 0, 0.8), record("paths.4", 0, 0.8, block="sweeps", run="full")]
    assert list(module("ablation.tables").blocks_of(lines)) == ["components"]
    lines.append(record("paths.2", 0, 0.8, block="sweeps"))
    assert module("ablation.tables").blocks_of(lines)["sweeps"] == ["full", "paths.4", "paths.2"]


def test_table_only_remakes_table_and_plots_from_the_records(tmp_path: Path) -> None:
    starts = [
        record(f"{row}.{start}", 0, test, block="warm_starts", warm_start=start, reference=reference)
        for row, reference, test in (("warm_full", None, 0.8), ("warm_on_policy", "warm_full", 0.7))
        for start in ("weak", "strong")
    ]
    lines = [record("full", 0, 0.8), record("no_cvs", 0, 0.7), *starts]
    module("ablation.results").write_lines(tmp_path / "results.jsonl", lines)
    assert ablate("--table-only", "--output", tmp_path) == 0
    plots = {path.name for path in tmp_path.glob("*.png")}
    assert plots == {
        *("bars_components.png", "curves_components.png", "bars_warm_starts.png"),
        *("curves_warm_starts.png", "gain_by_start.png"),
    }
    assert "## warm_starts" in (tmp_path / "table.md").read_text()


def test_a_record_that_is_cut_off_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module("ablation.results").write_lines(tmp_path / "results.jsonl", [record("full", 0, 0.8)] * 2)
    whole = (tmp_path / "results.jsonl").read_text()
    (tmp_path / "results.jsonl").write_text(whole[:-40])
    assert ablate("--table-only", "--output", tmp_path) == 2
    assert "results.jsonl, line 2: not a whole record" in capsys.readouterr().err


# The whole


@pytest.mark.slow
def test_two_rows_run_are_killed_go_on_and_are_not_repeated(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    words = small(checkpoints["qwen3_vl"], tmp_path, "--rows", "on_policy", "--seeds", "0", "--jobs", "2")
    command = [sys.executable, str(SCRIPT), *words]
    # Ctrl-C also arrives where the tests themselves run in a shell's background and ignore it
    restored = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    program = subprocess.Popen(  # noqa: S603
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, preexec_fn=restored
    )
    begun = tmp_path / "runs" / "full" / "seed-0" / "checkpoints" / "step-000001"
    try:
        wait_for(begun.exists, 600)
    finally:
        program.send_signal(signal.SIGINT)
        said = program.communicate()[1]
    assert "the same command goes on" in said
    assert program.returncode == 130
    assert not list(tmp_path.rglob("result.json"))

    assert ablate(*words) == 0
    log = (tmp_path / "runs" / "full" / "seed-0" / "log.txt").read_text()
    assert "stopped; a training goes on" in log
    steps = [
        json.loads(line)["step"] for line in (begun.parents[1] / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [1, 2]
    lines = module("ablation.results").read_lines(tmp_path / "results.jsonl")
    runs = {(line["run"], line["seed"]) for line in lines}
    assert runs == {("full", 0), ("on_policy", 0)}
    for line in lines:
        assert line["questions"] == {"start": 5, "test": 5, "blanked": 5, "ood": 5}  # 7 less two families
        assert [update for update, _ in line["validation"]] == [0, 1, 2]
    results = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(results) == 2

    assert ablate(*words) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")} == results
