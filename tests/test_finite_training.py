"""What is not finite is never stepped into the weights nor saved."""

import json
import math
import shutil

import pytest
import torch
from accelerate import Accelerator
from ignite.engine import Events
from safetensors.torch import load_file, save_file
from test_main import words
from test_trainer import trainer_of, weights_sha

from medeyes_monai.__main__ import EXIT_ERROR, main
from medeyes_monai.errors import CheckpointError, NumericsError
from medeyes_monai.policy.finite import check_finite, non_finite
from medeyes_monai.reports.curves import read_records
from medeyes_monai.reports.warnings import warning_texts
from medeyes_monai.training.checkpoint import CheckpointFolder, TrainingState
from medeyes_monai.training.handlers import StepLog
from medeyes_monai.training.trainer import DualStreamGRPOTrainer


def trained(trainer: DualStreamGRPOTrainer) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in trainer.policy.named_parameters() if p.requires_grad}


def poison_gradient(trainer: DualStreamGRPOTrainer, *updates: int, stream: str = "policy") -> str:
    """Make one number of one gradient NaN at some updates; return the parameter's name."""
    name, parameter = next(iter(trained(trainer).items()))
    experts = {"expert": True, "policy": False}[stream]

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        spoiled = gradient.clone()
        spoiled.view(-1)[0] = math.nan
        return spoiled if trainer.state.iteration in updates and scored[-1] == experts else gradient

    scored: list[bool] = []
    score = trainer.policy.score

    def watched(episodes, **more):
        scored.append(episodes[0].stream == "expert")
        return score(episodes, **more)

    trainer.policy.score = watched  # type: ignore[method-assign]
    parameter.register_hook(spoil)
    return name


def poison_loss(trainer: DualStreamGRPOTrainer, update: int) -> None:
    """Make every log-probability that is trained on NaN at one update."""
    scores = trainer.policy.scores  # type: ignore[attr-defined]

    def spoiled(hidden: torch.Tensor) -> torch.Tensor:
        found = scores(hidden)
        return found * math.nan if torch.is_grad_enabled() and trainer.state.iteration == update else found

    trainer.policy.scores = spoiled  # type: ignore[attr-defined]


def keep_copies(trainer: DualStreamGRPOTrainer) -> list[dict[str, torch.Tensor]]:
    """Keep weights and optimizer state as they are before each update and at the end."""
    copies: list[dict[str, torch.Tensor]] = []

    def copy() -> None:
        state = trainer.optimizer.state_dict()["state"]
        inside = {f"{n}.{k}": v.clone() for n, entries in state.items() for k, v in entries.items()}
        copies.append({k: p.detach().clone() for k, p in trained(trainer).items()} | inside)

    trainer.add_event_handler(Events.ITERATION_STARTED, copy)
    trainer.add_event_handler(Events.COMPLETED, copy)
    return copies


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("place", ["policy", "expert", "loss"])
def test_an_update_that_is_not_finite_leaves_weights_and_optimizer_bit_for_bit(
    checkpoints, tmp_path, caplog, place
):
    log = tmp_path / "metrics.jsonl"
    trainer = trainer_of(checkpoints["qwen3_vl"], tmp_path / "states", epochs=1, handlers=[StepLog(log)])
    copies = keep_copies(trainer)
    if place == "loss":
        poison_loss(trainer, 2)
        said = "first in the expert stream"
    else:
        said = f"first in the {place} stream ({poison_gradient(trainer, 2, stream=place)})"
    trainer.run()
    assert equal(copies[1], copies[2])
    assert not equal(copies[0], copies[1])
    assert not equal(copies[2], copies[3])
    assert non_finite(trained(trainer)) == []
    assert said in caplog.text
    assert "1 in a row of 5" in caplog.text
    lines = read_records(log)
    assert [line["skipped_updates"] for line in lines] == [0, 1, 0]
    assert "gradient_norm" in lines[0]
    assert "gradient_norm" not in lines[1]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert "Gradient steps that were not finite were skipped: 1, at update 2." in warning_texts(lines)


def test_more_skipped_updates_in_a_row_than_allowed_end_the_run(checkpoints, tmp_path):
    trainer = trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=3, max_skipped=1)
    name = poison_gradient(trainer, 2, 5, 6)
    with pytest.raises(NumericsError, match=rf"update 6: .* policy stream \({name}\)") as caught:
        trainer.run()
    assert "\n" not in str(caught.value)
    assert non_finite(trained(trainer)) == []
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


def test_skipped_updates_are_counted_on_after_a_resume(checkpoints, tmp_path):
    first = trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=1, max_skipped=1)
    poison_gradient(first, 3)
    first.run()
    second = trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=2, max_skipped=1, resume=True)
    poison_gradient(second, 4)
    with pytest.raises(NumericsError, match="update 4"):
        second.run()


def test_resume_after_a_skipped_update_gives_the_same_weights_bit_for_bit(checkpoints, tmp_path):
    whole = trainer_of(checkpoints["qwen3_vl"], tmp_path / "a", epochs=2)
    poison_gradient(whole, 2, 5)
    whole.run()
    first = trainer_of(checkpoints["qwen3_vl"], tmp_path / "b", epochs=1)
    poison_gradient(first, 2)
    first.run()
    second = trainer_of(checkpoints["qwen3_vl"], tmp_path / "b", epochs=2, resume=True)
    poison_gradient(second, 5)
    second.run()
    assert weights_sha(second) == weights_sha(whole)


def test_the_scale_of_a_float16_loss_falls_with_a_skipped_update(checkpoints, tmp_path):
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer = trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=1, accelerator=accelerator)
    copies = keep_copies(trainer)
    poison_gradient(trainer, 1, 2)
    trainer.run()
    assert equal(copies[0], copies[2])
    assert not equal(copies[2], copies[3])
    assert accelerator.scaler.get_scale() == 8.0 / 2 / 2


def test_weights_that_overflow_in_a_step_end_the_run_and_leave_the_earlier_checkpoint(checkpoints, tmp_path):
    trainer = trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=2)
    name, parameter = next(iter(trained(trainer).items()))

    def overflow(*_: object) -> None:
        if trainer.state.iteration == 5:
            parameter.data.mul_(1e30).mul_(1e30)

    trainer.optimizer.optimizer.register_step_post_hook(overflow)
    with pytest.raises(NumericsError, match=rf"after update 5 1 of \d+ weights hold NaN .*\({name}\)"):
        trainer.run()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]
    assert non_finite(CheckpointFolder(tmp_path).latest().policy) == []


def test_weights_too_large_to_compute_with_end_the_run_in_words(checkpoints, tmp_path):
    trainer = trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=2)

    def explode() -> None:
        trainer._full_rates = [1e38]

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=4), explode)
    with pytest.raises(NumericsError, match="scores of its next token are NaN"):
        trainer.run()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


def test_a_weight_that_is_not_finite_is_not_saved_and_the_earlier_checkpoint_stays(checkpoints, tmp_path):
    trainer = trainer_of(checkpoints["qwen3_vl"], tmp_path, epochs=2)
    name, parameter = next(iter(trained(trainer).items()))

    @trainer.on(Events.EPOCH_COMPLETED(once=1))
    def _() -> None:
        trainer.checkpoints.save(TrainingState(3, trained(trainer), trainer.optimizer.state_dict(), {}))
        parameter.data.view(-1)[0] = math.inf
        trainer._saved = -1
        trainer._save()

    with pytest.raises(CheckpointError, match=rf"policy of step 3 is not saved: 1 of \d+ .*\({name}\)"):
        trainer.run()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]
    assert non_finite(CheckpointFolder(tmp_path).latest().policy) == []


def test_an_optimizer_state_that_is_not_finite_is_not_saved(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.tensor([1.0, math.nan])
    optimizer.step()
    with pytest.raises(CheckpointError, match="optimizer of step 1 is not saved"):
        CheckpointFolder(tmp_path).save(TrainingState(1, {"w": torch.ones(2)}, optimizer.state_dict(), {}))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_holds_nan_is_not_resumed_from(checkpoints, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:  # as it was written before saving checked
        patched.setattr("medeyes_monai.training.checkpoint.check_finite", lambda *_: None)
        state = TrainingState(3, {"w": torch.tensor([math.nan])}, {"state": {}, "param_groups": []}, {})
        CheckpointFolder(tmp_path).save(state)
    with pytest.raises(CheckpointError, match=r"holds NaN or infinity \(w\); delete it to resume"):
        CheckpointFolder(tmp_path).latest()


def test_training_of_a_policy_that_holds_nan_is_refused(checkpoints, tmp_path):
    shutil.copytree(checkpoints["qwen3_vl"], tmp_path / "policy")
    weights = load_file(tmp_path / "policy" / "model.safetensors")
    weights[min(weights)].view(-1)[0] = math.nan
    save_file(weights, tmp_path / "policy" / "model.safetensors", {"format": "pt"})
    with pytest.raises(NumericsError, match=r"before training 1 of \d+ weights hold NaN"):
        trainer_of(tmp_path / "policy", tmp_path / "states", epochs=1)


def test_a_training_without_a_finite_update_ends_with_2_and_saves_nothing(checkpoints, tmp_path, capsys):
    sets = ["train::objective::expert_weight=.nan", "train::trainer::max_skipped=1"]
    out = tmp_path / "out"
    assert main(words("train", checkpoints["qwen3_vl"], out, sets=sets)) == EXIT_ERROR
    shown = capsys.readouterr()
    assert "update 1: loss or gradient is not finite" in shown.out + shown.err
    assert "the gradient step is skipped, 1 in a row of 1" in shown.out + shown.err
    said = shown.err.rpartition("error: ")[2].splitlines()
    assert len(said) == 1
    assert said[0].startswith("update 2: loss or gradient is not finite, first in the expert stream")
    assert not (out / "policy").exists()
    assert not list((out / "checkpoints").glob("*"))
    assert json.loads((out / "metrics.jsonl").read_text())["skipped_updates"] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_number_in_a_million_is_found(dtype, value):
    tensors = {name: torch.zeros(1000, 1000, dtype=dtype) for name in ("a", "b")}
    check_finite(tensors, "it")
    tensors["b"][617, 3] = value
    assert non_finite(tensors) == ["b"]
    with pytest.raises(CheckpointError, match=r"it is not saved: 1 of 2 tensors .* \(b\)"):
        check_finite(tensors, "it")
