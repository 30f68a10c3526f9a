"""The configurations of evaluations: load, can be built, and run by the command line."""

import json
import shlex
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from PIL import Image

from medeyes_monai.__main__ import EXIT_ERROR, _parser, main
from medeyes_monai.io.configs import check_config, read_setting

ROOT = Path(__file__).resolve().parents[2]
EVALUATE = ROOT / "bundle" / "configs" / "evaluate.yaml"
FILES = sorted((ROOT / "configs" / "evaluation").glob("*.yaml"))


@pytest.fixture
def data(tmp_path):
    """Questions in each of the forms that the configurations read; returns overrides."""
    rows = []
    for number, answer in enumerate(("yes", "no") * 10):
        Image.new("L", (80, 90), 9 * number).save(tmp_path / f"{number}.png")
        rows.append(
            {"image": f"{number}.png", "question": "Is it dark?", "answer": answer, "id": str(number)}
        )
    for split, part in (("train", rows), ("test", rows[:2])):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    (tmp_path / "list.json").write_text(json.dumps({"validation": rows[:2]}))
    return {"dataset_dir": str(tmp_path), "datalist": str(tmp_path / "list.json")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_configuration_of_an_evaluation_can_be_built(file, checkpoints, tmp_path, data):
    parser = ConfigParser()
    parser.read_config([str(EVALUATE), str(file)])
    parser.update(data if file.stem != "server" else {})
    more = {} if file.stem == "server" else {"policy_path": str(checkpoints["qwen3_vl"])}
    parser.update({"bundle_root": str(ROOT / "bundle"), "device": "cpu", "output_dir": str(tmp_path / "out")})
    parser.update(more)
    evaluator = parser.get_parsed_content("evaluator")
    assert len(evaluator.dataset) == {"server": 504, "vqa_rad": 3, "volume": 270}.get(file.stem, 2)
    assert set(parser.get_parsed_content("changed")) == set(parser["conditions"])
    assert evaluator.identity["respondent"]["kind"] == ("chat" if file.stem == "server" else "policy")
    json.dumps(evaluator.identity)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_command_at_the_top_of_an_evaluation_names_it_and_can_be_parsed(file):
    command = next(line for line in file.read_text("utf-8").splitlines() if line.startswith("#   python"))
    words = shlex.split(command.removeprefix("#   "))
    asked = _parser().parse_args(words[3:])
    assert (asked.verb, asked.config) == ("evaluate", [f"configs/evaluation/{file.name}"])
    check_config(EVALUATE, [file], **dict(map(read_setting, asked.set)))


def words_for(checkpoints, data, out, *sets):
    given = [f"datalist={data['datalist']}", f"policy_path={checkpoints['qwen3_vl']}", f"output_dir={out}"]
    given += ["device=cpu", "max_turn_tokens=8", "conditions=[]", *sets]
    more = ["--config", str(ROOT / "configs" / "evaluation" / "datalist.yaml")]
    return [
        "evaluate",
        "--bundle",
        str(ROOT / "bundle"),
        *more,
        *(w for text in given for w in ("--set", text)),
    ]


def test_two_evaluations_run_by_the_command_line_and_compare(checkpoints, data, tmp_path, capsys):
    assert main(words_for(checkpoints, data, tmp_path / "gaze")) == 0
    assert main(words_for(checkpoints, data, tmp_path / "glance", "protocol=glance")) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "gaze"), str(tmp_path / "glance")]) == 0
    assert "own: difference" in capsys.readouterr().out
    assert main(words_for(checkpoints, data, tmp_path / "gaze", "protocol=glance")) == EXIT_ERROR
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert "of another run, with another respondent.instruction, respondent.max_looks" in said
    assert main(["compare", str(tmp_path / "gaze")]) == EXIT_ERROR
