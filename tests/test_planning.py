"""What a run needs, told from shapes: against published sizes, the real policy, and itself under changes."""

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from policies import phantom_cases

from medeyes_monai.__main__ import main
from medeyes_monai.errors import ConfigError
from medeyes_monai.io.configs import read_setting
from medeyes_monai.planning import Estimator, find_shapes, fit, read_memory, read_settings
from medeyes_monai.planning.estimate import joined_bytes, weights_bytes
from medeyes_monai.planning.fitting import usable_of
from medeyes_monai.planning.meter import LiveBytes
from medeyes_monai.planning.shapes import Model
from medeyes_monai.policy import HuggingFacePolicy

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "configs" / "recipes"
SHAPES = RECIPES / "shapes"
TRAIN = ROOT / "bundle" / "configs" / "train.yaml"
PUBLISHED = {
    "Qwen/Qwen2.5-VL-3B-Instruct": 3.75,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.29,
    "Qwen/Qwen3-VL-2B-Instruct": 2.13,
    "Qwen/Qwen3-VL-4B-Instruct": 4.44,
    "Qwen/Qwen3-VL-8B-Instruct": 8.77,
    "google/medgemma-4b-it": 4.30,
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": 0.507,
    "OpenGVLab/InternVL3-1B-hf": 0.94,
}
"""Parameters that the models' cards give. Unit: 1e9."""
LORA = {"r": 4, "lora_alpha": 8}

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # peft


def settings_of(*files, **overrides):
    parser = ConfigParser()
    parser.read_config([str(file) for file in (TRAIN, *files)])
    parser.update({"bundle_root": str(ROOT / "bundle")} | overrides)
    return read_settings(parser)


@pytest.fixture(scope="module")
def small(checkpoints):
    """Settings of a run with a tiny policy and an adapter, and its estimator."""
    settings = settings_of(
        policy_path=str(checkpoints["qwen3_vl"]), lora=LORA, questions=4, micro_tokens=None
    )
    settings = replace(settings, micro_tokens=4096, batch=32, test_batch=32)
    return settings, Estimator(find_shapes(settings.model, SHAPES))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_built_of_its_shapes_has_the_published_number_of_parameters(name):
    shapes = find_shapes(name, SHAPES)
    model = Model(shapes, settings_of(policy_path=name))
    assert all(weight.is_meta for weight in model.core.parameters())
    assert model.parameters == shapes.parameters
    assert model.parameters / 1e9 == pytest.approx(PUBLISHED[name], abs=0.005)
    assert model.core.dtype == torch.bfloat16  # as published


def test_each_recipe_has_shapes_and_all_shapes_have_a_recipe():
    named = {ConfigParser.load_config_file(file)["policy_path"] for file in RECIPES.glob("*.yaml")}
    shipped = {json.loads(file.read_text())["policy_path"] for file in SHAPES.glob("*.json")}
    assert named == shipped == set(PUBLISHED)


def test_the_meter_counts_what_is_held_and_nothing_that_was_freed():
    with LiveBytes([]) as meter:
        with meter.stage("a"):
            kept = torch.empty(1000)
            torch.empty(500)
            torch.empty(700)
        with meter.stage("b"):
            del kept
            torch.empty(100)
    assert meter.peaks == {"a": 4 * 1700, "b": 4 * 1000}


def test_views_and_changes_in_place_hold_nothing_of_their_own():
    known = torch.empty(1000)
    with LiveBytes([known]) as meter, meter.stage("a"):
        known.view(10, 100)[2:].add_(1)
        known.t()
    assert meter.peaks == {"a": 0}


def test_tokens_are_those_of_the_policy(policy, checkpoints):
    name = policy.core.config.model_type
    (case,) = phantom_cases(policy, 1)
    prompt = policy.prompt(case)
    settings = settings_of(policy_path=str(checkpoints[name]), max_looks=2, max_turn_tokens=30)
    side = 4 * policy.patch
    settings = replace(settings, overview_pixels=side**2, look_pixels=(side // 2) ** 2)
    tokens = Estimator(find_shapes(settings.model, SHAPES))(settings).tokens
    asked = len(policy.encode(case.question))
    told = len(policy.encode("Is there a lesion in the left upper lobe, and if so, of which kind is it?"))
    assert tokens.overview == len(policy.family.picture_ids(prompt.pictures[0])) == 16
    assert tokens.look == 4
    assert tokens.prompt == len(prompt.token_ids) - asked + told
    assert tokens.episode == tokens.prompt + 3 * 30 + 2 * tokens.feedback


def test_bytes_of_weights_are_those_of_the_loaded_policy(checkpoints):
    settings = settings_of(policy_path=str(checkpoints["qwen3_vl"]), lora=LORA)
    policy = HuggingFacePolicy(checkpoints["qwen3_vl"], lora=LORA)
    held = sum(tensor.nbytes for tensor in (*policy.core.parameters(), *policy.core.buffers()))
    model = Model(find_shapes(settings.model, SHAPES), settings)
    assert weights_bytes(model) == held
    policy.family.step.begin()
    joined = [
        part
        for layer in policy.family.step._joined
        for part in (layer.attention, layer.output, layer.mlp, layer.down)
    ]
    copies = [copy for part in joined for copy in (part.weight, part.bias, part.down, part.up)]
    assert joined_bytes(model) == sum(copy.nbytes for copy in copies if copy is not None)


@pytest.mark.parametrize(
    ("change", "phase", "sign"),
    [
        ({"batch": 64, "questions": 8}, "drawing", 1),
        ({"test_batch": 64}, "drawing", 1),
        ({"max_turn_tokens": 96}, "drawing", 1),
        ({"max_looks": 8}, "drawing", 1),
        ({"look_pixels": 16384}, "drawing", 1),
        ({"micro_tokens": 8192}, "update", 1),
        ({"gradient_checkpointing": True}, "update", -1),
        ({"lora": None}, "update", 1),
        ({"lora": {"r": 64}}, "adapter", 1),
        ({"n_paths": 0}, "update", -1),
        ({"four_bit": True}, "weights", -1),
        ({"dtype": "bfloat16"}, "weights", -1),
        ({"micro_tokens": 512}, "passes", 1),
        ({"freeze_vision": False, "lora": None}, "trained", 1),
    ],
    ids=str,
)
def test_a_setting_acts_on_the_phase_that_it_is_said_to_act_on(small, change, phase, sign):
    settings, estimator = small
    before, after = (getattr(estimator(s), phase) for s in (settings, replace(settings, **change)))
    assert (after - before) * sign > 0


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("draws", 3, "draws"),
        ("questions", 5, "questions"),
        ("n_paths", 2, "n_paths"),
        ("overview_pixels", 4096, "overview_pixels"),
        ("look_pixels", 1024, "look_pixels"),
        ("image_tokens", 77, "image_tokens"),
        ("max_looks", 1, "max_looks"),
        ("max_turn_tokens", 9, "max_turn_tokens"),
        ("dtype", "bfloat16", "dtype"),
        ("train::inferer::batch", 12, "batch"),
        ("test::inferer::batch", 13, "test_batch"),
        ("train::trainer::micro_tokens", 99, "micro_tokens"),
        ("policy::gradient_checkpointing", True, "gradient_checkpointing"),
        ("policy::freeze_vision", False, "freeze_vision"),
    ],
)
def test_a_setting_of_the_configuration_arrives(key, value, name):
    assert getattr(settings_of(), name) != value
    assert getattr(settings_of(**{key: value}), name) == value


def test_settings_stored_with_a_policy_are_used_until_others_are_given(checkpoints):
    stored = HuggingFacePolicy(checkpoints["qwen3_vl"]).settings
    settings = settings_of(policy_path=str(checkpoints["qwen3_vl"]))
    for name in ("overview_pixels", "look_pixels", "max_looks", "max_turn_tokens"):
        assert getattr(settings, name) == getattr(stored, name)


def test_four_bits_mixed_precision_and_a_run_without_expert_are_read():
    more = {"policy::quantization_config": {"load_in_4bit": True}, "train::trainer::sampler": None}
    settings = settings_of(RECIPES / "qwen3_vl_2b.yaml", **more)
    assert (settings.four_bit, settings.n_paths, settings.mixed_precision) == (True, 0, "bf16")
    assert not settings_of().four_bit


@pytest.mark.parametrize("share", [1.0, 0.85, 0.7])
def test_what_is_proposed_fits_when_it_is_given_to_the_configuration(checkpoints, share):
    name = str(checkpoints["qwen2_5_vl"])
    overrides = {"policy_path": name, "questions": 8, "max_turn_tokens": 256, "dtype": "float32"}
    settings = settings_of(**overrides)
    estimator = Estimator(find_shapes(name, SHAPES))
    memory = int(estimator(settings).peak * share)
    fitted = fit(estimator, settings, memory)
    assert fitted.changes
    assert fitted.estimate.peak <= usable_of(memory)
    again = settings_of(**overrides, **dict(map(read_setting, fitted.changes)))
    assert estimator(again).peak == fitted.estimate.peak


def test_nothing_is_changed_where_everything_fits(small):
    settings, estimator = small
    fitted = fit(estimator, settings, 2 * estimator(settings).peak)
    assert fitted.changes == ()
    assert fitted.estimate.settings == settings


def test_a_memory_that_is_too_small_for_anything_is_one_line_and_exit_2(capsys, checkpoints):
    words = ["plan", "--bundle", str(ROOT / "bundle"), "--policy", str(checkpoints["qwen3_vl"])]
    assert main([*words, "--memory", "1MB"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if line.startswith("error: ")]) == 1
    assert "0.0 GiB are too little" in said[-1]


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "24XB", "nan", "inf", "1e999GB"])
def test_a_memory_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="memory must be a size"):
        read_memory(text)


def test_a_model_without_shapes_is_named_with_those_that_have_some():
    with pytest.raises(ConfigError, match=r"no shapes are known of 'a/b'.*google/medgemma-4b-it"):
        find_shapes("a/b", SHAPES)


def test_a_directory_without_configuration_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read"):
        find_shapes(str(tmp_path), SHAPES)


def test_a_recipe_is_planned_without_network_and_without_weights(monkeypatch, capsys):
    def refuse(*_, **__):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    recipe = str(RECIPES / "smolvlm2_500m.yaml")
    words = ["plan", "--bundle", str(ROOT / "bundle"), "--config", recipe, "--memory", "3GB"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "0.51 B parameters, 8.7 M trained" in said
    assert 'add:\n  --set "' in said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
@pytest.mark.parametrize(("family", "setting"), [("qwen3_vl", "full-float32"), ("idefics3", "lora-bfloat16")])
def test_an_estimate_is_within_a_fifth_of_what_a_run_takes(tmp_path, monkeypatch, family, setting):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import measure_plan

    found = measure_plan.measure(family, setting, tmp_path)
    measured = max(found["peaks"].values()) * 2**20
    assert abs(found["expected"].peak / measured - 1) <= measure_plan.WITHIN
