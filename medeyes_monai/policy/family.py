"""What a policy asks of a model family: tokens for pictures, states for episodes, a reader to append to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from medeyes_monai.policy.base import Segment
from medeyes_monai.policy.decoding import Reader
from medeyes_monai.trajectory import Picture

__all__ = ["Family"]


class Family(Protocol):
    """A model of one family, with its way of turning pictures into tokens."""

    grid: int
    """Grid to which the sides of a picture have to fit. Unit: pixels."""
    processor: Any
    """What is saved beside the weights so that pictures are read in the same way again."""

    def picture_ids(self, picture: Picture) -> tuple[int, ...]:
        """Return the tokens that stand for a picture."""

    def hidden(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Read whole episodes at once and return the states ``[B, T, D]``, with gradient where trained.

        Rows are padded at their end. A state goes through the model's output layer to predict the next token.
        """

    def start(self) -> Reader:
        """Return a reader that has read nothing yet."""
