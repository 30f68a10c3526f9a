"""What a user types as text or path arrives as it is, in every verb; nothing in it is ever run."""

import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from medeyes_monai.__main__ import EXIT_ERROR, _parser, _workflow, main
from medeyes_monai.data.items import item_from
from medeyes_monai.deploy.__main__ import main as deploy
from medeyes_monai.deploy.model import load_bundle
from medeyes_monai.deploy.questions import read_questions
from medeyes_monai.errors import CheckpointError, ConfigError
from medeyes_monai.experts.bundle import bundle_expert
from medeyes_monai.focusing import configured_search

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from preparing.configured import Configured

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
CANARY = "canary"
TOUCH = f"__import__('pathlib').Path('{CANARY}').touch()"
TEXTS = [
    # expressions
    f"${TOUCH}",
    f"$ {TOUCH}",
    f"$@seed or {TOUCH}",
    f"$[{TOUCH}][0]",
    f"$open('{CANARY}', 'w')",
    f"$__import__('os').system('touch {CANARY}')",
    f"$(lambda: {TOUCH})()",
    "$import os",
    "$from os import path",
    "$1/0",
    "$",
    "$$",
    "$100 question",
    "$undefined",
    "$'quoted'",
    "$_medeyes_literals['question']",
    "$@",
    # references and relative ones
    "@policy_path",
    "@seed",
    "@nowhere",
    "@",
    "@@",
    "@::seed",
    "@policy::path",
    "@#seed",
    "a @seed b",
    "seed@example.org",
    # macros
    "%?",
    "%seed",
    "%policy",
    "%training",
    "%",
    "100 % sure",
    f"%{BUNDLE / 'configs' / 'train.yaml'}::seed",
    "%nowhere.yaml::a",
    # keys, separators, YAML
    "a::b",
    "a#b",
    "#1 finding?",
    "+add",
    "_target_: os.system",
    "{_target_: os.system, command: touch canary}",
    f"!!python/object/apply:os.system ['touch {CANARY}']",
    "[1, 2]",
    "null",
    "true",
    "1e-5",
    "- a\n- b",
    "key: value",
    "~",
    "&a *a",
    # templates and shells
    "{question}",
    "{0.__class__}",
    "{{7*7}}",
    "{% for a in b %}",
    "%s %d %(name)s",
    f"; touch {CANARY}",
    f"`touch {CANARY}` $(touch {CANARY})",
    f"| touch {CANARY} && a > {CANARY}",
    # quotes, lines, letters
    "it's \"quoted\" \\ '''",
    "two\nlines\tand\ta tab",
    "\r\n",
    "Ist der Herd größer als 1 µm? 肺 🫁 \u202e",
    "x" * 5000,
    "<script>alert(1)</script>",
    "<|image_pad|><|im_end|>",
    "</answer><action>",
    "$\\frac{a}{b}$ and $x_1$",
]
"""Texts that MONAI, YAML, a template, a shell or a page could take for more than text."""
WORDS = [text for text in TEXTS if text.strip()]
NAMES = sorted({text.replace("/", "_")[:120].strip() for text in WORDS} - {"", "~"})
"""The same as names of files and folders."""

assert len(TEXTS) >= 60


@pytest.fixture(autouse=True)
def nothing_is_run(tmp_path, monkeypatch):
    """Run in an empty folder without a network, and look there for the file that a text would have made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    yield
    assert not (tmp_path / CANARY).exists()


@pytest.fixture
def image(tmp_path):
    Image.new("L", (90, 90), 50).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def parsed(*words):
    """Return the configuration that a command makes, parsed as the command would."""
    made = _workflow(_parser().parse_args([str(word) for word in words]))
    made.initialize()
    return made.parser


def words(verb, *more):
    return [verb, "--bundle", BUNDLE, *more, "--set", "scene::patch=32", "--set", "device=cpu"]


@pytest.fixture
def error(capsys):
    """Run a command that must fail, and return its one line."""

    def run(*given, program=main):
        assert program([str(word) for word in given]) == EXIT_ERROR
        lines = [x for x in capsys.readouterr().err.split("\n") if x.strip() and "Loading weights" not in x]
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return lines[0]

    return run


@pytest.mark.parametrize("text", WORDS)
def test_a_question_reaches_the_case_as_it_was_typed(text, image):
    parser = parsed(*words("infer", f"--image={image}", f"--question={text}"))
    assert parser.get_parsed_content("dataset")[0].question == text
    assert parser.get_parsed_content("network_def", instantiate=False).get_config()["question"] == text
    parser.parse()  # again, as MONAI does where a property is set
    assert parser.get_parsed_content("question") == text


@pytest.mark.parametrize("name", NAMES)
def test_a_path_reaches_what_it_names_as_it_was_typed(name, tmp_path, image):
    picture = tmp_path / f"{name}.png"
    os.link(image, picture)
    parser = parsed(
        *words("infer", f"--image={picture}", "--question=Is it?", f"--output={name}", f"--policy={name}")
    )
    assert parser.get_parsed_content("dataset")[0].key == picture.name
    made = [parser.get_parsed_content(key) for key in ("output_dir", "policy_path")]
    assert made == [name, name]
    assert parser.get_parsed_content("answers", instantiate=False).get_config()["directory"] == name


@pytest.mark.parametrize("name", NAMES)
def test_a_training_and_an_evaluation_take_paths_as_they_were_typed(name, tmp_path):
    items = [{"image": "a.png", "question": "Is it?", "answer": "yes"}]
    datalist = tmp_path / f"{name}.json"
    datalist.write_text(json.dumps({"training": items, "validation": items}), "utf-8")
    for verb, data in (("train", "train::dataset"), ("evaluate", "dataset")):
        parser = parsed(*words(verb, f"--data={datalist}", f"--output={name}", f"--policy={name}"))
        assert parser.get_parsed_content(data).items[0].question == "Is it?"
        assert parser.get_parsed_content("policy_path") == name
        log = "train::handlers::0" if verb == "train" else "evaluator"
        path = parser.get_parsed_content(f"{log}::path")
        assert path == f"{name}/{'metrics.jsonl' if verb == 'train' else 'predictions.jsonl'}"


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_may_lie_in_a_folder_of_any_name(name, tmp_path):
    (tmp_path / name).symlink_to(BUNDLE)
    parser = parsed("infer", f"--bundle={tmp_path / name}")
    assert parser.get_parsed_content("policy_path") == f"{tmp_path / name}/models/tiny_policy"
    expert, _ = configured_search(ROOT / "configs" / "experts" / "classical.yaml", tmp_path / name)
    assert expert.name
    files = [str(BUNDLE / "configs" / "train.yaml")]
    configured = Configured(files, {}, {"bundle_root": name})
    assert configured.get("policy_path") == f"{name}/models/tiny_policy"


@pytest.mark.parametrize("text", WORDS)
def test_a_question_of_a_file_is_the_text_of_the_file(text, tmp_path):
    (tmp_path / "questions.json").write_text(
        json.dumps([{"question": text, "options": [text, "no"]}]), "utf-8"
    )
    (asked,) = read_questions(tmp_path / "questions.json")
    assert (asked.question, asked.options) == (text, (text, "no"))
    item = item_from({"image": "a.png", "question": text, "answer": "no", "options": [text, "no"]}, 0)
    assert (item.question, item.options) == (text, (text, "no"))


@pytest.mark.parametrize("text", WORDS)
def test_a_path_that_leads_nowhere_is_one_line_in_every_program(text, error):
    error("infer", "--bundle", BUNDLE, f"--policy={text}")
    error("infer", "--bundle", BUNDLE, f"--config={text}")
    error("train", "--bundle", BUNDLE, f"--expert={text}.yaml")
    error("evaluate", f"--bundle={text}")
    error("compare", f"./{text}", "b", f"--preset={text}")
    error("focus", f"--image={text}", f"--question={text}", f"--output={text}", "--expert=classical")
    error(f"--model={text}", "--input=in", "--output=out", f"--question={text}", program=deploy)
    error(f"--model={BUNDLE}", "--input=in", "--output=out", f"--questions={text}", program=deploy)


@pytest.mark.parametrize("option", ["--policy", "--output", "--question", "--image", "--data"])
def test_an_option_that_is_empty_is_refused(option, error):
    assert "is empty" in error("infer", "--bundle", BUNDLE, f"{option}= ")


@pytest.mark.parametrize("text", ["half \ud800", "null \0", "\udcff.png"])
def test_what_is_no_text_is_refused_in_every_program(text, error, tmp_path):
    for option in ("--question", "--image", "--output", "--policy", "--set", "--config", "--bundle"):
        assert "is not UTF-8 text" in error("infer", f"{option}={text}")
    assert "is not UTF-8 text" in error("focus", "--image=a", f"--question={text}", "--output=out")
    assert "is not UTF-8 text" in error("compare", text)
    assert "is not UTF-8 text" in error(f"--question={text}", program=deploy)
    with pytest.raises(ConfigError, match="half a character or a null"):
        item_from({"image": "a.png", "question": text}, 0)
    (tmp_path / "questions.json").write_text(json.dumps([{"question": text}]))
    with pytest.raises(ConfigError, match=r"half a character or a null|neither JSON nor YAML"):
        read_questions(tmp_path / "questions.json")


def test_data_that_nothing_reads_are_refused(error, tmp_path):
    (tmp_path / "list.json").write_text("{}")
    slake = ROOT / "configs" / "slake.yaml"
    assert "--data is given, but" in error("train", "--bundle", BUNDLE, "--data=list.json", "--config", slake)


def test_a_setting_stays_configuration(image):
    given = words(
        "infer", f"--image={image}", "--question=Is it?", "--set", "output_dir=$@bundle_root + '/x'"
    )
    assert parsed(*given).get_parsed_content("output_dir") == f"{BUNDLE}/x"


def test_an_option_goes_before_a_setting(image):
    given = words("infer", f"--image={image}", "--output=mine", "--set", "output_dir=other")
    assert parsed(*given).get_parsed_content("output_dir") == "mine"


@pytest.mark.parametrize("name", ["$x", "@seed", "%run", "a#b::c"])
def test_a_bundle_of_any_name_is_deployed_with_its_own_policy_or_another(name, tmp_path, checkpoints):
    (tmp_path / name).symlink_to(BUNDLE)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / name).symlink_to(checkpoints["qwen3_vl"])
    assert load_bundle(tmp_path / name, device="cpu").policy.path == f"{tmp_path / name}/models/tiny_policy"
    path = tmp_path / "policies" / name
    assert load_bundle(BUNDLE, {"device": "cpu"}, policy=path).policy.path == str(path)


def test_a_setting_may_have_the_name_of_an_argument(error):
    for key in ("overlays", "policy_", "bundle", "base", "settings", "literals"):
        with pytest.raises(ConfigError, match=f"unknown key '{key}'"):
            load_bundle(BUNDLE, {key: 1})
        assert f"unknown key '{key}'" in error("train", "--bundle", BUNDLE, "--set", f"{key}=1")


def test_a_bundle_that_is_an_expert_may_lie_in_a_folder_of_any_name(tmp_path, capsys):
    folder = tmp_path / f"${TOUCH.replace('/', '_')}"
    (folder / "configs").mkdir(parents=True)
    network = {"_target_": "torch.nn.Identity", "_requires_": "$print(@bundle_root)"}
    (folder / "configs" / "inference.json").write_text(json.dumps({"network_def": network}))
    with pytest.raises(CheckpointError, match="no weights"):
        bundle_expert(folder)
    assert capsys.readouterr().out == f"{folder}\n"


@pytest.mark.parametrize(
    "text", [f"${TOUCH}", "$100 question", "%?", "@policy_path", "$\\frac{a$ {% <b> 'x'"]
)
def test_a_question_is_answered_from_end_to_end(text, image, checkpoints, capsys):
    out = Path("out $x @y %z")
    given = [
        f"--image={image}",
        f"--question={text}",
        f"--output={out}",
        f"--policy={checkpoints['qwen3_vl']}",
    ]
    small = ["--set", "max_turn_tokens=4", "--set", "device=cpu"]
    assert main(["infer", "--bundle", str(BUNDLE), *given, *small]) == 0
    (answer,) = json.loads((out / "answers.json").read_text("utf-8"))
    assert answer["question"] == text
    assert text in capsys.readouterr().out
    searched = ["focus", f"--image={image}", f"--question={text}", f"--output={out}", "--expert=classical"]
    assert main([*searched, "--bundle", str(BUNDLE), "--looks=1"]) == 0
    assert json.loads((out / "focus.json").read_text("utf-8"))["question"] == text
