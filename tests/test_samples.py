"""Sampled episodes with pictures, and the trackers that they and every number go to."""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_configs import TRAIN, build, parser_of
from test_main import BUNDLE, SMALL, words
from test_trainer import trainer_of, weights_sha

from medeyes_monai.__main__ import EXIT_ERROR, main
from medeyes_monai.errors import ConfigError
from medeyes_monai.io.configs import read_setting
from medeyes_monai.protocol import DEFECTS
from medeyes_monai.reports.samples import EpisodeSamples
from medeyes_monai.training.handlers import StepLog
from medeyes_monai.training.tracking import make_tracker


class Album:
    """Keeps the pictures that it is given."""

    def __init__(self):
        self.pictures = {}

    def add_image(self, tag, picture, step, dataformats="HWC"):
        self.pictures[step, tag] = picture


def numbers(log):
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [{name: v for name, v in line.items() if not name.startswith("seconds/")} for line in lines]


def test_pages_are_written_every_so_many_updates_and_training_does_not_depend_on_them(checkpoints, tmp_path):
    album = Album()
    samples = EpisodeSamples(tmp_path / "samples", interval=2, number=1, writers=[album])
    trained = []
    for handlers in ([], [samples]):
        log = tmp_path / f"{len(handlers)}.jsonl"
        folder = tmp_path / f"states{len(handlers)}"
        trainer = trainer_of(checkpoints["qwen3_vl"], folder, epochs=2, handlers=[*handlers, StepLog(log)])
        trainer.run()
        trained.append((weights_sha(trainer), numbers(log)))
    assert trained[0] == trained[1]
    pages = sorted((tmp_path / "samples").iterdir())
    assert [page.name for page in pages] == ["step-000002", "step-000004", "step-000006"]
    shown = trainer.state.episodes
    own = next(episode for episode in shown if episode.stream == "policy" and episode.draw == 0)
    expert = next(episode for episode in shown if episode.stream == "expert")
    text = (pages[-1] / "index.html").read_text("utf-8")
    assert text.count("<article") == 2
    assert f"{own.case} · " in text
    assert f"{expert.case} · " in text
    assert f"{own.defect}" in text
    assert "policy stream" in text
    assert "expert stream" in text
    assert album.pictures.keys() == {(step, f"samples/{n}") for step in (2, 4, 6) for n in (1, 2)}
    drawn = np.asarray(Image.open(pages[-1] / "2.png").convert("RGB"))
    assert np.array_equal(album.pictures[6, "samples/2"], drawn)


def test_the_first_episode_of_each_of_the_first_questions_is_shown(checkpoints, tmp_path):
    samples = EpisodeSamples(tmp_path / "samples", interval=3, number=5)
    trainer = trainer_of(checkpoints["qwen3_vl"], tmp_path / "states", epochs=1, handlers=[samples])
    trainer.sampler = None
    trainer.run()
    text = (tmp_path / "samples" / "step-000003" / "index.html").read_text("utf-8")
    places = [text.index(f"{case.key} · ") for case in trainer.state.batch]
    assert places == sorted(places)
    assert text.count("<article") == len(places) == 2  # an update asks 2 questions


@pytest.mark.parametrize("arguments", [{"interval": 0}, {"number": 0}])
def test_samples_that_would_never_be_seen_are_refused(tmp_path, arguments):
    with pytest.raises(ConfigError, match="at least 1"):
        EpisodeSamples(tmp_path, **arguments)


def small_training(checkpoint, out, **settings):
    """Run the bundle's training alone, without evaluations."""
    fixed = dict(map(read_setting, SMALL)) | {"output_dir": str(out), "policy_path": str(checkpoint)}
    parser = ConfigParser()
    parser.read_config(str(TRAIN))
    parser.update(fixed | {"bundle_root": str(BUNDLE)} | settings)
    parser.parse()
    trainer = parser.get_parsed_content("train::trainer")
    trainer.run()
    return parser, trainer


def test_samples_of_the_bundle_are_a_matter_of_one_number_and_reach_tensorboard(checkpoints, tmp_path):
    parser, _ = small_training(checkpoints["qwen3_vl"], tmp_path, sample_interval=2)
    assert (tmp_path / "samples" / "step-000002" / "index.html").is_file()
    parser.get_parsed_content("train::writer").close()
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert {"samples/1", "samples/2"} <= set(board.Tags()["images"])
    assert [image.step for image in board.Images("samples/1")] == [2]
    for interval, there in ((0, 0), (3, 3)):
        built = build(checkpoints, tmp_path, TRAIN, sample_interval=interval)
        assert sum(one.interval for one in built.values() if isinstance(one, EpisodeSamples)) == there
    assert parser_of(TRAIN)["sample_interval"] == 10


def test_every_number_that_researchers_look_for_is_logged(checkpoints, tmp_path):
    more = {"policy::lora": {"r": 4, "target_modules": ["q_proj"]}, "train::objective::kl_weight": 0.1}
    small_training(checkpoints["qwen3_vl"], tmp_path, **more)
    first, second = numbers(tmp_path / "metrics.jsonl")
    wanted = {
        "learning_rate", "kl_weight", "policy/kl_mean", "policy/tokens_per_episode", "policy/tokens_per_turn",
        "policy/longest_turn", "policy/format_rate", "gradient_norm", "policy/zero_variance_share",
        "skipped_updates", *(f"policy/defect/{kind}" for kind in DEFECTS),
    }  # fmt: skip
    assert wanted <= first.keys()
    for line in (first, second):
        defects = sum(value for name, value in line.items() if name.startswith("policy/defect/"))
        assert line["policy/format_rate"] + defects == pytest.approx(1)


@pytest.mark.parametrize("service", ["mlflow", "wandb"])
def test_a_tracker_whose_package_is_missing_is_said_in_one_line(checkpoints, tmp_path, capsys, service):
    if find_spec(service):
        pytest.skip(f"{service} is installed")
    command = words("train", checkpoints["qwen3_vl"], tmp_path / "out", sets=[f"tracker={service}"])
    assert main(command) == EXIT_ERROR
    said = capsys.readouterr().err.rpartition("error: ")[2].splitlines()
    package = f"pip install 'medeyes-monai[{service}]'"
    assert said == [f"the tracker {service} needs its package: {package}, or set tracker to null"]


def test_an_unknown_tracker_is_said_in_one_line(checkpoints, tmp_path, capsys):
    command = words("train", checkpoints["qwen3_vl"], tmp_path / "out", sets=["tracker=mlfow"])
    assert main(command) == EXIT_ERROR
    assert "error: unknown tracker 'mlfow'; choose one of ('mlflow', 'wandb')" in capsys.readouterr().err


@pytest.mark.filterwarnings("default")  # of other people's packages
def test_one_setting_logs_every_number_and_the_samples_to_mlflow(checkpoints, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs medeyes-monai[mlflow]")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    small_training(checkpoints["qwen3_vl"], out, tracker="mlflow", sample_interval=2)
    client = mlflow.MlflowClient(f"sqlite:///{out}/mlruns.db")
    (run,) = client.search_runs(client.get_experiment_by_name("medeyes_monai").experiment_id)
    assert (run.info.run_name, run.info.status) == ("out", "FINISHED")
    assert run.data.params.items() >= {"learning_rate": "0.0001", "draws": "2"}.items()
    for name in set(numbers(out / "metrics.jsonl")[0]) - {"step"}:
        logged = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        assert logged == [(line["step"], line[name]) for line in numbers(out / "metrics.jsonl")]
    names = [Path(file.path).name for file in client.list_artifacts(run.info.run_id, "images")]
    assert any(name.startswith("samples_1") for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.filterwarnings("default")  # of other people's packages
def test_one_setting_logs_every_number_and_the_samples_to_wandb(checkpoints, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs medeyes-monai[wandb]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    small_training(checkpoints["qwen3_vl"], out, tracker="wandb", sample_interval=2)
    wandb.teardown()  # waits for the process that writes
    (file,) = out.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    lines = numbers(out / "metrics.jsonl")
    missing = {name for name in lines[0] if name != "step" and name.encode() not in content}
    assert missing == set()
    assert all(repr(line["loss"]).encode() in content for line in lines)
    assert all(repr(line["gradient_norm"]).encode() in content for line in lines)
    pictures = {path.name[:4] for path in out.glob("wandb/offline-run-*/files/media/images/samples/*.png")}
    assert {"1_2_", "2_2_"} <= pictures  # number and update
    assert os.listdir(tmp_path) == ["out"]


def test_a_tracker_is_off_unless_asked_for(checkpoints, tmp_path):
    assert parser_of(TRAIN)["tracker"] is None
    with pytest.raises(ConfigError, match="choose one of"):
        make_tracker("tensorboard", tmp_path)
