"""The bundle as MONAI sees it: metadata, properties, run ids, the network, from any working directory."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from PIL import Image

from medeyes_monai import __version__
from medeyes_monai.data.phantom import LOOK_FAMILIES, PhantomVQA
from medeyes_monai.errors import ConfigError
from medeyes_monai.io import sha256_of
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.adapter import ImageToLogits
from medeyes_monai.scenes import ImageScene

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
CONFIGS = BUNDLE / "configs"
META = CONFIGS / "metadata.json"
WORKFLOWS = {
    "train.yaml": ("training", "train"),
    "evaluate.yaml": ("evaluating", "eval"),
    "inference.yaml": ("inference", "infer"),
}
METADATA = json.loads(META.read_text("utf-8"))


def workflow(file, folder, policy_path, **override):
    settings = {"bundle_root": str(BUNDLE), "policy_path": str(policy_path), "device": "cpu"}
    made = ConfigWorkflow(
        config_file=str(CONFIGS / file),
        workflow_type=WORKFLOWS[file][1],
        run_id=override.pop("run_id", WORKFLOWS[file][0]),
        logging_file=False,
        **settings,
        output_dir=str(folder / "out"),
        **override,
    )
    made.initialize()
    return made


def verify(metadata):
    """Check metadata as the command does, which downloads nothing where the schema is there."""
    schema = CONFIGS / "metadata_schema.json"
    verify_metadata(
        meta_file=str(metadata), filepath=str(schema), hash_val=sha256_of(schema), hash_type="sha256"
    )


def test_metadata_pass_monais_check_without_a_network():
    verify(META)


@pytest.mark.parametrize("name", ["version", "task", "network_data_format", "intended_use", "references"])
def test_metadata_that_lack_something_do_not_pass(tmp_path, name):
    (tmp_path / "metadata.json").write_text(json.dumps({k: v for k, v in METADATA.items() if k != name}))
    with pytest.raises(ValueError, match=f"'{name}' is a required property"):
        verify(tmp_path / "metadata.json")


def test_metadata_name_the_versions_that_the_tests_ran_with():
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    packages = METADATA["required_packages_version"]
    assert packages.pop("medeyes-monai") == METADATA["version"] == __version__
    assert {name: pins[name] for name in packages} == packages
    wanted = [METADATA[f"{name}_version"] for name in ("monai", "pytorch", "numpy")]
    assert wanted == [pins["monai"], pins["torch"], pins["numpy"]]
    assert METADATA["version"] in METADATA["changelog"]


def test_the_bundle_has_the_files_that_the_model_zoo_expects():
    names = ["LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf"]
    assert [name for name in names if not (BUNDLE / name).is_file()] == []
    assert (BUNDLE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert list(BUNDLE.rglob("*.py")) == []
    assert max(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file()) <= 10e6


@pytest.mark.parametrize("file", WORKFLOWS)
def test_no_required_property_is_missing(file, tmp_path, checkpoints, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert workflow(file, tmp_path, checkpoints["qwen3_vl"]).check_properties() == []


@pytest.mark.parametrize("file", WORKFLOWS)
def test_the_default_run_is_the_named_one(file, tmp_path, checkpoints):
    made = workflow(file, tmp_path, checkpoints["qwen3_vl"])
    assert made.parser["run"] == made.parser[WORKFLOWS[file][0]]
    assert len(made.parser["run"]) > 1


def test_properties_of_the_training_are_the_components(tmp_path, checkpoints):
    made = workflow("train.yaml", tmp_path, checkpoints["qwen3_vl"], **{"train::trainer::max_epochs": 7})
    assert made.max_epochs == made.trainer.state.max_epochs == 7
    assert made.trainer.inferer is made.train_inferer
    assert len(made.train_dataset) == made.parser["train_size"]


def test_validation_during_training_is_a_matter_of_one_number(tmp_path, checkpoints):
    made = workflow("train.yaml", tmp_path, checkpoints["qwen3_vl"], val_interval=2)
    assert made.check_properties() == []
    (handler,) = [one for one in made.train_handlers if type(one).__name__ == "ValidationHandler"]
    assert handler.validator is made.evaluator


def test_inference_answers_about_the_example_from_another_working_directory(
    tmp_path, checkpoints, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    made = workflow("inference.yaml", tmp_path, checkpoints["qwen3_vl"], run_id="run", max_turn_tokens=8)
    made.run()
    made.finalize()
    (answer,) = json.loads((tmp_path / "out" / "answers.json").read_text("utf-8"))
    assert (answer["key"], answer["question"]) == ("example.png", "Which kind is the lesion?")
    assert (tmp_path / "out" / "gaze" / "001.png").is_file()
    assert "answers.json" in capsys.readouterr().out


def test_the_example_is_an_image_of_the_benchmark():
    drawn = np.asarray(PhantomVQA("val", size=1)[0].scene.image)[0].T
    assert np.array_equal(np.asarray(Image.open(BUNDLE / "docs" / "example.png")), drawn)


def test_families_that_need_looking_are_those_of_the_benchmark(tmp_path, checkpoints):
    for file in ("train.yaml", "evaluate.yaml"):
        made = workflow(file, tmp_path, checkpoints["qwen3_vl"])
        assert tuple(made.parser["gaze_families"]) == LOOK_FAMILIES


def test_the_network_passes_monais_check_with_any_policy(checkpoints):
    vocabulary = HuggingFacePolicy(checkpoints["qwen2_5_vl"]).vocabulary_size
    verify_net_in_out(
        "network_def",
        meta_file=str(META),
        config_file=str(CONFIGS / "inference.yaml"),
        device="cpu",
        policy_path=str(checkpoints["qwen2_5_vl"]),
        **{"_meta_#network_data_format#outputs#pred#num_channels": vocabulary},
    )


@pytest.mark.parametrize("file", ["inference.yaml", "evaluate.yaml"])
def test_the_network_passes_monais_check_with_the_embedded_policy(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    verify_net_in_out(
        "network_def",
        meta_file=str(META),
        config_file=str(CONFIGS / file),
        device="cpu",
        bundle_root=str(BUNDLE),
    )


def test_the_adapter_says_what_the_policy_would_say_first(policy):
    network = ImageToLogits(policy, "Which kind is the lesion?", partial(ImageScene, patch=policy.patch))
    image = torch.randint(0, 256, (2, 1, 96, 64), dtype=torch.uint8)
    together = network(image)
    apart = torch.cat([network(picture[None]) for picture in image])
    assert together.shape == (2, policy.vocabulary_size)
    assert not torch.allclose(together[0], together[1])
    torch.testing.assert_close(together, apart)
    torch.testing.assert_close(network(image.float() / 255), together)


def test_the_adapter_needs_a_question(policy):
    with pytest.raises(ConfigError, match="question is empty"):
        ImageToLogits(policy, " ")
