"""The contract of a policy: a vision-language model that speaks, looks and can be trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from medeyes_monai.scenes import Case, Scene, View
from medeyes_monai.trajectory import Episode, Picture

__all__ = ["Decoder", "Policy", "Segment", "TokenScores", "ToolPolicy"]


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A stretch of an episode: token ids with the pictures that their image tokens stand for.

    Args:
        token_ids: Token ids, image tokens already repeated to the length of their picture.
        pictures: Pictures in the order of their tokens.
    """

    token_ids: tuple[int, ...]
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class TokenScores:
    """What the policy thinks of tokens that are already there.

    Args:
        logprobs: ``log pi(token_t | before)``; 0 where the mask is False. Shape ``[B, T]``, float32.
        entropy: Entropy of the distribution that token t was drawn from, same shape. Unit: nats.
        response_mask: True on tokens that are trained on. Shape ``[B, T]``, bool.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor
    response_mask: torch.Tensor


class Decoder(Protocol):
    """The state of a batch of episodes that are being written, to which is only ever appended."""

    @property
    def logits(self) -> torch.Tensor:
        """Scores of the next token of the rows that were appended to last, in the order of the appending.

        All rows at the start. Forbidden tokens are at minus infinity. Shape ``[n, V]``, float32.
        """

    def append(self, segments: Mapping[int, Segment]) -> None:
        """Append one segment to each of some rows; the others stay as they are."""

    def keep(self, rows: Sequence[int]) -> None:
        """Drop every row but these, renumbered in this order; there are no scores until an append."""


@runtime_checkable
class Policy(Protocol):
    """A vision-language model behind the few calls that rollout and trainer need."""

    @property
    def end_of_turn(self) -> int:
        """Token that ends each turn of the policy."""

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens in an episode, from the prompt to the end."""

    def frame(self, scene: Scene) -> tuple[int, ...]:
        """Return the extent of the frame in which this policy writes boxes for a scene."""

    def prompt(self, case: Case) -> Segment:
        """Return the first segment: overview, question, and the invitation to speak."""

    def feedback(self, view: View) -> Segment:
        """Return the segment that brings new pixels, from after the end of a turn to the next invitation."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of one turn's text, without the end of the turn."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of one turn's token ids."""

    def start(self, segments: Sequence[Segment]) -> Decoder:
        """Read one prompt for each row and return the state from which to go on."""

    def score(self, episodes: Sequence[Episode], *, entropy_gradient: bool = False) -> TokenScores:
        """Score every response token of some episodes in one teacher-forced pass, with gradient.

        The entropy has a gradient only where it is asked for.
        """

    def reference(self) -> AbstractContextManager[None]:
        """Return a context in which the policy is the one that training started from: its adapter is off.

        Raises:
            ConfigError: If it has no adapter.
        """

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """Iterate over all parameters, trained or frozen."""

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Iterate over all parameters with their names."""

    def train(self, mode: bool = True) -> Policy:
        """Switch dropout and the like on or off, as ``torch.nn.Module.train``."""


@runtime_checkable
class ToolPolicy(Policy, Protocol):
    """A policy that can be told something in words: what a tool replies."""

    def reply(self, text: str) -> Segment:
        """Return the segment that brings a tool's reply, as :meth:`feedback` brings pixels."""
