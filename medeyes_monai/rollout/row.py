"""One episode while it is being written: its tokens, its turns, and what the environment says to each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch

from medeyes_monai.geometry import Box
from medeyes_monai.policy import Policy, Segment, ToolPolicy, written_steps
from medeyes_monai.protocol import Defect, Turn, parse_turn
from medeyes_monai.scenes import Case, Scene
from medeyes_monai.tools import Tool
from medeyes_monai.trajectory import Episode, Fixation, Picture, ToolCall, Trajectory

__all__ = ["MAX_CALLS", "MAX_LOOKS", "Limits", "Opening", "Row", "open_row"]

MAX_LOOKS = 4  # method, section 2: T_max
MAX_CALLS = 4
"""Largest number of uses of tools beside the looks."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When an episode has to end: looks, tokens of a turn, tokens of the whole, calls of tools, or a word.

    Args:
        looks: Largest number of looks.
        turn: Largest number of tokens in a turn.
        episode: Largest number of tokens of the whole.
        tools: The tools that are on.
        stop: Asked before each look and call; True ends the episode there.
    """

    looks: int
    turn: int
    episode: int
    tools: tuple[Tool, ...] = ()
    stop: Callable[[], bool] | None = None

    @property
    def calls(self) -> int:
        """Largest number of calls of tools."""
        return MAX_CALLS if self.tools else 0

    @property
    def drawn(self) -> int:
        """Largest number of tokens that are drawn."""
        return self.turn * (self.looks + self.calls + 1)


@dataclass(frozen=True, slots=True, eq=False)
class Opening:
    """What stands before the policy's first own turn.

    Args:
        segment: Prompt, and the looks that were made for the policy, each as a turn with its feedback.
        turns: The text of those turns.
        trajectory: Those looks. Boxes in voxels of the scene.
    """

    segment: Segment
    turns: tuple[str, ...] = ()
    trajectory: Trajectory = field(default_factory=Trajectory)


@dataclass(slots=True, eq=False)
class Row:
    """One episode while it is being written."""

    case: Case
    draw: int
    prompt: Segment
    limits: Limits
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
    scene: Scene = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the prompt; one that leaves no room is an episode without a turn."""
        self.scene = self.case.scene
        self._extend(self.prompt)
        if len(self.token_ids) >= self.limits.episode:
            self.defect = "too_long"

    @classmethod
    def opened(cls, case: Case, draw: int, opening: Opening, limits: Limits, uniforms: list[float]) -> Row:
        """Return a row that goes on from an opening."""
        path = opening.trajectory
        return cls(case, draw, opening.segment, limits, uniforms, turns=list(opening.turns), trajectory=path)

    def write(self, policy: Policy, token: int, logprob: float) -> Segment | None:
        """Add a token that was drawn; return what is to be read next, or None where the episode ends."""
        self.token_ids.append(token)
        self.response.append(True)
        self.logprobs.append(logprob)
        self.written.append(token)
        self.drawn += 1
        if token == policy.end_of_turn:
            turn = self._end_turn(policy)
            return None if turn is None else self._respond(policy, turn)
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

    def _end_turn(self, policy: Policy) -> Turn | None:
        """Read the turn that was written; return it if the episode goes on with a look or a tool."""
        complete = self.written[-1] == policy.end_of_turn
        text = policy.decode(self.written[:-1] if complete else self.written)
        self.written = []
        self.turns.append(text)
        turn = parse_turn(text, policy.frame(self.scene), [tool.form for tool in self.limits.tools])
        self.defect = turn.defect if complete or turn.defect else "too_long"
        acts = turn.box is not None or turn.call is not None
        if self.defect is None and acts and self._has_to_end(turn):
            self.defect = "no_answer"
        if self.defect is None and acts:
            return turn
        self.trajectory = replace(self.trajectory, reasoning=turn.reasoning, answer=turn.answer)
        return None

    def _has_to_end(self, turn: Turn) -> bool:
        path, limits = self.trajectory, self.limits
        spent = len(path.fixations) >= limits.looks if turn.box else len(path.calls) >= limits.calls
        return spent or (limits.stop is not None and limits.stop())

    def _respond(self, policy: Policy, turn: Turn) -> Segment | None:
        """Do what a turn asks for; return the end of that turn and the feedback, if it has room."""
        before = self.trajectory
        feedback = self._look(policy, turn) if turn.call is None else self._call(policy, turn.call)
        if len(self.token_ids) + len(feedback.token_ids) >= self.limits.episode:
            self.defect = "too_long"  # and the look, which is never shown, did not happen
            self.trajectory = before
            return None
        self._extend(feedback)
        return Segment((policy.end_of_turn, *feedback.token_ids), feedback.pictures)

    def _look(self, policy: Policy, turn: Turn) -> Segment:
        """Look where a turn points."""
        shape = self.scene.shape
        box = cast("Box", turn.box).scale(policy.frame(self.scene), shape).clip(shape)
        looks = (*self.trajectory.fixations, Fixation(turn.reasoning, box))
        self.trajectory = replace(self.trajectory, fixations=looks)
        return policy.feedback(self.scene.look(box))

    def _call(self, policy: Policy, call: ToolCall) -> Segment:
        """Use a tool."""
        shape = self.scene.shape
        box = call.box and call.box.scale(policy.frame(self.scene), shape).clip(shape)
        asked = replace(call, box=box, after=len(self.trajectory.fixations))
        (tool,) = (tool for tool in self.limits.tools if tool.form.name == call.name)
        reply, self.scene = tool.use(asked, self.scene)
        self.trajectory = replace(
            self.trajectory, calls=(*self.trajectory.calls, replace(asked, reply=reply))
        )
        return cast("ToolPolicy", policy).reply(reply)

    def _extend(self, segment: Segment) -> None:
        """Add what the environment says."""
        self.token_ids += segment.token_ids
        self.response += [False] * len(segment.token_ids)
        self.logprobs += [0.0] * len(segment.token_ids)
        self.pictures += segment.pictures


def open_row(policy: Policy, case: Case, begun: Trajectory, tools: Sequence[Tool]) -> Opening:
    """Return the prompt of a question, and after it looks as if the policy had asked for them."""
    prompt = policy.prompt(case)
    path, steps = written_steps(begun, case, policy, tools)
    tokens, pictures = list(prompt.token_ids), list(prompt.pictures)
    for step in steps:
        tokens += (*step.said, *step.feedback.token_ids)
        pictures += step.feedback.pictures
    segment = Segment(tuple(tokens), tuple(pictures))
    return Opening(segment, tuple(step.text for step in steps), path)
