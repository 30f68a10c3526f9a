"""Advantages: equation 7 in its four readings, by hand and by law."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medeyes_monai.errors import CheckpointError, ConfigError
from medeyes_monai.training.advantages import STD_FLOOR, AdvantageMode, RunningStatistics, advantages

MODES: tuple[AdvantageMode, ...] = get_args(AdvantageMode)


def group(policy: list[float], expert: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One question's rewards, question numbers and streams."""
    rewards = torch.tensor(policy + expert)
    is_expert = torch.tensor([False] * len(policy) + [True] * len(expert))
    return rewards, torch.zeros(len(rewards), dtype=torch.long), is_expert


@st.composite
def steps(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Some questions, each with at least one episode of the policy."""
    levels = st.sampled_from([0.0, 0.2, 0.3, 0.9, 0.95, 1.0])
    rewards, question, is_expert = [], [], []
    for number in range(draw(st.integers(1, 4))):
        for expert, least in ((False, 1), (True, 0)):
            own = draw(st.lists(levels, min_size=least, max_size=5))
            rewards += own
            question += [number] * len(own)
            is_expert += [expert] * len(own)
    return torch.tensor(rewards), torch.tensor(question), torch.tensor(is_expert)


def test_the_streams_of_a_question_are_measured_apart() -> None:
    values = advantages(*group([0.0, 1.0], [0.8, 0.8, 1.0, 1.0]), "stream", eps=0.0).values
    # policy: mean 0.5, population std 0.5; experts: mean 0.9, std 0.1
    assert values.tolist() == pytest.approx([-1, 1, -1, -1, 1, 1], abs=1e-5)


def test_questions_are_measured_apart() -> None:
    rewards = torch.tensor([0.0, 1.0, 0.4, 0.6])
    question = torch.tensor([3, 3, -1, -1])
    values = advantages(rewards, question, torch.zeros(4, dtype=torch.bool), "stream", eps=0.0).values
    # (0 - 0.5) / 0.5 and (0.4 - 0.5) / 0.1
    assert values.tolist() == pytest.approx([-1, 1, -1, 1], abs=1e-5)


def test_joint_statistics_push_every_policy_episode_below_zero_and_the_streams_do_not() -> None:
    step = group([0.2, 0.2, 0.2, 0.7], [1.0] * 6)
    # joint mean (3 * 0.2 + 0.7 + 6) / 10 = 0.73: the best policy episode counts as bad
    joint, apart = advantages(*step, "joint"), advantages(*step, "stream")
    assert (joint.values[:4] < 0).all()
    assert joint.negative_share == {"policy": 1.0, "expert": 0.0}
    assert apart.values[3] > 0
    assert apart.negative_share == {"policy": 0.75, "expert": 0.0}
    # joint std: sqrt((3 * 0.53^2 + 0.03^2 + 6 * 0.27^2) / 10) = sqrt(0.1281) = 0.357911
    assert joint.values[3].item() == pytest.approx(-0.03 / 0.357911, abs=1e-4)


def test_the_expert_stream_falls_silent_when_all_its_paths_are_equally_good() -> None:
    result = advantages(*group([0.2, 0.9], [0.9] * 6), "stream")
    assert (result.values[2:] == 0).all()
    assert result.zero_variance_share == {"policy": 0.0, "expert": 1.0}


def test_half_of_the_right_experts_are_pushed_down_where_only_diversity_differs() -> None:
    # 0.7 + 0.2 + 0.1 r_div with r_div 0 or 1
    result = advantages(*group([0.2, 0.9], [0.9, 0.9, 0.9, 1.0, 1.0, 1.0]), "stream")
    assert result.negative_share["expert"] == result.positive_share["expert"] == 0.5
    assert result.values[2:].tolist() == pytest.approx([-1, -1, -1, 1, 1, 1], abs=1e-4)


def test_imitation_counts_every_expert_as_1_and_the_policy_not_at_all() -> None:
    assert advantages(*group([0.0, 1.0], [0.8, 0.2]), "imitation").values.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("mode", MODES)
def test_one_expert_in_the_group_is_finite(mode: AdvantageMode) -> None:
    result = advantages(*group([0.2, 0.9], [1.0]), mode)
    assert result.values.isfinite().all()
    if mode == "stream":
        assert result.values[2] == 0


def test_on_baseline_measures_both_streams_against_the_policy() -> None:
    values = advantages(*group([0.0, 1.0], [1.0, 0.25]), "on_baseline", eps=0.0).values
    # policy mean 0.5 and std 0.5: (1 - 0.5) / 0.5 and (0.25 - 0.5) / 0.5
    assert values.tolist() == [-1.0, 1.0, 1.0, -0.5]


def test_on_baseline_keeps_its_scale_where_the_policy_always_fails() -> None:
    result = advantages(*group([0.2] * 8, [1.0] * 6), "on_baseline", eps=0.0)
    # policy std 0 is raised to the floor: (1 - 0.2) / 0.1
    assert STD_FLOOR == 0.1
    assert result.values.tolist() == pytest.approx([0.0] * 8 + [8.0] * 6)
    assert result.zero_variance_share == {"policy": 1.0, "expert": 1.0}


def test_on_baseline_without_the_policy_says_so() -> None:
    with pytest.raises(ConfigError, match="episode of the policy"):
        advantages(*group([], [1.0, 0.2]), "on_baseline")


def test_running_statistics_keep_a_signal_where_a_group_is_uniform() -> None:
    past = RunningStatistics().updated(torch.tensor([0.4, 0.8]), torch.tensor([True, True]))
    # past experts: mean 0.6, variance 0.04, std 0.2
    result = advantages(*group([0.2, 0.9], [1.0] * 6), "stream_running", eps=0.0, running=past)
    assert result.values[2:].tolist() == pytest.approx([(1.0 - 0.6) / 0.2] * 6)
    assert result.zero_variance_share["expert"] == 1.0
    # the policy's stream has no past: this step's mean 0.55 and std 0.35
    assert result.values[:2].tolist() == pytest.approx([-1, 1], abs=1e-5)


def test_the_first_step_is_measured_against_itself_over_all_questions() -> None:
    rewards, question = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1])
    result = advantages(rewards, question, torch.zeros(4, dtype=torch.bool), "stream_running", eps=0.0)
    # each question is uniform; over both, mean 0.5 and std 0.5
    assert result.values.tolist() == [-1.0, -1.0, 1.0, 1.0]
    assert result.running is not None
    assert result.running.state_dict() == {"policy/mean": 0.5, "policy/variance": 0.25}


def test_running_statistics_mix_one_distribution_into_another() -> None:
    expert = torch.tensor([True, True])
    running = RunningStatistics(decay=0.75).updated(torch.tensor([0.0, 1.0]), expert)
    running = running.updated(torch.tensor([1.0, 1.0]), expert)
    # mean 0.75 * 0.5 + 0.25 * 1; variance 0.75 * 0.25 + 0.25 * 0 + 0.75 * 0.25 * (1 - 0.5)^2
    assert running.mean["expert"] == 0.625
    assert running.variance["expert"] == 0.234375
    # the same as the variance of values weighted 0.375, 0.375 and 0.25: E[x^2] - E[x]^2 = 0.625 - 0.625^2
    assert running.variance["expert"] == 0.625 - 0.625**2


def test_resume_of_running_statistics_is_a_roundtrip() -> None:
    running = RunningStatistics(0.5).updated(torch.tensor([0.1, 0.7]), torch.tensor([False, True]))
    assert RunningStatistics(0.5).restored(running.state_dict()) == running
    assert RunningStatistics().restored({}) == RunningStatistics()
    with pytest.raises(CheckpointError, match="policy/mean"):
        RunningStatistics().restored({"policy/mean": 0.0})
    with pytest.raises(ConfigError, match=r"\[0, 1\)"):
        RunningStatistics(decay=1.0)


def test_steps_do_not_change_the_statistics_they_were_given() -> None:
    past = RunningStatistics().updated(torch.tensor([0.0, 1.0]), torch.tensor([False, False]))
    before = past.state_dict()
    after = advantages(*group([1.0, 1.0], [1.0]), "stream_running", running=past).running
    assert past.state_dict() == before
    assert after is not None
    assert after.state_dict() != before


@pytest.mark.parametrize("mode", MODES)
def test_only_positive_experts_are_kept_on_demand(mode: AdvantageMode) -> None:
    step = group([0.2, 0.9], [0.3, 0.9, 1.0])
    plain, kept = advantages(*step, mode), advantages(*step, mode, positive_experts_only=True)
    assert torch.equal(kept.values[:2], plain.values[:2])
    assert torch.equal(kept.values[2:], plain.values[2:].clamp(min=0))
    assert kept.negative_share == plain.negative_share


@given(steps(), st.sampled_from(MODES))
@settings(max_examples=150, deadline=None)
def test_a_better_episode_of_a_group_never_has_a_smaller_advantage(
    step: tuple[torch.Tensor, torch.Tensor, torch.Tensor], mode: AdvantageMode
) -> None:
    rewards, question, is_expert = step
    result = advantages(rewards, question, is_expert, mode)
    assert result.values.isfinite().all()
    assert result.values.dtype == torch.float32
    for one in torch.unique(2 * question + is_expert):
        rows = 2 * question + is_expert == one
        order = rewards[rows].argsort()
        assert (result.values[rows][order].diff() >= 0).all()
    for shares in (result.positive_share, result.negative_share, result.zero_variance_share):
        assert all(0 <= share <= 1 for share in shares.values())


@given(steps(), st.sampled_from(MODES), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_order_of_episodes_does_not_matter(
    step: tuple[torch.Tensor, torch.Tensor, torch.Tensor], mode: AdvantageMode, seed: int
) -> None:
    order = torch.randperm(len(step[0]), generator=torch.Generator().manual_seed(seed))
    straight = advantages(*step, mode).values
    shuffled = advantages(*(tensor[order] for tensor in step), mode).values
    torch.testing.assert_close(shuffled, straight[order], rtol=1e-4, atol=1e-5)


@given(steps(), st.sampled_from(["stream", "joint"]))
@settings(max_examples=60, deadline=None)
def test_advantages_within_a_group_add_up_to_zero_and_a_uniform_group_is_exactly_silent(
    step: tuple[torch.Tensor, torch.Tensor, torch.Tensor], mode: AdvantageMode
) -> None:
    rewards, question, is_expert = step
    values = advantages(rewards, question, is_expert, mode).values
    groups = question if mode == "joint" else 2 * question + is_expert
    for one in torch.unique(groups):
        rows = groups == one
        assert abs(values[rows].sum().item()) < 1e-3
        if rewards[rows].min() == rewards[rows].max():
            assert (values[rows] == 0).all()


def test_diagnostics_name_stream_and_number() -> None:
    named = advantages(*group([0.0, 1.0], [1.0]), "stream").diagnostics
    assert named["policy/advantage_negative_share"] == 0.5
    assert named["expert/zero_variance_share"] == 1.0
    assert len(named) == 8
    assert not any(name.startswith("expert") for name in advantages(*group([0.0, 1.0], [])).diagnostics)


def test_bad_input_is_refused_with_the_way_out() -> None:
    rewards, question, is_expert = group([0.0, 1.0], [1.0])
    with pytest.raises(ConfigError, match="stream_running"):
        advantages(rewards, question, is_expert, "both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one shape"):
        advantages(rewards[:2], question, is_expert)
    with pytest.raises(ConfigError, match="bool"):
        advantages(rewards, question, is_expert.long())
    with pytest.raises(ConfigError, match="score every episode"):
        advantages(rewards / 0, question, is_expert)
