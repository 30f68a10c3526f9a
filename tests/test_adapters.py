"""What is saved is what was trained: adapters, their bases, merging, and the settings beside them."""

import copy
import json
import logging
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from policies import FAMILIES, phantom_cases
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from medeyes_monai.__main__ import main
from medeyes_monai.errors import CheckpointError, ConfigError
from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.adapters import linear_targets, merge_layers
from medeyes_monai.policy.loading import vision_tower
from medeyes_monai.policy.settings import POLICY_FILE, PolicySettings, served_settings
from medeyes_monai.rollout import rollout
from medeyes_monai.scenes import ImageScene
from medeyes_monai.trajectory import Episode

LORA = {"r": 4, "lora_alpha": 8}
SMALL_UPDATE = 3e-4
"""Size of the entries of an adapter after a few updates."""


def trained(checkpoint: Path, dtype: str = "float32", size: float = 0.05) -> HuggingFacePolicy:
    """A policy whose adapter does something."""
    policy = HuggingFacePolicy(checkpoint, lora=LORA, dtype=dtype)
    generator = torch.Generator().manual_seed(2)
    for name, weight in policy.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, size, generator=generator)
    return policy


def episodes_of(policy: HuggingFacePolicy) -> list[Episode]:
    return rollout(policy, phantom_cases(policy, 2), draws=2, max_looks=1, max_turn_tokens=12)


@torch.no_grad()
def scored(policy: HuggingFacePolicy, episodes: list[Episode]) -> torch.Tensor:
    return policy.train(False).score(episodes).logprobs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.0)])
def test_a_saved_adapter_has_the_log_probs_of_the_live_policy(
    checkpoints: dict[str, Path], tmp_path: Path, family: str, dtype: str, tolerance: float
) -> None:
    live = trained(checkpoints[family], dtype)
    episodes = episodes_of(live)
    live.save(tmp_path / "adapter")
    read = HuggingFacePolicy(tmp_path / "adapter")
    assert read.core.dtype == live.core.dtype
    torch.testing.assert_close(scored(read, episodes), scored(live, episodes), atol=tolerance, rtol=0)
    base = HuggingFacePolicy(checkpoints[family], dtype=dtype)
    assert not torch.allclose(scored(base, episodes), scored(live, episodes), atol=1e-3)


def test_merging_into_bfloat16_weights_as_before_would_fail_that_law(checkpoints: dict[str, Path]) -> None:
    live = trained(checkpoints["qwen3_vl"], "bfloat16", SMALL_UPDATE)
    name, layer = next((n, m) for n, m in live.adapted.named_modules() if n.endswith("0.self_attn.q_proj"))
    update, before = layer.get_delta_weight("default"), layer.get_base_layer().weight.detach().float()
    merged = copy.deepcopy(live.adapted).merge_and_unload()
    after = merged.get_submodule(name.removeprefix("base_model.model.")).weight.float()
    assert (after - before - update).norm() > 0.4 * update.norm()


def test_plain_peft_lays_a_saved_adapter_over_its_base(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    live = trained(checkpoints["qwen3_vl"])
    live.save(tmp_path)
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == str(checkpoints["qwen3_vl"])
    core = AutoModelForImageTextToText.from_pretrained(described["base_model_name_or_path"])
    plain = PeftModel.from_pretrained(core, str(tmp_path)).eval()
    ids = torch.tensor([live.encode("left or right?")])
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, live.train(False).core(input_ids=ids).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_reaches_every_linear_layer_of_the_language_model_and_nothing_else(
    checkpoints: dict[str, Path], family: str
) -> None:
    policy = HuggingFacePolicy(checkpoints[family], lora={"r": 2})
    names = [name for name, weight in policy.named_parameters() if weight.requires_grad]
    assert len(set(names)) == 4 * 7 * 2  # layers, projections, two factors each
    assert all("language_model" in name and "lora_" in name for name in names)
    assert "lm_head" not in linear_targets(policy.core, vision_tower(policy.core))


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"target_modules": "nothing_like_this"}, "lora: .*nothing_like_this.*not found"),
        ({"r": 0}, "lora: .*`r` should be a positive integer"),
        ({"rank": 4}, "lora: .*unexpected keyword argument 'rank'"),
        ({"init_lora_weights": "pissa"}, "changes the weights of the base"),
        ({"target_modules": ".*visual.*qkv"}, "reaches into the vision tower"),
    ],
)
def test_a_wrong_adapter_is_one_line(checkpoints: dict[str, Path], lora: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        HuggingFacePolicy(checkpoints["qwen3_vl"], lora=lora)
    assert "\n" not in str(caught.value)


def test_a_tower_that_is_to_be_trained_is_not_frozen_in_silence(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="freeze_vision is false, but an adapter freezes"):
        HuggingFacePolicy(checkpoints["qwen3_vl"], lora=LORA, freeze_vision=False)


def test_an_adapter_of_another_base_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    trained(checkpoints["qwen3_vl"]).save(tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"another base than .*qwen2_5_vl"):
        HuggingFacePolicy(checkpoints["qwen2_5_vl"], adapter=tmp_path / "adapter")
    other = HuggingFacePolicy(checkpoints["qwen3_vl"])
    next(iter(other.parameters())).data += 0.5
    other.save(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"another base than .*other, whose weights differ"):
        HuggingFacePolicy(tmp_path / "other", adapter=tmp_path / "adapter")


def test_an_adapter_of_elsewhere_that_names_another_base_is_remarked(
    checkpoints: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(checkpoints["qwen3_vl"]).adapted.save_pretrained(tmp_path)
    HuggingFacePolicy(checkpoints["qwen3_vl"], adapter=tmp_path)
    assert not caplog.records
    HuggingFacePolicy(checkpoints["qwen2_5_vl"], adapter=tmp_path)
    assert "qwen3_vl as its base, not" in caplog.text


def test_an_adapter_of_another_shape_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    trained(checkpoints["qwen3_vl"]).save(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 8}))
    with pytest.raises(ConfigError, match="does not fit the model"):
        HuggingFacePolicy(tmp_path)


def test_a_base_has_one_digest_in_float32_and_in_bfloat16(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    trained(checkpoints["qwen3_vl"], "bfloat16").save(tmp_path)
    HuggingFacePolicy(tmp_path, dtype="float32")


def test_an_adapter_that_lacks_a_weight_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    trained(checkpoints["qwen3_vl"]).save(tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    del weights[min(weights)]
    save_file(weights, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"does not fit the model .*missing adapter keys"):
        HuggingFacePolicy(tmp_path)


def test_a_saved_adapter_is_trained_on_with_its_own_rank(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    live = trained(checkpoints["qwen3_vl"])
    live.save(tmp_path)
    again = HuggingFacePolicy(tmp_path, lora={"r": 4})
    grown = {name: weight for name, weight in again.named_parameters() if weight.requires_grad}
    assert grown.keys() == {name for name, weight in live.named_parameters() if weight.requires_grad}
    assert not any(weight.requires_grad for weight in HuggingFacePolicy(tmp_path).parameters())
    with pytest.raises(ConfigError, match="has r 4, lora asks for 16"):
        HuggingFacePolicy(tmp_path, lora={"r": 16})
    with pytest.raises(ConfigError, match="is an adapter itself"):
        HuggingFacePolicy(tmp_path, adapter=tmp_path)


@pytest.mark.parametrize("lora", [None, LORA])
def test_reloading_leaves_nothing_of_the_live_weights(
    checkpoints: dict[str, Path], tmp_path: Path, lora: dict | None
) -> None:
    policy = trained(checkpoints["qwen3_vl"]) if lora else HuggingFacePolicy(checkpoints["qwen3_vl"])
    episodes = episodes_of(policy)
    saved = scored(policy, episodes)
    policy.save(tmp_path)
    for weight in policy.parameters():
        if weight.requires_grad:
            weight.data += 0.5
    assert not torch.allclose(scored(policy, episodes), saved, atol=1e-3)
    policy.reload(tmp_path)
    torch.testing.assert_close(scored(policy, episodes), saved, atol=0, rtol=0)


def test_reloading_refuses_what_another_policy_saved(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    trained(checkpoints["qwen3_vl"]).save(tmp_path / "adapter")
    other = HuggingFacePolicy(checkpoints["qwen3_vl"], lora={"r": 2})
    with pytest.raises(CheckpointError, match="another adapter"):
        other.reload(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="another policy"):
        HuggingFacePolicy(checkpoints["qwen3_vl"]).reload(checkpoints["qwen2_5_vl"])


def test_saving_replaces_the_weights_of_an_earlier_save_and_nothing_else(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    HuggingFacePolicy(checkpoints["qwen3_vl"]).save(tmp_path)
    trained(checkpoints["qwen3_vl"]).save(tmp_path)
    assert {file.name for file in tmp_path.glob("*.safetensors")} == {"adapter_model.safetensors"}
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not list(tmp_path.glob(".writing-*"))


@pytest.mark.parametrize("lora", [None, LORA])
def test_weights_that_are_not_finite_are_not_saved(
    checkpoints: dict[str, Path], tmp_path: Path, lora: dict | None
) -> None:
    policy = HuggingFacePolicy(checkpoints["qwen3_vl"], lora=lora)
    policy.save(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    next(weight for weight in policy.parameters() if weight.requires_grad).data.view(-1)[3] = float("nan")
    with pytest.raises(CheckpointError, match=r"1 of .* tensors hold NaN or infinity"):
        policy.save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


# Merging


class OneLayer(torch.nn.Module):
    """A model of one weight, 1.0."""

    def __init__(self) -> None:
        super().__init__()
        self.map = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.map.weight)


@pytest.mark.parametrize(
    ("update", "dtype", "stored", "error", "changed"),
    [
        (2**-9, torch.float32, 1 + 2**-9, 0.0, 1.0),
        (2**-9, torch.bfloat16, 1.0, 1.0, 0.0),  # bfloat16 has steps of 2^-7 above 1
        (3 * 2**-9, torch.bfloat16, 1 + 2**-7, 1 / 3, 1.0),
    ],
)
def test_merging_tells_what_is_left_of_the_update(
    update: float, dtype: torch.dtype, stored: float, error: float, changed: float
) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(OneLayer(), LoraConfig(r=1, lora_alpha=1, target_modules=["map"]))
    layer = adapted.base_model.model.map
    torch.nn.init.ones_(layer.lora_A["default"].weight)
    torch.nn.init.constant_(layer.lora_B["default"].weight, update)
    plain, survival = merge_layers(adapted, dtype)
    assert plain.map.weight.dtype == dtype
    assert plain.map.weight.item() == stored
    assert survival.error == pytest.approx(error)
    assert (survival.changed, survival.layers) == (changed, 1)


def test_a_merged_policy_has_the_log_probs_of_the_adapted_one(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live = trained(checkpoints["qwen3_vl"])
    episodes = episodes_of(live)
    live.save(tmp_path / "adapter")
    command = [
        "export",
        "--policy",
        str(tmp_path / "adapter"),
        "--output",
        str(tmp_path / "merged"),
        "--merge",
    ]
    assert main(command) == 0
    assert "relative error of the update after the cast 0.000" in capsys.readouterr().out
    merged = HuggingFacePolicy(tmp_path / "merged")
    assert merged.adapted is None
    assert merged.settings == live.settings
    torch.testing.assert_close(scored(merged, episodes), scored(live, episodes), atol=1e-4, rtol=0)
    assert "Not measured since it was merged" in (tmp_path / "merged" / "README.md").read_text()
    AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--merge"], "has no adapter that could be merged"),
        (["--dtype", "float32"], "ask for --merge as well"),
        (["--output", "SAME"], "is the policy itself"),
    ],
)
def test_an_export_that_cannot_be_is_one_line(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list, said: str
) -> None:
    policy = str(checkpoints["qwen3_vl"])
    words = ["export", "--policy", policy, "--output", str(tmp_path / "out")]
    assert main([*words, *(policy if word == "SAME" else word for word in more)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "out").exists()


# Settings


def test_sizes_and_limits_of_a_training_travel_with_the_policy(
    checkpoints: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = partial(ImageScene, overview_pixels=4096, look_pixels=2048)
    inferer = EpisodeInferer(max_looks=2, max_turn_tokens=31, tools=["Measure"])
    for number, lora in enumerate((None, LORA)):
        HuggingFacePolicy(checkpoints["qwen3_vl"], lora=lora, dtype="bfloat16").save(
            tmp_path / str(number), scene=scene, inferer=inferer
        )
        read = HuggingFacePolicy(tmp_path / str(number))
        assert read.settings == PolicySettings(
            coordinates="pixels", instruction="{question}", dtype="bfloat16", overview_pixels=4096,
            look_pixels=2048, max_looks=2, max_turn_tokens=31, tools=("Measure",),
        )  # fmt: skip
        with caplog.at_level(logging.WARNING):
            assert read.report_overrides(scene, inferer) == []
            assert not caplog.records
            assert read.report_overrides(scene, EpisodeInferer(max_looks=3, max_turn_tokens=31)) == [
                "max_looks",
                "tools",
            ]
        assert "max_looks is 3; the policy was stored with 2" in caplog.text
        caplog.clear()


def test_a_server_is_asked_as_the_policy_that_it_runs_was_trained(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    HuggingFacePolicy(checkpoints["qwen3_vl"], lora=LORA).save(tmp_path)
    assert served_settings(tmp_path, max_turn_tokens=512).max_turn_tokens == 48
    assert served_settings(max_turn_tokens=512).max_turn_tokens == 512
    with pytest.raises(ConfigError, match="holds no policy_config"):
        served_settings(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"max_look": 3}', "unknown setting 'max_look'; did you mean 'max_looks'"),
        ('{"max_looks": "3"}', "max_looks must be a whole number of at least 0, got '3'"),
        ('{"coordinates": "metres"}', "coordinates must be one of 'pixels', 'relative', got 'metres'"),
        ('{"instruction": "look"}', "instruction must be text that holds {question}"),
        ("[1", "is not a JSON object of settings"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(
    checkpoints: dict[str, Path], tmp_path: Path, text: str, said: str
) -> None:
    HuggingFacePolicy(checkpoints["qwen3_vl"]).save(tmp_path)
    (tmp_path / POLICY_FILE).write_text(text)
    with pytest.raises(ConfigError) as caught:
        HuggingFacePolicy(tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# What cannot run here


def test_a_quantised_base_is_refused_in_words_where_it_cannot_run(checkpoints: dict[str, Path]) -> None:
    path, four_bit = checkpoints["qwen3_vl"], {"load_in_4bit": True}
    with pytest.raises(ConfigError, match="needs a CUDA device, got cpu"):
        HuggingFacePolicy(path, lora=LORA, quantization_config=four_bit)
    with pytest.raises(ConfigError, match="trained by an adapter only"):
        HuggingFacePolicy(path, quantization_config=four_bit)


def test_flash_attention_is_refused_in_words_where_it_is_not_installed(checkpoints: dict[str, Path]) -> None:
    from transformers.utils import is_flash_attn_2_available

    if is_flash_attn_2_available():
        pytest.skip("flash-attn is installed")
    with pytest.raises(ConfigError, match="needs the package flash-attn"):
        HuggingFacePolicy(checkpoints["qwen3_vl"], attention="flash_attention_2")
