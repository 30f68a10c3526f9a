"""Families of transformers: what loads works, what does not is refused with its cause, tokens are bounded."""

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tiny_families import FAMILIES

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.rollout import rollout
from medeyes_monai.scenes import Case, ImageScene

ROOT = Path(__file__).resolve().parent.parent
SHAPES = [(4000, 3000), (3000, 4000), (900, 500), (1584, 1584), (1200, 80), (40, 30)]


@pytest.fixture(scope="module")
def trying() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        return importlib.import_module("try_families")


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family) / "checkpoint"
            FAMILIES[family](made[family])
        return made[family]

    return folder


def tokens(policy: HuggingFacePolicy, rows: int, columns: int) -> int:
    return len(policy.family.picture_ids(np.zeros((rows, columns, 3), np.uint8)))


@pytest.mark.parametrize("family", ["qwen3_vl_moe", "gemma3", "internvl", "aya_vision"])
def test_a_family_looks_three_times_learns_and_is_the_same_when_loaded_again(
    family: str, trying: ModuleType, tmp_path: Path
) -> None:
    trial = trying.try_family(family, tmp_path)
    assert trial.passed, trial


@pytest.mark.parametrize(("family", "kind"), [("qwen3_5", "linear_attention"), ("lfm2_vl", "conv")])
def test_layers_that_keep_a_state_are_refused_on_loading_in_one_line(
    family: str, kind: str, folder_of: Callable[[str], Path]
) -> None:
    with pytest.raises(ConfigError, match=f"its layers of type {kind} keep a state") as caught:
        HuggingFacePolicy(folder_of(family))
    assert "\n" not in str(caught.value)


def test_the_page_of_models_tells_of_every_family_and_at_least_nine_pass() -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    found = {row[0].removeprefix("| "): row[1] for row in rows}
    assert list(found) == list(FAMILIES)
    passed = [family for family, result in found.items() if result == "passes"]
    assert len(passed) >= 9
    assert len(found) >= 12
    assert all(found[family].startswith("refused: ") for family in set(found) - set(passed))
    assert "python scripts/try_families.py --output docs/models.md" in text


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")  # GLM's
@pytest.mark.parametrize("family", ["qwen2_vl", "glm4v"])
@pytest.mark.parametrize("limit", [None, 100])
def test_no_picture_has_more_tokens_than_the_limit_whatever_its_shape(
    family: str, limit: int | None, folder_of: Callable[[str], Path]
) -> None:
    policy = HuggingFacePolicy(folder_of(family), image_tokens=limit)
    counts = [tokens(policy, *shape) for shape in SHAPES]
    bound = limit or 1024
    assert bound * 0.8 < max(counts) <= bound  # and what is allowed is used


@pytest.mark.parametrize(
    ("family", "size"), [("internvl", 6), ("idefics3", 7), ("llava_onevision", 17), ("aya_vision", 7)]
)
def test_a_picture_is_one_tile_whatever_its_shape(
    family: str, size: int, folder_of: Callable[[str], Path]
) -> None:
    policy = HuggingFacePolicy(folder_of(family))
    assert {tokens(policy, *shape) for shape in SHAPES} == {size}


def test_a_family_that_needs_more_tokens_for_a_tile_is_refused_with_the_number_to_set(
    folder_of: Callable[[str], Path],
) -> None:
    with pytest.raises(
        ConfigError, match=r"has 10 tokens as one tile, wanted at most 9; set image_tokens: 10"
    ):
        HuggingFacePolicy(folder_of("gemma3"), image_tokens=9)
    assert tokens(HuggingFacePolicy(folder_of("gemma3"), image_tokens=10), 336, 336) == 10


def test_reduced_sizes_travel_with_a_saved_policy(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    policy = HuggingFacePolicy(folder_of("qwen2_vl"), image_tokens=100)
    policy.save(tmp_path)
    loaded = HuggingFacePolicy(tmp_path)
    assert [tokens(loaded, *shape) for shape in SHAPES] == [tokens(policy, *shape) for shape in SHAPES]
    tiled = HuggingFacePolicy(folder_of("llava_next"))
    tiled.save(tmp_path / "tiled")
    assert HuggingFacePolicy(tmp_path / "tiled").core.config.image_grid_pinpoints == [[56, 56]]


def test_tokens_of_an_overview_and_a_look_are_logged_once_on_loading(
    folder_of: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="medeyes_monai"):
        policy = HuggingFacePolicy(folder_of("qwen2_vl"))
    told = [record.getMessage() for record in caplog.records if "an overview of" in record.getMessage()]
    (line,) = told
    assert f"336x336 pixels has {tokens(policy, 336, 336)} tokens" in line
    assert f"224x224 has {tokens(policy, 224, 224)}; a picture has at most 1024" in line


def test_a_package_that_a_processor_needs_is_named(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    with pytest.raises(ConfigError, match=r"needs a package that is not installed.*num2words") as caught:
        HuggingFacePolicy(folder_of("smolvlm"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lora", [{"r": 2}, None])
def test_pictures_are_encoded_again_only_where_what_encodes_them_is_trained(
    lora: dict[str, int] | None, folder_of: Callable[[str], Path]
) -> None:
    policy = HuggingFacePolicy(folder_of("internvl"), lora=lora)
    image = np.random.default_rng(0).integers(0, 256, (3, 200, 200), dtype=np.uint8)
    case = Case("noise", ImageScene(image, key="noise", patch=policy.patch), "Which?", "solid")
    episodes = rollout(policy, [case], draws=3, max_turn_tokens=4)
    before = policy.family.features.encoded
    with torch.no_grad():
        policy.score(episodes)
    assert policy.family.features.encoded == before  # the draws' features serve
    policy.train(True).score(episodes)
    assert policy.family.features.encoded == before + (0 if lora else 1)  # the projector has a gradient


def test_the_benchmark_of_two_equal_versions_finds_no_difference(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        bench = importlib.import_module("bench_generic")
        bench.main(["--quick", "--repeats", "1", "--against", str(ROOT)])
    told = capfd.readouterr().out
    assert "same tokens: True" in told
    assert "largest difference of log-probabilities scored: 0.0e+00" in told
    assert "largest difference of log-probabilities drawn: 0.0e+00" in told
