"""The command line: a training from end to end, and one clear message for each thing that can be wrong."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from medeyes_monai.__main__ import EXIT_ERROR, main

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
SMALL = [
    "max_epochs=1",
    "epoch_length=2",
    "questions=4",
    "draws=2",
    "n_paths=2",
    "test_size=14",
    "max_turn_tokens=8",
    "device=cpu",
]


def words(verb, policy, out, *more, sets=()):
    given = [*SMALL, *sets] if verb == "train" else [*sets, "max_turn_tokens=8", "device=cpu"]
    given += [f"policy_path={policy}", f"output_dir={out}"]
    return [verb, "--bundle", str(BUNDLE), *more, *(w for text in given for w in ("--set", text))]


@pytest.fixture
def fails(capsys, tmp_path, checkpoints):
    """Run a command that must fail, and return the one line that it says."""

    def run(verb, *more, sets=(), policy=checkpoints["qwen3_vl"]):
        code = main(words(verb, policy, tmp_path / "out", *more, sets=sets))
        said = [line for line in capsys.readouterr().err.splitlines() if "Loading weights" not in line]
        lines = [line for line in said if line.strip()]
        assert code == EXIT_ERROR
        assert len(lines) == 1, said
        assert lines[0].startswith("error: ")
        assert not (tmp_path / "out" / "checkpoints").exists()
        return lines[0]

    return run


def datalist(folder, items):
    (folder / "list.json").write_text(json.dumps({"training": items, "validation": items}))
    return ["--config", str(ROOT / "configs" / "datalist.yaml"), "--set", f"datalist={folder / 'list.json'}"]


def test_a_training_runs_to_its_end_writes_its_files_and_goes_on(tmp_path, checkpoints, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert main(words("train", checkpoints["qwen3_vl"], out)) == 0
    table = capsys.readouterr().out
    assert "warm start" in table
    assert "trained, looks blanked" in table
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert written >= {
        "table.md",
        "results.json",
        "curves.png",
        "metrics.jsonl",
        "report/index.html",
        "policy/model.safetensors",
        "checkpoints/step-000002/manifest.json",
    }
    assert json.loads((out / "results.json").read_text())["trained"]["count"] == 14
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

    assert main(words("train", checkpoints["qwen3_vl"], out, "--resume", sets=["max_epochs=2"])) == 0
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]

    assert main(words("evaluate", out / "policy", tmp_path / "judged", sets=["test_size=7"])) == 0
    judged = json.loads((tmp_path / "judged" / "metrics.json").read_text())
    assert judged["counts"]["questions"] == 7
    assert (tmp_path / "judged" / "report" / "index.html").is_file()


def test_inference_answers_once_for_each_image_that_can_be_read(tmp_path, checkpoints, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        Image.new("L", (90, 120), 50).save(folder / name)
    (folder / "b.png").write_bytes(b"no image")
    more = ("--image", str(folder), "--question", "What is it?")
    policy = checkpoints["qwen2_5_vl"]
    assert main(words("infer", policy, tmp_path / "out", *more, sets=["on_unreadable=skip"])) == 0
    answers = json.loads((tmp_path / "out" / "answers.json").read_text())
    assert [(a["key"], a["question"]) for a in answers] == [
        ("a.png", "What is it?"),
        ("c.png", "What is it?"),
    ]


def test_an_unknown_key_ends_in_one_line_that_names_the_nearest(fails):
    assert "unknown key 'questoins'; did you mean 'questions'?" in fails("train", sets=["questoins=3"])


def test_an_unknown_key_in_a_file_names_the_file(fails, tmp_path):
    (tmp_path / "mine.yaml").write_text("train::trainer::re_sample: 3\n")
    line = fails("train", "--config", str(tmp_path / "mine.yaml"))
    assert "DualStreamGRPOTrainer has no such argument; did you mean 'resample'?" in line


def test_a_missing_data_directory_is_named(fails, tmp_path):
    absent = tmp_path / "absent"
    line = fails("train", "--config", str(ROOT / "configs/vqa_rad.yaml"), "--set", f"dataset_dir={absent}")
    assert f"{absent}/train.jsonl does not exist" in line


def test_a_missing_datalist_is_named(fails, tmp_path):
    more = ["--config", str(ROOT / "configs/datalist.yaml"), "--set", f"datalist={tmp_path / 'absent.json'}"]
    assert "absent.json does not exist" in fails("train", *more)


def test_an_empty_datalist_is_refused(fails, tmp_path):
    assert "list.json: holds no items" in fails("train", *datalist(tmp_path, []))


def test_a_question_without_an_answer_is_refused_in_training(fails, tmp_path):
    items = [{"image": "a.png", "question": "Is it?", "id": str(n)} for n in range(4)]
    assert "item 0 has no answer (4 in all)" in fails("train", *datalist(tmp_path, items))


def test_an_unreadable_image_ends_the_training_in_one_line_or_is_skipped_on_request(
    fails, tmp_path, checkpoints
):
    Image.new("L", (90, 90), 50).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    items = [
        {"image": name, "question": "Is it?", "answer": "yes", "id": f"{name}{n}"}
        for name in ("a.png", "b.png")
        for n in range(4)
    ]
    more = datalist(tmp_path, items)
    assert "b.png: " in fails("train", *more)
    again = words("train", checkpoints["qwen3_vl"], tmp_path / "out", *more, sets=["on_unreadable=skip"])
    assert main(again) == 0
    report = (tmp_path / "out" / "report" / "index.html").read_text("utf-8")
    assert re.search(r"could not be read: [4-8]<", report)  # all 4 of validation, those of training by chance


def test_a_policy_directory_without_weights_says_what_is_missing(fails, tmp_path, checkpoints):
    shutil.copytree(
        checkpoints["qwen3_vl"], tmp_path / "policy", ignore=shutil.ignore_patterns("*.safetensors")
    )
    for verb in ("train", "evaluate", "infer"):
        assert "the directory lacks *.safetensors" in fails(verb, policy=tmp_path / "policy")


def test_a_missing_policy_directory_is_named(fails, tmp_path):
    assert "no such directory" in fails("train", policy=tmp_path / "absent")


def test_a_policy_that_makes_no_text_of_images_is_named(fails, tmp_path, checkpoints):
    shutil.copytree(checkpoints["qwen3_vl"], tmp_path / "policy")
    file = tmp_path / "policy" / "config.json"
    file.write_text(json.dumps({"model_type": "llama", "vocab_size": 8}))
    line = fails("train", policy=tmp_path / "policy")
    assert "family 'llama' makes no text of images and text" in line


def test_an_image_that_does_not_exist_is_named(fails):
    assert "absent.png does not exist" in fails("infer", "--image", "absent.png")


def test_more_questions_than_there_are_is_refused_before_anything_runs(fails):
    assert "a step asks 20 questions, the data set has 10" in fails(
        "train", sets=["train_size=10", "questions=20"]
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("learning_rate=1e-5x", "learning_rate is a number, such as 0.0001; got '1e-5x'"),
        ("optimizer::lr=1e-5x", "optimizer::lr is a number"),
        ("optimizer::eps=1e-5x", "Failed to instantiate component 'torch.optim.AdamW'"),
        ("learning_rate=-1", "Invalid learning rate: -1"),
        ("resume=maybe", "resume is true or false"),
        ("seed=%nope", "refers to '@nope', which is not defined"),
        ("seed=$1+", "cannot be read as an expression"),
        ("seed=$undefined", "name 'undefined' is not defined"),
        ("seed=@seed", "detected circular references"),
        ("base=1", "unknown key 'base'"),
    ],
)
def test_a_value_that_makes_no_sense_is_one_line(given, said, fails):
    assert said in fails("train", sets=[given])


def test_a_place_that_cannot_be_written_to_is_one_line(fails, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in fails("train", "--output", str(tmp_path / "file" / "folder"))


def test_a_debugging_run_shows_where_an_error_comes_from(tmp_path, checkpoints):
    with pytest.raises(RuntimeError, match="Failed to instantiate") as caught:
        main([*words("train", tmp_path / "absent", tmp_path), "--debug"])
    assert "no such directory" in str(caught.value.__cause__)


def test_outside_of_the_bundles_folder_the_process_ends_with_2_and_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "medeyes_monai", "train"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == EXIT_ERROR
    assert done.stderr == (
        "error: bundle/configs/train.yaml does not exist; run this in the folder that holds the bundle, "
        "or give its place with --bundle\n"
    )
