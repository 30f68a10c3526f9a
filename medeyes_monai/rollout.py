"""Draws episodes from the policy: it speaks, looks, gets new pixels, and speaks again (equation 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy import Policy, Segment
from medeyes_monai.protocol import Defect, parse_turn
from medeyes_monai.scenes import Case
from medeyes_monai.seeding import torch_generator
from medeyes_monai.trajectory import Episode, Fixation, Picture, Trajectory

__all__ = ["rollout"]

MAX_LOOKS = 4  # method, section 2: T_max
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

    Returns:
        ``len(cases) * draws`` episodes of stream ``"policy"``, not yet scored, the draws of a question
        side by side.

    Raises:
        ConfigError: If a limit leaves nothing to do.
    """
    if min(draws, max_turn_tokens) < 1 or max_looks < 0 or not cases:
        raise ConfigError(
            f"a rollout needs questions, draws and tokens: got {len(cases)} questions, {draws} draws, "
            f"{max_looks} looks, {max_turn_tokens} tokens a turn"
        )
    prompts = [policy.prompt(case) for case in cases]
    limits = _Limits(max_looks, max_turn_tokens, policy.max_tokens)
    rows = [
        _Row(case, draw, prompt, limits, _uniforms((*address, "policy", case.key, draw), limits.drawn))
        for case, prompt in zip(cases, prompts, strict=True)
        for draw in range(draws)
    ]
    active = [row for row in rows if row.defect is None]
    if active:
        _write(policy, active, greedy)
    return [row.episode() for row in rows]


def _write(policy: Policy, active: list[_Row], greedy: bool) -> None:
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
        looks = sorted(n for n, segment in waiting.items() if segment.pictures)
        tokens = sorted(n for n, segment in waiting.items() if not segment.pictures)
        ready = looks if not tokens or (looks and len(looks) >= SHARE * len(waiting)) else tokens
        decoder.append({n: waiting.pop(n) for n in ready})


@dataclass(frozen=True, slots=True)
class _Limits:
    """When an episode has to end: looks, tokens of a turn, tokens of the whole."""

    looks: int
    turn: int
    episode: int

    @property
    def drawn(self) -> int:
        """Largest number of tokens that are drawn."""
        return self.turn * (self.looks + 1)


@dataclass(slots=True, eq=False)
class _Row:
    """One episode while it is being written."""

    case: Case
    draw: int
    prompt: Segment
    limits: _Limits
    uniforms: list[float]
    token_ids: list[int] = field(default_factory=list)
    response: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    drawn: int = 0
    written: list[int] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    trajectory: Trajectory = field(default_factory=Trajectory)
    defect: Defect | None = None

    def __post_init__(self) -> None:
        """Begin with the prompt; one that leaves no room is an episode without a turn."""
        self._extend(self.prompt)
        if len(self.token_ids) >= self.limits.episode:
            self.defect = "too_long"

    def write(self, policy: Policy, token: int, logprob: float) -> Segment | None:
        """Add a token that was drawn; return what is to be read next, or None where the episode ends."""
        self.token_ids.append(token)
        self.response.append(True)
        self.logprobs.append(logprob)
        self.written.append(token)
        self.drawn += 1
        if token == policy.end_of_turn:
            return self._look(policy) if self._end_turn(policy) else None
        if len(self.written) == self.limits.turn or len(self.token_ids) == self.limits.episode:
            self._end_turn(policy)
            return None
        return Segment((token,))

    def episode(self) -> Episode:
        """Return the finished episode."""
        return Episode(
            case=self.case.key,
            stream="policy",
            draw=self.draw,
            token_ids=torch.tensor(self.token_ids, dtype=torch.long),
            response_mask=torch.tensor(self.response, dtype=torch.bool),
            behaviour_logprobs=torch.tensor(self.logprobs, dtype=torch.float32),
            pictures=tuple(self.pictures),
            turns=tuple(self.turns),
            trajectory=self.trajectory,
            defect=self.defect,
        )

    def _end_turn(self, policy: Policy) -> bool:
        """Read the turn that was written; return whether the episode goes on with a look."""
        complete = self.written[-1] == policy.end_of_turn
        text = policy.decode(self.written[:-1] if complete else self.written)
        self.written = []
        self.turns.append(text)
        scene = self.case.scene
        turn = parse_turn(text, policy.frame(scene))
        self.defect = turn.defect if complete or turn.defect else "too_long"
        if (
            self.defect is None
            and turn.box is not None
            and len(self.trajectory.fixations) == self.limits.looks
        ):
            self.defect = "no_answer"
        if self.defect is not None or turn.box is None:
            self.trajectory = replace(self.trajectory, reasoning=turn.reasoning, answer=turn.answer)
            return False
        box = turn.box.scale(policy.frame(scene), scene.shape).clip(scene.shape)
        looks = (*self.trajectory.fixations, Fixation(turn.reasoning, box))
        self.trajectory = replace(self.trajectory, fixations=looks)
        return True

    def _look(self, policy: Policy) -> Segment | None:
        """Look where the last turn pointed; return the end of that turn and the feedback, if it has room."""
        feedback = policy.feedback(self.case.scene.look(self.trajectory.fixations[-1].box))
        if len(self.token_ids) + len(feedback.token_ids) >= self.limits.episode:
            self.defect = "too_long"  # and the look, which is never shown, did not happen
            self.trajectory = replace(self.trajectory, fixations=self.trajectory.fixations[:-1])
            return None
        self._extend(feedback)
        return Segment((policy.end_of_turn, *feedback.token_ids), feedback.pictures)

    def _extend(self, segment: Segment) -> None:
        """Add what the environment says."""
        self.token_ids += segment.token_ids
        self.response += [False] * len(segment.token_ids)
        self.logprobs += [0.0] * len(segment.token_ids)
        self.pictures += segment.pictures


def _draw(scores: torch.Tensor, rows: Sequence[_Row], greedy: bool) -> tuple[list[int], list[float]]:
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
    return tokens.tolist(), distribution.gather(-1, tokens[:, None])[:, 0].tolist()


def _uniforms(address: tuple[int | str, ...], number: int) -> list[float]:
    numbers: list[float] = torch.rand(
        number, dtype=torch.float64, generator=torch_generator(*address)
    ).tolist()
    return numbers
