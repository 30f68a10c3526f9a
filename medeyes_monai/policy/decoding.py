"""The state of a batch of episodes that are being written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.base import Segment

__all__ = ["EpisodeDecoder", "Reader"]


class Reader(Protocol):
    """A model with what it has read of each row."""

    def append(self, segments: Mapping[int, Segment]) -> torch.Tensor:
        """Read one segment for each of some rows; return the states ``[n, D]`` of their last tokens.

        The first call makes the rows.
        """

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order, and free the others; a row may be kept more than once."""


class EpisodeDecoder:
    """A :class:`~medeyes_monai.policy.Decoder` over any reader.

    Args:
        reader: Reads segments; nothing was read yet.
        scores: Turns states ``[n, D]`` into scores of the next token ``[n, V]``.
        segments: One prompt for each row. A prompt object that several rows share is read once.

    Raises:
        ConfigError: If there is no prompt.
    """

    def __init__(
        self, reader: Reader, scores: Callable[[torch.Tensor], torch.Tensor], segments: Sequence[Segment]
    ) -> None:
        """Read the prompts."""
        if not segments:
            raise ConfigError("there is no prompt to read; give at least one")
        self._reader, self._scores = reader, scores
        distinct = list({id(segment): segment for segment in segments}.values())
        self._states = reader.append(dict(enumerate(distinct)))
        if len(distinct) < len(segments):
            row = {id(segment): number for number, segment in enumerate(distinct)}
            rows = [row[id(segment)] for segment in segments]
            reader.keep(rows)
            self._states = self._states[rows]

    @property
    @torch.no_grad()
    def logits(self) -> torch.Tensor:
        """Scores ``[n, V]`` of the next token of the rows that were appended to last."""
        return self._scores(self._states)

    def append(self, segments: Mapping[int, Segment]) -> None:
        """Append one segment to each of some rows."""
        self._states = self._reader.append(segments)

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order, and free the others."""
        self._reader.keep(rows)
