"""Draws episodes from the policy: it speaks, looks, gets new pixels, and speaks again (equation 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy import Decoder, Policy, Segment
from medeyes_monai.protocol import Defect, parse_turn
from medeyes_monai.scenes import Case
from medeyes_monai.seeding import torch_generator
from medeyes_monai.trajectory import Episode, Fixation, Picture, Trajectory

__all__ = ["rollout"]

MAX_LOOKS = 4  # method, section 2: T_max


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

    An episode ends at an answer, at the first defect, or when it wants to look more than ``max_looks`` times.
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
    budget = max_turn_tokens * (max_looks + 1)
    rows = [
        _Row(case, draw, prompt, _uniforms((*address, "policy", case.key, draw), budget))
        for case, prompt in zip(cases, prompts, strict=True)
        for draw in range(draws)
    ]
    active = list(rows)
    decoder = policy.start([row.prompt for row in active])
    for looks in range(max_looks + 1):
        _write_turn(policy, decoder, active, max_turn_tokens, greedy)
        going_on = [n for n, row in enumerate(active) if row.end_turn(policy, may_look=looks < max_looks)]
        active = [active[n] for n in going_on]
        if not active:
            break
        decoder.keep(going_on)
        decoder.append([row.look(policy) for row in active])
    return [row.episode() for row in rows]


@dataclass(slots=True, eq=False)
class _Row:
    """One episode while it is being written."""

    case: Case
    draw: int
    prompt: Segment
    uniforms: list[float]
    token_ids: list[int] = field(init=False)
    response: list[bool] = field(init=False)
    logprobs: list[float] = field(init=False)
    pictures: list[Picture] = field(init=False)
    drawn: int = 0
    written: list[int] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    trajectory: Trajectory = field(default_factory=Trajectory)
    defect: Defect | None = None

    def __post_init__(self) -> None:
        """Begin with the prompt."""
        self.token_ids, self.response, self.logprobs, self.pictures = [], [], [], []
        self.extend(self.prompt)

    def extend(self, segment: Segment) -> None:
        """Add what the environment says."""
        self.token_ids += segment.token_ids
        self.response += [False] * len(segment.token_ids)
        self.logprobs += [0.0] * len(segment.token_ids)
        self.pictures += segment.pictures

    def write(self, token: int, logprob: float) -> None:
        """Add a token that the policy has drawn."""
        self.token_ids.append(token)
        self.response.append(True)
        self.logprobs.append(logprob)
        self.written.append(token)
        self.drawn += 1

    def end_turn(self, policy: Policy, *, may_look: bool) -> bool:
        """Read the turn that was written; return whether the episode goes on with a look."""
        complete = self.written[-1] == policy.end_of_turn
        text = policy.decode(self.written[:-1] if complete else self.written)
        self.written = []
        self.turns.append(text)
        turn = parse_turn(text, policy.frame(self.case.scene))
        self.defect = turn.defect if complete or turn.defect else "too_long"
        if self.defect is None and turn.box is not None and not may_look:
            self.defect = "no_answer"
        if self.defect is not None or turn.box is None:
            self.trajectory = replace(self.trajectory, reasoning=turn.reasoning, answer=turn.answer)
            return False
        scene = self.case.scene
        box = turn.box.scale(policy.frame(scene), scene.shape).clip(scene.shape)
        looks = (*self.trajectory.fixations, Fixation(turn.reasoning, box))
        self.trajectory = replace(self.trajectory, fixations=looks)
        return True

    def look(self, policy: Policy) -> Segment:
        """Look where the last turn pointed; return the end of that turn and the feedback."""
        feedback = policy.feedback(self.case.scene.look(self.trajectory.fixations[-1].box))
        self.extend(feedback)
        return Segment((policy.end_of_turn, *feedback.token_ids), feedback.pictures)

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


def _write_turn(policy: Policy, decoder: Decoder, rows: Sequence[_Row], limit: int, greedy: bool) -> None:
    """Let every row write until its turn ends; a row that has ended waits unchanged for the others."""
    writing = [True] * len(rows)
    for step in range(limit):
        distribution = torch.log_softmax(decoder.logits, dim=-1)
        tokens = distribution.argmax(-1) if greedy else _draw(distribution, rows)
        logprobs = distribution.gather(-1, tokens[:, None])[:, 0]
        for n, (token, logprob) in enumerate(zip(tokens.tolist(), logprobs.tolist(), strict=True)):
            if writing[n]:
                rows[n].write(token, logprob)
                writing[n] = token != policy.end_of_turn
        if not any(writing) or step + 1 == limit:
            return
        decoder.append(
            [Segment((row.written[-1],) if on else ()) for row, on in zip(rows, writing, strict=True)]
        )


def _draw(distribution: torch.Tensor, rows: Sequence[_Row]) -> torch.Tensor:
    """Draw a token for each row: invert its cumulative distribution at the row's own uniform number."""
    numbers = [row.uniforms[row.drawn] for row in rows]
    uniform = torch.tensor(numbers, dtype=torch.float64, device=distribution.device)
    cumulative = distribution.double().exp().cumsum(-1)
    place = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
    last = (distribution > float("-inf")).long().cumsum(-1).argmax(-1)
    return torch.minimum(place, last)


def _uniforms(address: tuple[int | str, ...], number: int) -> list[float]:
    numbers: list[float] = torch.rand(
        number, dtype=torch.float64, generator=torch_generator(*address)
    ).tolist()
    return numbers
