"""From a training with an adapter to its evaluation, its export and the clinic: one policy all the way."""

import json
from pathlib import Path

import pytest
import torch

from medeyes_monai.__main__ import main
from medeyes_monai.deploy.model import load_bundle

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
ASKED = 28


def run(verb: str, out: Path, **settings: object) -> None:
    given = {"device": "cpu", "output_dir": out, "test_size": ASKED, **settings}
    words = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
    assert main([verb, "--bundle", str(BUNDLE), *words]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of an adapter over the embedded policy, in bfloat16, with looks of another size."""
    out = tmp_path_factory.mktemp("trained")
    run(
        "train", out, lora="{r: 4, lora_alpha: 8}", dtype="bfloat16", learning_rate=0.002, max_epochs=1,
        epoch_length=2, questions=4, draws=4, n_paths=2, probe_interval=0, max_turn_tokens=40,
        look_pixels=9216,
    )  # fmt: skip
    return out


def test_an_evaluation_of_the_saved_adapter_repeats_the_row_of_the_training(
    trained: Path, tmp_path: Path
) -> None:
    assert not (trained / "policy").exists()
    run("evaluate", tmp_path, policy_path=trained / "adapter", conditions="[]", early="false")
    row = json.loads((trained / "results.json").read_text())["trained"]
    found = json.loads((tmp_path / "metrics.json").read_text())
    accuracy = found["scores"]["own"]["sections"]["all"]
    assert accuracy["count"] == ASKED == row["count"]
    assert 0 < accuracy["value"] < 1
    assert accuracy["value"] == row["accuracy"]["value"]
    assert found["counts"]["looks"] == row["looks"]
    assert found["grounding"]["figures"]["best_iou"]["value"] == row["gaze_iou"]


def test_an_adapter_is_asked_in_the_clinic_as_it_was_trained(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_bundle(BUNDLE, policy_path=str(trained / "adapter"), device="cpu")
    assert model.policy.core.dtype == torch.bfloat16
    assert model.scene.keywords["look_pixels"] == 9216
    assert model.inferer.max_turn_tokens == 40
    assert not caplog.records
    load_bundle(BUNDLE, policy_path=str(trained / "adapter"), device="cpu", max_looks=1)
    assert "max_looks is 1; the policy was stored with 4" in caplog.text


def test_the_model_card_names_the_base_and_holds_the_measured_table(trained: Path) -> None:
    card = (trained / "adapter" / "README.md").read_text()
    assert (trained / "table.md").read_text().strip() in card
    assert 'library_name: "peft"' in card
    assert "at most 16384 and 9216 pixels" in card


def test_an_exported_checkpoint_answers_in_the_type_that_was_asked_for(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--policy", str(trained / "adapter"), "--output", str(tmp_path / "merged"), "--merge"]
    assert main(["export", *words, "--dtype", "float32"]) == 0
    assert "cast 0.000" in capsys.readouterr().out
    model = load_bundle(BUNDLE, policy_path=str(tmp_path / "merged"), device="cpu")
    assert model.policy.core.dtype == torch.float32
    assert model.scene.keywords["look_pixels"] == 9216
