"""Every configuration of bundle/ and configs/: loads, names what exists, and can be built."""

import json
import re
import shlex
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from accelerate.state import AcceleratorState
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from PIL import Image

from medeyes_monai.__main__ import VERBS, _parser
from medeyes_monai.errors import ConfigError
from medeyes_monai.io.configs import check_config, read_setting

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "bundle" / "configs"
WORKFLOWS = sorted(BASE.glob("*.yaml"))
EVALUATIONS = (
    ROOT / "configs" / "evaluation"
)  # over evaluate.yaml: tests/evaluation/test_evaluation_configs.py
OVERLAYS = sorted(file for file in (ROOT / "configs").rglob("*.yaml") if file.parent != EVALUATIONS)
TRAIN = BASE / "train.yaml"
ACTIONS = ("summary", "answers", "baseline")
"""Components that do something when they are built, after a run."""

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # peft


@pytest.fixture
def data(tmp_path):
    """A small data set in each of the forms that the configurations read; returns overrides."""
    rows = []
    for number in range(20):
        Image.new("L", (80, 90), number).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "Is it dark?", "answer": "yes", "id": str(number)})
    for split, part in (("train", rows), ("validation", rows[:2])):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, part)))
    (tmp_path / "list.json").write_text(json.dumps({"training": rows, "validation": rows[:2]}))
    return {
        "dataset_dir": str(tmp_path),
        "_mmmu_dir": str(tmp_path),
        "datalist": str(tmp_path / "list.json"),
    }


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Let each test choose its precision anew; accelerate allows one choice for a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def parser_of(*files, **overrides):
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    parser.update(overrides)
    return parser


def components(config, where=""):
    if isinstance(config, (dict, list)):
        for name, node in config.items() if isinstance(config, dict) else enumerate(config):
            place = f"{where}::{name}" if where else str(name)
            if isinstance(node, dict) and "_target_" in node:
                yield place
            yield from components(node, place)


def build(checkpoints, tmp_path, *files, **overrides):
    """Build every component of a configuration, with random weights in place of those of a hub."""
    name = str(parser_of(*files)["policy_path"])
    stand_in = checkpoints["qwen2_5_vl" if "Qwen2.5" in name else "qwen3_vl"]
    fixed = {"bundle_root": str(ROOT / "bundle"), "device": "cpu", "output_dir": str(tmp_path / "out")}
    parser = parser_of(*files, **fixed, policy_path=str(stand_in), **overrides)
    parser.parse()
    names = [place for place in components(parser.get()) if not place.startswith(ACTIONS)]
    return {place: parser.get_parsed_content(place) for place in names}


def name_of(file):
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", WORKFLOWS, ids=name_of)
def test_every_name_in_a_workflow_exists(file):
    check_config(file)


@pytest.mark.parametrize("file", OVERLAYS, ids=name_of)
def test_every_name_in_an_overlay_exists(file):
    check_config(TRAIN, [file])


@pytest.mark.parametrize("file", WORKFLOWS, ids=name_of)
def test_every_object_of_a_workflow_can_be_built(file, checkpoints, tmp_path):
    built = build(checkpoints, tmp_path, file)
    assert built["policy"].path == str(checkpoints["qwen3_vl"])
    optional = ("train::handlers", "train::trackers")
    assert all(thing is not None for place, thing in built.items() if not place.startswith(optional))


@pytest.mark.parametrize("file", OVERLAYS, ids=name_of)
def test_every_object_of_an_overlay_can_be_built(file, checkpoints, tmp_path, data):
    overlay = ConfigParser.load_config_file(file)
    overrides = data if "_target_" in str(overlay.get("train::dataset")) else {}
    built = build(checkpoints, tmp_path, TRAIN, file, **overrides)
    trainer = built["train::trainer"]
    for key in ("max_epochs", "epoch_length"):
        assert key not in overlay or getattr(trainer.state, key) == overlay[key]
    picture = built["train::dataset"][0].scene.overview().pixels
    assert trainer.policy.family.picture_ids(picture)  # the overview fits the policy's grid


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "recipes").glob("*.yaml")), ids=name_of)
def test_adapters_are_trained_in_the_language_model_alone(file, checkpoints, tmp_path):
    trainer = build(checkpoints, tmp_path, TRAIN, file)["train::trainer"]
    trained = [name for name, p in trainer.policy.named_parameters() if p.requires_grad]
    assert len(trained) == 4 * 7 * 2  # layers of the stand-in, projections, two factors each
    assert all("language_model" in name and "lora_" in name for name in trained)


@pytest.mark.parametrize("file", OVERLAYS, ids=name_of)
def test_the_command_at_the_top_of_an_overlay_names_it_and_can_be_parsed(file):
    lines = file.read_text("utf-8").splitlines()
    command = next(line for line in lines if line.startswith("#   python"))
    words = shlex.split(command.removeprefix("#   "))
    assert words[:3] == ["python", "-m", "medeyes_monai"]
    asked = _parser().parse_args(words[3:])
    assert asked.verb == "train"
    files = [*asked.config, *([f"configs/experts/{asked.expert}.yaml"] if asked.expert else [])]
    assert name_of(file) in files
    check_config(TRAIN, [ROOT / f for f in files], **dict(map(read_setting, asked.set)))


def test_a_policy_overlay_goes_on_top_of_a_data_overlay(checkpoints, tmp_path, data):
    files = [TRAIN, ROOT / "configs" / "vqa_rad.yaml", ROOT / "configs" / "recipes" / "qwen2_5_vl_3b.yaml"]
    built = build(checkpoints, tmp_path, *files, **data)
    assert type(built["train::dataset"]).__name__ == "VqaRad"
    assert built["train::trainer"].policy.adapted is not None


def test_the_embedded_overlay_repeats_the_bundle():
    overlay = ConfigParser.load_config_file(ROOT / "configs" / "embedded.yaml")
    parser = parser_of(TRAIN)
    assert {key: parser[key] for key in overlay} == overlay


def test_the_paper_overlay_holds_the_values_of_the_paper(checkpoints, tmp_path):
    built = build(checkpoints, tmp_path, TRAIN, ROOT / "configs" / "paper.yaml")
    trainer, sampler, navigator = built["train::trainer"], built["sampler"], built["navigator"]
    assert (trainer.state.max_epochs, trainer.batches.batch, trainer.inferer.draws) == (3, 98, 8)
    assert abs(trainer.state.max_epochs * trainer.state.epoch_length - 80) <= 1
    assert (trainer.optimizer.param_groups[0]["lr"], trainer.max_gradient_norm) == (1e-6, 1)
    assert (trainer.schedule.kind, trainer.schedule.warmup) == ("constant", 500)
    assert (trainer.objective.clip_low, trainer.objective.clip_high, trainer.objective.kl_weight) == (
        0.2,
        0.2,
        0,
    )
    assert (sampler.n_paths, sampler.p0, sampler.temperature) == (6, 0.9, 1.0)
    assert (navigator.delta, navigator.xi, navigator.max_steps, navigator.max_regions) == (0.15, 0.85, 4, 5)
    assert trainer.reward.weights == {"accuracy": 0.7, "grammar": 0.2, "diversity": 0.1}
    assert trainer.inferer.max_turn_tokens == 1024
    assert built["scene"].keywords["overview_pixels"] == 336 * 336
    assert type(trainer.optimizer.optimizer).__name__ == "AdamW"


def test_workflows_share_the_values_that_a_policy_depends_on():
    policies = [parser_of(file)["scene"] for file in WORKFLOWS]
    assert policies[0] == policies[1] == policies[2]
    assert {verb.file for verb in VERBS.values()} == {file.name for file in WORKFLOWS}


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("learning_rat", r"unknown key 'learning_rat'; did you mean 'learning_rate'\?"),
        ("train::trainer::max_skiped", r"no such argument; did you mean 'max_skipped'\?"),
        ("train::trainr::resample", r"did you mean 'train::trainer'\?"),
        ("train::datasett", r"did you mean 'train::dataset'\?"),
        ("zzz", r"unknown key 'zzz'; known here are bundle_root"),
        ("lora::r", r"'lora::r' cannot be set, because lora is None"),
        ("train::handlers::9::path", r"cannot be set, because train::handlers is \["),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(key, said):
    with pytest.raises(ConfigError, match=said):
        check_config(TRAIN, **{key: 1})


@pytest.mark.parametrize(
    "key",
    [
        "learning_rate",
        "train::trainer::schedule::warmup",
        "train#trainer#schedule#warmup",
        "train::handlers::0::path",
        "reward::weights::safety",
        "optimizer::eps",
        "test::dataset::seed",
        "_mine",
        "policy",
    ],
)
def test_known_keys_arguments_and_marked_additions_may_be_set(key):
    check_config(TRAIN, **{key: 1})


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    (tmp_path / "mine.yaml").write_text("seeed: 1\nexpert: {_target_: nowhere.Expert}\n")
    with pytest.raises(ConfigError) as caught:
        check_config(TRAIN, [tmp_path / "mine.yaml"], draw=2)
    assert "mine.yaml: unknown key 'seeed'" in str(caught.value)
    assert "settings: unknown key 'draw'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "expert: {_target_: nowhere.Expert}",
            "expert::_target_ names 'nowhere.Expert', which does not exist",
        ),
        ("sampler: {_target_: medeyes_monai.sampler.PathSampler}", "sampler lacks 'navigator'"),
        ("navigator::expert: '@memmo'", r"refers to '@memmo', which is not defined; did you mean '@memo'\?"),
        ("- a", "must map ids to values, got list"),
        ("a: [", "cannot be read"),
        ("seed: 1\nseed: 2", "cannot be read"),
    ],
)
def test_a_wrong_overlay_is_named_with_what_is_wrong(tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        check_config(TRAIN, [tmp_path / "mine.yaml"])


def test_a_missing_overlay_is_named():
    with pytest.raises(ConfigError, match=r"configuration absent\.yaml does not exist"):
        check_config(TRAIN, ["absent.yaml"])


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.lists(st.integers()))
)
def test_a_setting_is_read_as_yaml_reads_it(value):
    assert read_setting(f"a::b={yaml.safe_dump(value, default_flow_style=True).strip()}") == ("a::b", value)


@pytest.mark.parametrize("text", ["seed", "=1", "a=[", "a={b: 1"])
def test_a_setting_that_cannot_be_read_is_refused(text):
    with pytest.raises(ConfigError, match=r"key=value|cannot be read"):
        read_setting(text)


def test_prepared_questions_about_volumes_are_evaluated_on_scenes_of_volumes(checkpoints, tmp_path):
    row = {"id": "1", "image": "ct.nii.gz", "question": "Is there a lesion?", "answer": "yes"}
    voxels = np.zeros((40, 36, 12), np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-0.8, -0.8, 2.5, 1.0])), tmp_path / "ct.nii.gz")
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    given = {"dataset_dir": str(tmp_path), "policy_path": str(checkpoints["qwen3_vl"]), "device": "cpu"}
    parser = parser_of(BASE / "evaluate.yaml", EVALUATIONS / "prepared_volume.yaml", **given)
    (case,) = parser.get_parsed_content("dataset")
    assert type(case.scene).__name__ == "VolumeScene"
    assert case.scene.shape == (40, 36, 12)
    policy = parser.get_parsed_content("policy")
    assert policy.family.picture_ids(case.scene.overview().pixels)  # the overview fits the policy's grid


def test_no_configuration_names_a_component_by_a_private_path():
    for file in (*WORKFLOWS, *OVERLAYS):
        targets = re.findall(r"_target_: (\S+)", file.read_text("utf-8"))
        assert not [target for target in targets if any(part.startswith("_") for part in target.split("."))]
