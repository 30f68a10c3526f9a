"""Draws episodes from the policy: it speaks, looks, gets new pixels, and speaks again (equation 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from medeyes_monai.errors import ConfigError, NumericsError
from medeyes_monai.policy import Policy, Segment, ToolPolicy
from medeyes_monai.rollout.row import MAX_LOOKS, Limits, Row, open_row
from medeyes_monai.scenes import Case
from medeyes_monai.seeding import torch_generator
from medeyes_monai.tools import Tool
from medeyes_monai.trajectory import Episode, Trajectory

__all__ = ["rollout"]

SHARE = 0.25
"""Looks are read when this share of the episodes waits for one; the ended leave when they are this share."""


def rollout(
    policy: Policy,
    cases: Sequence[Case],
    *,
    draws: int = 8,
    address: tuple[int | str, ...] = (0,),
    max_looks: int = MAX_LOOKS,
    max_turn_tokens: int = 48,
    greedy: bool = False,
    tools: Sequence[Tool] = (),
    begun: Sequence[Trajectory] = (),
    stop: Callable[[], bool] | None = None,
) -> list[Episode]:
    """Write episodes of several turns for some questions, all in one batch.

    An episode ends at an answer, at the first defect, when it wants to look more than ``max_looks`` times, or
    where the policy's ``max_tokens`` leave no room (with the defect ``too_long``, perhaps without a turn).
    Token ids are kept as drawn and never encoded again. A draw depends on its own address alone, not on
    what else is in the batch.

    Args:
        policy: The policy.
        cases: The questions.
        draws: Episodes of each question (G of equation 5).
        address: Seed of the draws, e.g. ``(run, step)``; question and draw are added to it.
        max_looks: Largest number of looks.
        max_turn_tokens: Largest number of tokens in a turn, end of turn included.
        greedy: Take the likeliest token instead of drawing one.
        tools: What the policy may use beside looking; the paper's protocol has none.
        begun: For each question looks that were made for the policy, which it sees as its own turns and from
            which it goes on; they count as looks, and nothing of them is trained on. Empty: no such looks.
        stop: Asked before each look and each call of a tool; True ends the episode there (``no_answer``).

    Returns:
        ``len(cases) * draws`` episodes of stream ``"policy"``, not yet scored, the draws of a question
        side by side.

    Raises:
        ConfigError: If a limit leaves nothing to do, or the policy cannot read a tool's reply.
        NumericsError: If the policy's scores are NaN.
    """
    if min(draws, max_turn_tokens) < 1 or max_looks < 0 or not cases:
        raise ConfigError(
            f"a rollout needs questions, draws and tokens: got {len(cases)} questions, {draws} draws, "
            f"{max_looks} looks, {max_turn_tokens} tokens a turn"
        )
    if begun and len(begun) != len(cases):
        raise ConfigError(
            f"looks were begun for {len(begun)} of {len(cases)} questions; give a path for each"
        )
    if tools and not isinstance(policy, ToolPolicy):
        raise ConfigError(
            f"{type(policy).__name__} cannot read the replies of tools; it needs a method reply"
        )
    openings = [
        open_row(policy, case, path, tools)
        for case, path in zip(cases, begun or [Trajectory()] * len(cases), strict=True)
    ]
    limits = Limits(max_looks, max_turn_tokens, policy.max_tokens, tuple(tools), stop)
    rows = [
        Row.opened(case, draw, opening, limits, _uniforms((*address, "policy", case.key, draw), limits.drawn))
        for case, opening in zip(cases, openings, strict=True)
        for draw in range(draws)
    ]
    active = [row for row in rows if row.defect is None]
    if active:
        _write(policy, active, greedy)
    return [row.episode() for row in rows]


def _write(policy: Policy, active: list[Row], greedy: bool) -> None:
    """Let episodes write, look and write on until each has ended.

    Nobody waits for the slowest: looks are read as soon as a share of the episodes wants one, and episodes
    that have ended leave the batch as soon as they are a share of it.
    """
    decoder = policy.start([row.prompt for row in active])
    ready = list(range(len(active)))  # the rows whose next token the decoder has scores for
    waiting: dict[int, Segment] = {}  # what each row is to read next
    while True:
        for n, token, logprob in zip(
            ready, *_draw(decoder.logits, [active[n] for n in ready], greedy), strict=True
        ):
            segment = active[n].write(policy, token, logprob)
            if segment is not None:
                waiting[n] = segment
        if not waiting:
            return
        if len(active) - len(waiting) >= SHARE * len(active):
            rows = sorted(waiting)
            decoder.keep(rows)
            active = [active[n] for n in rows]
            waiting = {new: waiting[old] for new, old in enumerate(rows)}
        looks = sorted(n for n, segment in waiting.items() if len(segment.token_ids) > 1)  # and replies
        tokens = sorted(n for n, segment in waiting.items() if len(segment.token_ids) == 1)
        ready = looks if not tokens or (looks and len(looks) >= SHARE * len(waiting)) else tokens
        decoder.append({n: waiting.pop(n) for n in ready})


def _draw(scores: torch.Tensor, rows: Sequence[Row], greedy: bool) -> tuple[list[int], list[float]]:
    """Draw a token for each row, with its log-probability.

    A draw inverts the cumulative distribution at the row's own uniform number.
    """
    distribution = torch.log_softmax(scores, dim=-1)
    if greedy:
        tokens = distribution.argmax(-1)
    else:
        numbers = [row.uniforms[row.drawn] for row in rows]
        uniform = torch.tensor(numbers, dtype=torch.float64, device=scores.device)
        cumulative = distribution.double().exp().cumsum(-1)
        whole = cumulative[:, -1]
        below = torch.nextafter(whole, torch.zeros_like(whole))  # of a number that rounding made the whole
        place = torch.minimum(uniform * whole, below)
        tokens = torch.searchsorted(cumulative, place[:, None], right=True)[:, 0]
        tokens = tokens.clamp(max=scores.shape[-1] - 1)  # no place is found among NaN
    logprobs = distribution.gather(-1, tokens[:, None])[:, 0].tolist()
    if any(map(math.isnan, logprobs)):
        raise NumericsError(
            "the policy's scores of its next token are NaN: its weights are spoiled or too large for their "
            "dtype; go back to a checkpoint or a policy that was sound, or load it in float32"
        )
    return tokens.tolist(), logprobs


def _uniforms(address: tuple[int | str, ...], number: int) -> list[float]:
    numbers: list[float] = torch.rand(
        number, dtype=torch.float64, generator=torch_generator(*address)
    ).tolist()
    return numbers
