"""The dual-stream loss: equations 5 and 6 by hand, and the laws of its sums."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medeyes_monai.errors import ConfigError
from medeyes_monai.training.diagnostics import merge_diagnostics
from medeyes_monai.training.loss import (
    Normaliser,
    Shaping,
    dual_stream_loss,
    episode_weights,
    expert_term,
    kl_term,
    policy_term,
)

ALL = torch.ones(1, 1, dtype=torch.bool)
NORMALISERS: tuple[Normaliser, ...] = get_args(Normaliser)
SHAPINGS: tuple[Shaping, ...] = get_args(Shaping)


def leaf(*probabilities: float) -> torch.Tensor:
    """Log-probabilities ``[1, T]`` that ask for a gradient."""
    return torch.tensor([probabilities]).log().requires_grad_()


def gradient(term: torch.Tensor, logprobs: torch.Tensor) -> list[float]:
    """What a term pushes each log-probability up by."""
    return torch.autograd.grad(term.sum(), logprobs)[0].flatten().tolist()


def advantage(value: float) -> torch.Tensor:
    return torch.tensor([value])


@pytest.mark.parametrize(
    ("pi", "weight"),
    # g pi / (pi + g)^2 with g = 0.1: 0.01 / 0.04, 0.005 / 0.0225, 0.1 / 1.21
    [(0.1, 0.25), (0.05, 0.2222222), (1.0, 0.0826446)],
)
def test_shaped_gradient_weighs_what_the_policy_does_not_know_yet(pi: float, weight: float) -> None:
    for sign in (1.0, -1.0):
        logprobs = leaf(pi)
        assert gradient(expert_term(logprobs, advantage(sign), ALL), logprobs) == pytest.approx(
            [sign * weight]
        )


@pytest.mark.parametrize("pi", [0.05, 0.5, 1.0])
def test_identity_gradient_is_pi_times_the_advantage(pi: float) -> None:
    logprobs = leaf(pi)
    term = expert_term(logprobs, advantage(2.0), ALL, "identity")
    assert gradient(term, logprobs) == pytest.approx([2 * pi])


@pytest.mark.parametrize("pi", [0.05, 0.5, 1.0])
def test_likelihood_gradient_is_the_advantage_however_rare_a_token_is(pi: float) -> None:
    logprobs = leaf(pi)
    term = expert_term(logprobs, advantage(2.0), ALL, "likelihood")
    assert term.item() == pytest.approx(2 * math.log(pi))
    assert gradient(term, logprobs) == [2.0]


def test_with_advantage_1_the_likelihood_loss_is_the_cross_entropy_of_supervised_fine_tuning() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tokens = torch.tensor([[1, 4, 0], [2, 2, 3]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    logprobs = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    expert = torch.tensor([True, True])
    weights = episode_weights(mask.sum(1), expert, "token")
    loss, _ = dual_stream_loss(
        logprobs, torch.zeros(2, 3), torch.ones(2), mask, expert, weights, shaping="likelihood"
    )
    wanted = torch.nn.functional.cross_entropy(logits[mask], tokens[mask])
    torch.testing.assert_close(loss, wanted)
    ours, theirs = (torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, wanted))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("pi", [0.05, 0.5, 0.79])
def test_clipped_gradient_is_exactly_zero_for_a_bad_expert_where_pi_is_below_the_bound(pi: float) -> None:
    logprobs = leaf(pi)
    assert gradient(expert_term(logprobs, advantage(-1.0), ALL, "clipped"), logprobs) == [0.0]


@pytest.mark.parametrize("pi", [0.05, 0.5, 0.9, 1.0])
def test_the_upper_bound_never_binds_for_an_expert_so_a_good_one_has_the_identity_gradient(pi: float) -> None:
    logprobs = leaf(pi)
    assert gradient(expert_term(logprobs, advantage(1.0), ALL, "clipped"), logprobs) == pytest.approx([pi])


@pytest.mark.parametrize(
    ("ratio", "sign", "value", "slope"),
    [
        (1.0, 1.0, 1.0, 1.0),
        (1.2, 1.0, 1.2, 1.2),  # below 1 + 0.28: the ratio itself
        (1.5, 1.0, 1.28, 0.0),  # clipped high
        (0.5, 1.0, 0.5, 0.5),  # a good token that became rarer is pulled back without bound
        (1.5, -1.0, -1.5, -1.5),  # a bad token that became likelier likewise
        (0.9, -1.0, -0.9, -0.9),
        (0.5, -1.0, -0.8, 0.0),  # clipped low
    ],
)
def test_policy_gradient_is_that_of_equation_5(ratio: float, sign: float, value: float, slope: float) -> None:
    logprobs = leaf(0.2 * ratio)
    term = policy_term(logprobs, torch.tensor([[0.2]]).log(), advantage(sign), ALL)
    assert term.item() == pytest.approx(value)
    assert gradient(term, logprobs) == pytest.approx([slope])


def test_a_loss_of_three_tokens_is_what_the_hand_computes() -> None:
    logprobs = torch.tensor([[0.6, 0.2], [0.1, 0.9]]).log()
    behaviour = torch.tensor([[0.4, 0.4], [0.3, 0.3]]).log()  # an expert's is not read
    mask = torch.tensor([[True, True], [True, False]])
    is_expert = torch.tensor([False, True])
    weights = episode_weights(mask.sum(1), is_expert)
    loss, told = dual_stream_loss(
        logprobs, behaviour, torch.tensor([1.0, 2.0]), mask, is_expert, weights, expert_weight=0.5
    )
    # policy: rho 1.5 -> 1.28, rho 0.5 -> 0.5; mean of two tokens 0.89
    # expert: 0.1 / (0.1 + 0.1) * 2 = 1 over one token, weighted 0.5
    assert loss.item() == pytest.approx(-(0.89 + 0.5))
    assert told == {
        "loss_sum": pytest.approx(-1.39),
        "policy/tokens": 2,
        "policy/logprob_mean": pytest.approx((math.log(0.6) + math.log(0.2)) / 2),
        "policy/objective_sum": pytest.approx(0.89),
        "policy/ratio_mean": pytest.approx(1.0),
        "policy/ratio_max": pytest.approx(1.5),
        "policy/log_ratio_abs_mean": pytest.approx((math.log(1.5) - math.log(0.5)) / 2),
        "policy/clipped_share": 0.5,
        "expert/tokens": 1,
        "expert/logprob_mean": pytest.approx(math.log(0.1)),
        "expert/objective_sum": pytest.approx(1.0),
        "expert/ratio_mean": pytest.approx(0.1),
        "expert/ratio_max": pytest.approx(0.1),
        "expert/log_ratio_abs_mean": pytest.approx(-math.log(0.1)),
        "expert/clipped_share": 0.0,
    }


def test_each_normaliser_makes_each_stream_a_mean_of_its_own() -> None:
    lengths, is_expert = torch.tensor([2, 4, 10, 0]), torch.tensor([False, False, True, True])
    episode = episode_weights(lengths, is_expert, "episode")
    assert episode.tolist() == pytest.approx([1 / (2 * 2), 1 / (2 * 4), 1 / (2 * 10), 0])
    token = episode_weights(lengths, is_expert, "token")
    assert token.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 10, 0])
    constant = episode_weights(lengths, is_expert, "constant", constant=8)
    assert constant.tolist() == pytest.approx([1 / (2 * 8), 1 / (2 * 8), 1 / (2 * 8), 0])


class Step:
    """A step of both streams on a small policy: a table of logits that gives every token its gradient."""

    def __init__(self, seed: int = 0, episodes: int = 8, vocabulary: int = 5) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.table = torch.randn(episodes * 9, vocabulary, generator=draw).requires_grad_()
        self.lengths = torch.randint(1, 9, (episodes,), generator=draw)
        self.tokens = torch.randint(0, vocabulary, (episodes, 9), generator=draw)
        self.is_expert = torch.arange(episodes) % 3 == 2
        self.advantages = torch.randn(episodes, generator=draw)
        self.noise = 0.5 * torch.randn(episodes, 9, generator=draw)

    def loss(
        self, rows: list[int], weights: torch.Tensor, padding: int = 0, garbage: float = 0.0, **settings: Any
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of some episodes, padded to the longest of them and further."""
        width = int(self.lengths[rows].max()) + padding
        logits = self.table.view(len(self.tokens), 9, -1)[rows].log_softmax(-1)
        logprobs = logits.gather(-1, self.tokens[rows][..., None])[..., 0]
        entropy = -(logits.exp() * logits).sum(-1)
        mask = torch.arange(width)[None] < self.lengths[rows][:, None]

        def padded(values: torch.Tensor) -> torch.Tensor:
            wide = torch.cat([values, torch.zeros(len(rows), max(0, width - 9))], dim=1)[:, :width]
            return torch.where(mask, wide, garbage)

        return dual_stream_loss(
            padded(logprobs),
            padded(logprobs.detach() + self.noise[rows]),
            self.advantages[rows],
            mask,
            self.is_expert[rows],
            weights[rows],
            entropy=padded(entropy),
            entropy_weight=0.01,
            reference_logprobs=padded(logprobs.detach() - self.noise[rows]),
            kl_weight=0.1,
            **settings,
        )

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss, self.table)[0]


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("shaping", SHAPINGS)
def test_gradient_of_eight_micro_batches_of_one_equals_that_of_one_of_eight(
    normaliser: Normaliser, shaping: Shaping
) -> None:
    step = Step()
    weights = episode_weights(step.lengths, step.is_expert, normaliser, constant=9)
    whole, told = step.loss(list(range(8)), weights, shaping=shaping)
    parts = [step.loss([row], weights, shaping=shaping) for row in range(8)]
    wanted = step.gradient(whole)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(sum(step.gradient(loss) for loss, _ in parts), wanted, rtol=1e-5, atol=1e-7)
    merged = merge_diagnostics([numbers for _, numbers in parts])
    assert merged == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in told.items()}


@given(st.integers(0, 99), st.permutations(list(range(8))), st.integers(1, 7), st.sampled_from(NORMALISERS))
@settings(max_examples=30, deadline=None)
def test_gradient_does_not_depend_on_how_a_step_is_cut(
    seed: int, order: list[int], cut: int, normaliser: Normaliser
) -> None:
    step = Step(seed)
    weights = episode_weights(step.lengths, step.is_expert, normaliser, constant=9)
    whole = step.gradient(step.loss(list(range(8)), weights)[0])
    parts = step.gradient(step.loss(order[:cut], weights)[0]) + step.gradient(
        step.loss(order[cut:], weights)[0]
    )
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("garbage", [0.0, -1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("shaping", SHAPINGS)
def test_padding_changes_neither_loss_nor_gradient(garbage: float, shaping: Shaping) -> None:
    step, rows = Step(), list(range(8))
    weights = episode_weights(step.lengths, step.is_expert)
    plain, told = step.loss(rows, weights, shaping=shaping)
    padded, told_padded = step.loss(rows, weights, padding=7, garbage=garbage, shaping=shaping)
    torch.testing.assert_close(padded, plain)
    assert torch.equal(step.gradient(padded), step.gradient(plain))
    assert told_padded == pytest.approx(told)


@pytest.mark.parametrize("garbage", [90.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("shaping", SHAPINGS)
def test_gradient_in_padding_is_exactly_zero_whatever_stands_there(garbage: float, shaping: Shaping) -> None:
    logprobs = torch.tensor([[-1.0, garbage], [-1.0, garbage]], requires_grad=True)
    mask, is_expert = torch.tensor([[True, False]] * 2), torch.tensor([False, True])
    loss, _ = dual_stream_loss(
        logprobs,
        logprobs.detach(),
        torch.ones(2),
        mask,
        is_expert,
        torch.ones(2),
        shaping=shaping,
        reference_logprobs=logprobs.detach(),
        kl_weight=0.1,
    )
    slope = torch.autograd.grad(loss, logprobs)[0]
    assert (slope[:, 1] == 0).all()
    assert (slope[:, 0] < 0).all()


@pytest.mark.parametrize("stream", ["policy", "expert"])
@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize("shaping", ["identity", "shaped"])
def test_gradient_of_each_stream_makes_good_episodes_likelier_and_bad_ones_rarer(
    stream: str, good: bool, shaping: Shaping
) -> None:
    is_expert = torch.tensor([stream == "expert"])
    logits = torch.zeros(3, 4, requires_grad=True)  # three tokens over a vocabulary of four
    tokens = torch.tensor([0, 3, 1])

    def logprobs() -> torch.Tensor:
        return logits.log_softmax(-1)[torch.arange(3), tokens][None]

    mask = torch.tensor([[True, True, False]])
    weights = episode_weights(torch.tensor([2]), is_expert)
    before = logprobs()
    loss, _ = dual_stream_loss(
        before, before.detach(), advantage(1.0 if good else -1.0), mask, is_expert, weights, shaping=shaping
    )
    loss.backward()
    with torch.no_grad():
        logits -= 0.1 * logits.grad
    change = (logprobs() - before)[0].detach()
    assert ((change[:2] > 0) if good else (change[:2] < 0)).all()
    assert change[2] == 0  # not the policy's own token
    assert (logits.grad[2] == 0).all()


def test_gradient_of_the_first_step_is_the_advantage_over_length_and_count() -> None:
    logprobs = torch.full((2, 4), math.log(0.5)).requires_grad_()
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    is_expert = torch.zeros(2, dtype=torch.bool)
    weights = episode_weights(mask.sum(1), is_expert)
    loss, _ = dual_stream_loss(
        logprobs, logprobs.detach(), torch.tensor([1.0, -1.0]), mask, is_expert, weights
    )
    # rho = 1: minus A / (2 episodes * length)
    wanted = torch.tensor([[-1 / 4, -1 / 4, 0, 0], [1 / 8] * 4])
    torch.testing.assert_close(torch.autograd.grad(loss, logprobs)[0], wanted)


def test_gradient_of_one_stream_is_not_touched_by_the_length_of_the_other() -> None:
    logprobs = torch.full((2, 40), math.log(0.5)).requires_grad_()
    is_expert = torch.tensor([False, True])

    def policy_gradients(expert_length: int) -> Iterator[torch.Tensor]:
        mask = torch.arange(40)[None] < torch.tensor([[4], [expert_length]])
        for normaliser in NORMALISERS:
            weights = episode_weights(mask.sum(1), is_expert, normaliser, constant=40)
            loss, _ = dual_stream_loss(logprobs, logprobs.detach(), torch.ones(2), mask, is_expert, weights)
            yield torch.autograd.grad(loss, logprobs)[0][0]

    for short, long in zip(policy_gradients(3), policy_gradients(40), strict=True):
        assert torch.equal(short, long)


def test_entropy_bonus_and_kl_are_those_of_the_policy_stream() -> None:
    logprobs = torch.tensor([[0.5], [0.5]]).log().requires_grad_()
    reference = torch.tensor([[0.25], [0.25]]).log()
    entropy = torch.tensor([[2.0], [3.0]], requires_grad=True)
    is_expert, mask = torch.tensor([False, True]), torch.ones(2, 1, dtype=torch.bool)
    loss, told = dual_stream_loss(
        logprobs,
        logprobs.detach(),
        torch.zeros(2),
        mask,
        is_expert,
        torch.ones(2),
        entropy=entropy,
        entropy_weight=0.1,
        reference_logprobs=reference,
        kl_weight=10.0,
    )
    # r = 0.25 / 0.5: 0.5 - 1 - log 0.5 = 0.193147; loss = -0.1 * 2 + 10 * 0.193147
    assert loss.item() == pytest.approx(-0.2 + 1.93147, abs=1e-5)
    assert told["policy/entropy_mean"] == 2.0
    assert told["policy/kl_mean"] == pytest.approx(0.193147, abs=1e-6)
    by_logprobs, by_entropy = torch.autograd.grad(loss, (logprobs, entropy))
    # d/dlogp (r - 1 - log r) = 1 - r = 0.5
    assert by_logprobs.flatten().tolist() == pytest.approx([5.0, 0.0])
    assert by_entropy.flatten().tolist() == pytest.approx([-0.1, 0.0])


@given(st.floats(-5, 0), st.floats(-5, 0))
@settings(max_examples=50, deadline=None)
def test_kl_estimates_are_never_negative_and_zero_for_equal_policies(policy: float, reference: float) -> None:
    term = kl_term(torch.tensor([[policy]]), torch.tensor([[reference]]), ALL)
    assert term.item() >= 0
    assert kl_term(torch.tensor([[policy]]), torch.tensor([[policy]]), ALL).item() == 0


def test_kl_estimate_is_unbiased() -> None:
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.2, 0.6])
    mask = torch.ones(1, 3, dtype=torch.bool)
    mean = (policy * kl_term(policy.log()[None], reference.log()[None], mask)[0]).sum()
    torch.testing.assert_close(mean, (policy * (policy / reference).log()).sum())


@pytest.mark.parametrize("sign", [1.0, -1.0, 0.0])
def test_gradient_stays_finite_where_probabilities_are_far_apart(sign: float) -> None:
    logprobs = torch.tensor([[-1e-6, -500.0]], requires_grad=True)
    behaviour = torch.tensor([[-500.0, -1e-6]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    for expert in (False, True):
        loss, told = dual_stream_loss(
            logprobs, behaviour, advantage(sign), mask, torch.tensor([expert]), torch.ones(1)
        )
        assert torch.autograd.grad(loss, logprobs)[0].isfinite().all()
        assert all(math.isfinite(number) for number in told.values())


def test_gradient_is_taken_in_float32_whatever_comes() -> None:
    logprobs = torch.tensor([[-1.0]], dtype=torch.bfloat16, requires_grad=True)
    loss, _ = dual_stream_loss(
        logprobs, logprobs.detach(), advantage(1.0), ALL, torch.tensor([False]), torch.ones(1)
    )
    assert loss.dtype == torch.float32


def test_an_episode_without_tokens_of_its_own_gives_a_loss_of_zero() -> None:
    logprobs = torch.zeros(1, 2, requires_grad=True)
    none = torch.zeros(1, 2, dtype=torch.bool)
    is_expert = torch.tensor([False])
    weights = episode_weights(none.sum(1), is_expert)
    loss, told = dual_stream_loss(logprobs, logprobs.detach(), advantage(1.0), none, is_expert, weights)
    assert loss.item() == 0
    assert told == {"loss_sum": 0.0}
    assert (torch.autograd.grad(loss, logprobs)[0] == 0).all()


def test_diagnostics_count_what_the_clip_cuts_from_experts_only_under_the_clip() -> None:
    logprobs = torch.tensor([[0.5, 0.9]]).log()
    mask, expert = torch.ones(1, 2, dtype=torch.bool), torch.tensor([True])
    given_ = (logprobs, torch.zeros(1, 2), advantage(-1.0), mask, expert, torch.ones(1))
    assert dual_stream_loss(*given_, shaping="clipped")[1]["expert/clipped_share"] == 0.5
    assert dual_stream_loss(*given_, shaping="shaped")[1]["expert/clipped_share"] == 0.0


def test_bad_input_is_refused_with_the_way_out() -> None:
    one, mask, expert = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), torch.tensor([False, True])
    weights = torch.ones(2)
    with pytest.raises(ConfigError, match="2 axes"):
        dual_stream_loss(one, one[:, :2], weights, mask, expert, weights)
    with pytest.raises(ConfigError, match="1 axes"):
        dual_stream_loss(one, one, weights[:1], mask, expert[:1], weights[:1])
    with pytest.raises(ConfigError, match="bool"):
        dual_stream_loss(one, one, weights, mask.long(), expert, weights)
    with pytest.raises(ConfigError, match="reference_logprobs"):
        dual_stream_loss(one, one, weights, mask, expert, weights, kl_weight=0.1)
    with pytest.raises(ConfigError, match="needs entropy"):
        dual_stream_loss(one, one, weights, mask, expert, weights, entropy_weight=0.1)
    with pytest.raises(ConfigError, match="shaped"):
        expert_term(one, weights, mask, "luffy")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="gamma"):
        expert_term(one, weights, mask, gamma=0.0)
    with pytest.raises(ConfigError, match="episode"):
        episode_weights(weights, expert, "sum")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="length above 0"):
        episode_weights(weights, expert, "constant")
