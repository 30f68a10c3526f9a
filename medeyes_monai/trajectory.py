"""What happened in an episode: looks, a path of looks, and the same path as tokens with its reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from medeyes_monai.errors import GeometryError, ProtocolError
from medeyes_monai.geometry import Box

__all__ = ["Episode", "Fixation", "Picture", "Stream", "ToolCall", "Trajectory"]

Stream = Literal["policy", "expert"]
"""Where an episode came from: drawn from the policy, or written by an expert (equations 5 and 6)."""

Picture = npt.NDArray[np.uint8]
"""Pixels as the policy sees them: ``uint8 (rows, columns, 3)``, row 0 at the top."""


@dataclass(frozen=True, slots=True)
class Fixation:
    """One look: what was thought before it and where it went (``n_t`` of equation 1).

    Args:
        reasoning: Text reasoning before the look.
        box: Region that is looked at. Unit: voxels of the frame that the trajectory is given in.
        mode: ``"scan"`` or ``"drill"`` where a navigator made the look, else None. Not compared.
        confidence: Confidence in [0, 1] that an expert gave the region, else None. Not compared.
        disagreement: How far several experts are apart about the region, in [0, 1], else None. Not compared.
    """

    reasoning: str
    box: Box
    mode: Literal["scan", "drill"] | None = field(default=None, compare=False)
    confidence: float | None = field(default=None, compare=False)
    disagreement: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One use of a tool other than a look: what was thought before it, what was asked, what it said.

    Args:
        name: Name of the tool, an identifier.
        reasoning: Text reasoning before the call.
        box: Region that the tool is asked about, or None. Unit: voxels of the frame of the trajectory.
        values: Its numbers by name, in the order of the tool's form.
        reply: What the tool said.
        after: Number of looks before the call.

    Raises:
        ProtocolError: If a name is no identifier.
    """

    name: str
    reasoning: str = ""
    box: Box | None = None
    values: tuple[tuple[str, float], ...] = ()
    reply: str = ""
    after: int = 0

    def __post_init__(self) -> None:
        """Refuse names that could not be told from other text."""
        if not all(name.isidentifier() for name in (self.name, *(name for name, _ in self.values))):
            raise ProtocolError(f"tools and their numbers are named by identifiers, got {self.name!r}")


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A path of looks that ends in an answer: ``tau`` of equation 1.

    Args:
        fixations: The looks, in order. All boxes have the same number of axes.
        reasoning: Text reasoning before the answer.
        answer: The answer, or None where the path broke off before one was given.
        calls: Uses of other tools, in order; the paper's protocol has none.

    Raises:
        GeometryError: If two- and three-dimensional boxes are mixed, or calls are not in order.
    """

    fixations: tuple[Fixation, ...] = ()
    reasoning: str = ""
    answer: str | None = None
    calls: tuple[ToolCall, ...] = ()

    def __post_init__(self) -> None:
        """Refuse paths that mix pictures and volumes."""
        boxes = [*self.boxes, *(call.box for call in self.calls if call.box is not None)]
        if len({box.ndim for box in boxes}) > 1:
            raise GeometryError("a trajectory has either 2D or 3D looks, not both")
        places = [0, *(call.after for call in self.calls), len(self.fixations)]
        if places != sorted(places):
            raise GeometryError(f"calls come in the order of the looks before them, got {places[1:-1]}")

    @property
    def steps(self) -> tuple[Fixation | ToolCall, ...]:
        """Looks and calls of tools in the order in which they were made."""
        steps: list[Fixation | ToolCall] = []
        shown = 0
        for call in self.calls:
            steps += [*self.fixations[shown : call.after], call]
            shown = call.after
        return (*steps, *self.fixations[shown:])

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The regions that were looked at, in order."""
        return tuple(look.box for look in self.fixations)

    def scale(self, source: Sequence[int], target: Sequence[int]) -> Trajectory:
        """Return the same path with its boxes carried from one frame to another (see :meth:`Box.scale`)."""
        looks = tuple(replace(look, box=look.box.scale(source, target)) for look in self.fixations)
        calls = tuple(
            call if call.box is None else replace(call, box=call.box.scale(source, target))
            for call in self.calls
        )
        return replace(self, fixations=looks, calls=calls)


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """A trajectory as the trainer sees it: tokens, pictures, behaviour log-probabilities and reward.

    Args:
        case: Key of the question that was asked.
        stream: Who made the episode.
        draw: Number of the episode within its question and stream.
        token_ids: Every token from the prompt to the end, never re-encoded. Shape ``[T]``, int64.
        response_mask: True on tokens that are trained on, the ones the policy (or expert) wrote; False on
            prompt, feedback and image tokens. Shape ``[T]``, bool.
        behaviour_logprobs: Log-probability of each response token when it was drawn, 0 elsewhere and
            everywhere in the expert stream, for which ``pi_expert = 1`` (equation 6). Shape ``[T]``, float32.
        pictures: The overview and then one picture for each look, in the order of their tokens.
        turns: Text of each turn as written, without end-of-turn tokens.
        trajectory: What the text says, as far as it is readable. Boxes in voxels of the scene.
        defect: Why the text is not a complete episode, or None if it is one.
        reward: Sum that the advantages are made of; NaN until it has been scored.
        reward_parts: The reward's components by name, each before weighting.
    """

    case: str
    stream: Stream
    draw: int
    token_ids: torch.Tensor
    response_mask: torch.Tensor
    behaviour_logprobs: torch.Tensor
    pictures: tuple[Picture, ...]
    turns: tuple[str, ...]
    trajectory: Trajectory
    defect: str | None = None
    reward: float = float("nan")
    reward_parts: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of tokens, ``T``."""
        return int(self.token_ids.shape[0])

    @property
    def turn_tokens(self) -> tuple[int, ...]:
        """Number of tokens of each turn that is trained on, its end included."""
        outside = torch.zeros(1, dtype=torch.int64)
        edges = torch.cat([outside, self.response_mask.long(), outside]).diff()
        return tuple((torch.nonzero(edges < 0) - torch.nonzero(edges > 0))[:, 0].tolist())
