"""Schedules of learning rate and KL weight: hand-worked shares, and that they act where they are used."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ignite.engine import Events
from test_configs import TRAIN, build
from test_trainer import trainer_of, weights_sha

from medeyes_monai.errors import ConfigError
from medeyes_monai.training.handlers import StepLog
from medeyes_monai.training.objective import DualStreamObjective
from medeyes_monai.training.schedule import Schedule

LORA = {"lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]}}


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        (Schedule(), [1, 1, 1, 1, 1, 1]),
        (Schedule(warmup=4), [1 / 4, 2 / 4, 3 / 4, 1, 1, 1]),
        (Schedule("linear"), [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        (Schedule("linear", warmup=2), [1 / 2, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]),
        (Schedule("linear", warmup=2, end=0.5), [1 / 2, 1, 9 / 10, 8 / 10, 7 / 10, 6 / 10]),
        (Schedule("cosine"), [(1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]),
        (Schedule("cosine", warmup=3), [1 / 3, 2 / 3, 1, (1 + 1 / 2**0.5) / 2, 1 / 2, (1 - 1 / 2**0.5) / 2]),
        (Schedule("cosine", end=0.5), [(3 + math.cos(math.pi * k / 6)) / 4 for k in range(6)]),
        (Schedule("linear", warmup=500), [k / 500 for k in range(1, 7)]),
    ],
)
def test_the_shares_of_six_updates_are_the_hand_worked_ones(schedule, shares):
    assert [schedule.factor(update, 6) for update in range(6)] == pytest.approx(shares, abs=1e-12)


@given(
    st.sampled_from(["linear", "cosine"]),
    st.integers(0, 20),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 40),
)
def test_a_share_rises_to_one_falls_after_that_and_is_never_zero(kind, warmup, end, updates):
    shares = [Schedule(kind, warmup, end).factor(update, updates) for update in range(updates)]
    top = min(max(warmup, 1), updates)
    assert shares[:top] == sorted(shares[:top])
    assert shares[top - 1 :] == sorted(shares[top - 1 :], reverse=True)
    assert all(0 < share <= 1 + 1e-12 for share in shares)
    assert top < warmup or shares[top - 1] == pytest.approx(1)


@pytest.mark.parametrize("arguments", [{"kind": "linera"}, {"warmup": -1}, {"end": 1.0}, {"end": -0.1}])
def test_what_is_no_schedule_is_refused(arguments):
    with pytest.raises(ConfigError, match=r"unknown schedule|a schedule needs"):
        Schedule(**arguments)


def run(checkpoint, folder, *, epochs=2, resume=False, **more):
    """Train and return the lines of the log, and the trainer."""
    log = StepLog(folder / "metrics.jsonl")
    trainer = trainer_of(checkpoint, folder, epochs=epochs, resume=resume, handlers=[log], **more)
    trainer.run()
    return [json.loads(line) for line in log.path.read_text().splitlines()], trainer


def test_the_rate_of_each_update_is_the_hand_worked_one_and_changes_the_weights(checkpoints, tmp_path):
    lines, falling = run(checkpoints["qwen3_vl"], tmp_path / "a", schedule=Schedule("linear", warmup=2))
    rates = [1e-3 * share for share in (1 / 2, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5)]
    assert [line["learning_rate"] for line in lines] == pytest.approx(rates)
    assert "kl_weight" not in lines[0]
    lines, steady = run(checkpoints["qwen3_vl"], tmp_path / "b")
    assert {line["learning_rate"] for line in lines} == {1e-3}
    assert weights_sha(falling) != weights_sha(steady)


def test_the_kl_weight_of_each_update_is_the_scheduled_one_and_acts_in_the_loss(checkpoints, tmp_path):
    schedule = Schedule("linear", end=0.5)
    objective = DualStreamObjective(kl_weight=2.0, kl_schedule=schedule, normaliser="token")
    more = {"policy_arguments": LORA, "updates": 2}
    lines, _ = run(checkpoints["qwen3_vl"], tmp_path / "a", epochs=1, objective=objective, **more)
    weights = [2.0, 2.0 * 5 / 6, 2.0 * 4 / 6]
    assert [line["kl_weight"] for line in lines] == pytest.approx(weights)
    for line, weight in zip(lines, weights, strict=True):
        kl = line["loss"] + line["policy/objective_sum"] + line["expert/objective_sum"]  # times its weight
        assert line["policy/kl_mean"] > 1e-6
        assert kl / weight == pytest.approx(line["policy/kl_mean"], rel=0.01, abs=1e-7)


def test_a_rising_kl_weight_begins_with_a_share_of_its_own(checkpoints, tmp_path):
    objective = DualStreamObjective(kl_weight=0.3, kl_schedule=Schedule(warmup=3))
    more = {"objective": objective, "policy_arguments": LORA}
    lines, _ = run(checkpoints["qwen3_vl"], tmp_path, epochs=1, **more)
    assert [line["kl_weight"] for line in lines] == pytest.approx([0.1, 0.2, 0.3])


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_resumed_run_repeats_the_schedules_bit_for_bit(checkpoints, tmp_path, kind):
    class Stop(Exception):
        pass

    def stop_at_four(engine):
        if engine.state.iteration == 4:
            raise Stop

    more = {"schedule": Schedule(kind, warmup=2, end=0.1)}
    lines, whole = run(checkpoints["qwen3_vl"], tmp_path / "a", **more)
    log = StepLog(tmp_path / "b" / "metrics.jsonl")
    first = trainer_of(checkpoints["qwen3_vl"], tmp_path / "b", epochs=2, handlers=[log], **more)
    first.add_event_handler(Events.ITERATION_STARTED, stop_at_four)
    with pytest.raises(Stop):
        first.run()
    again, second = run(checkpoints["qwen3_vl"], tmp_path / "b", resume=True, **more)
    assert [line["learning_rate"] for line in again] == [line["learning_rate"] for line in lines]
    assert weights_sha(second) == weights_sha(whole)


def test_schedules_of_the_bundle_arrive_in_trainer_and_objective(checkpoints, tmp_path):
    trainer = build(checkpoints, tmp_path, TRAIN)["train::trainer"]
    assert (trainer.schedule, trainer.objective.kl_schedule) == (Schedule(warmup=5), Schedule())
    changed = {"train::trainer::schedule::kind": "cosine", "train::objective::kl_schedule::kind": "linear"}
    changed |= {"train::trainer::schedule::end": 0.1, "train::objective::kl_schedule::warmup": 3}
    trainer = build(checkpoints, tmp_path, TRAIN, **changed)["train::trainer"]
    assert trainer.schedule == Schedule("cosine", 5, 0.1)
    assert trainer.objective.kl_schedule == Schedule("linear", 3)
