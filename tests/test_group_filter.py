"""Questions whose own episodes all have one reward are left out of the policy's loss (DAPO), on request."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_configs import ROOT, TRAIN, build
from test_trainer import episodes_of, experience_of, gradients, gradients_of, trainer_of

from medeyes_monai.rewards import CompositeReward, overlong
from medeyes_monai.training.advantages import uniform_rows
from medeyes_monai.training.experience import Experience
from medeyes_monai.training.handlers import StepLog
from medeyes_monai.training.objective import DualStreamObjective, accumulate_gradients


def gradient_of(policy, experience, advantages, **objective):
    """Return the numbers and the gradient of a step's loss."""
    policy.zero_grad()
    numbers = accumulate_gradients(
        policy,
        experience,
        advantages,
        DualStreamObjective(**objective),
        micro_tokens=10_000,
        backward=torch.Tensor.backward,
        autocast=nullcontext,
    )
    return numbers, gradients_of(policy)


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.booleans(), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=20
    )
)
def test_uniform_are_the_policys_episodes_of_questions_with_one_reward(rows):
    question, expert, rewards = zip(*rows, strict=True)
    found = uniform_rows(torch.tensor(rewards), torch.tensor(question), torch.tensor(expert))
    own = [{r for q, e, r in rows if q == n and not e} for n in question]
    assert found.tolist() == [not e and len(mine) == 1 for e, mine in zip(expert, own, strict=True)]


@pytest.mark.parametrize("normaliser", ["episode", "token"])
def test_the_gradient_with_a_filter_is_that_of_the_other_questions_alone(policy, normaliser):
    own, others = episodes_of(policy, 4, "policy"), episodes_of(policy, 2, "expert")
    advantages = torch.tensor([1.0, -1.0, 0.7, 0.7, 1.0, 0.5])
    # questions 0 and 1: episodes 0 and 1 differ, 2 and 3 have one reward; each has an episode of the expert
    whole = replace(
        experience_of(own + others),
        question=torch.tensor([0, 0, 1, 1, 0, 1]),
        rewards=torch.tensor([0.0, 1.0, 0.5, 0.5, 0.9, 0.9]),
    )
    kept = torch.tensor([0, 1, 4, 5])
    less = Experience(
        tuple(whole.episodes[n] for n in kept),
        whole.question[kept],
        whole.is_expert[kept],
        whole.rewards[kept],
    )
    terms = {"normaliser": normaliser, "entropy_weight": 0.1}
    alone, expected = gradient_of(policy, less, advantages[kept], **terms)
    numbers, found = gradient_of(policy, whole, advantages, filter_uniform=True, **terms)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert numbers["loss_sum"] == pytest.approx(alone["loss_sum"], abs=1e-5)
    assert numbers["policy/filtered_share"] == 0.5
    assert numbers["expert/tokens"] == alone["expert/tokens"]
    unfiltered, other = gradient_of(policy, whole, advantages, **terms)
    assert "policy/filtered_share" not in unfiltered
    assert max((a - b).abs().max() for a, b in zip(found, other, strict=True)) > 1e-4


def test_a_step_of_uniform_questions_alone_has_no_gradient_and_no_loss(policy):
    experience = experience_of(episodes_of(policy, 2, "policy"))  # one episode each
    numbers, found = gradient_of(policy, experience, torch.ones(2), filter_uniform=True)
    assert found == []
    assert (numbers["loss_sum"], numbers["policy/gradient_norm"], numbers["micro_batches"]) == (0, 0, 0)
    assert gradients(policy, list(experience.episodes), torch.ones(2))["policy/gradient_norm"] > 0


@pytest.mark.parametrize("sampler", [True, False])
def test_a_training_with_the_filter_goes_on_where_every_question_is_uniform(checkpoints, tmp_path, sampler):
    # A random policy writes no whole episode: all of its rewards are 0.
    log = tmp_path / "metrics.jsonl"
    trainer = trainer_of(
        checkpoints["qwen3_vl"],
        tmp_path / "states",
        epochs=1,
        objective=DualStreamObjective(filter_uniform=True),
        handlers=[StepLog(log)],
    )
    before = [p.detach().clone() for p in trainer.policy.parameters()]
    if not sampler:
        trainer.sampler = None
    trainer.run()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["policy/filtered_share"] for line in lines} == {1.0}
    assert {line["policy/gradient_norm"] for line in lines} == {0.0}
    assert {line["skipped_updates"] for line in lines} == {0.0}
    moved = any(not torch.equal(a, b) for a, b in zip(before, trainer.policy.parameters(), strict=True))
    assert moved == sampler  # by the expert's stream, which stays
    assert all(("loss" in line) and (line["loss"] != 0) == sampler for line in lines)


def test_the_overlay_of_dapo_filters_and_punishes_turns_of_the_rollouts_limit(checkpoints, tmp_path):
    built = build(checkpoints, tmp_path, TRAIN, ROOT / "configs" / "dapo.yaml", max_turn_tokens=40)
    trainer = built["train::trainer"]
    assert trainer.objective.filter_uniform
    assert trainer.inferer.max_turn_tokens == 40
    assert isinstance(trainer.reward, CompositeReward)
    part = trainer.reward.parts["overlong"]
    assert (part.func, part.keywords) == (overlong, {"limit": 40, "buffer": 10})
    assert trainer.reward.weights["overlong"] == 1.0
    assert not build(checkpoints, tmp_path, TRAIN)["train::trainer"].objective.filter_uniform
