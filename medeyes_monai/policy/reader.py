"""Reads episodes piece by piece into a cache, for every family whose decoder takes explicit positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from medeyes_monai.policy.base import Segment
from medeyes_monai.policy.cache import RaggedCache

__all__ = ["CachedReader", "ChunkModel", "pad"]


class ChunkModel(Protocol):
    """A model that reads a chunk of several rows after what a cache holds of each."""

    def positions(
        self, ids: torch.Tensor, mask: torch.Tensor, segments: Sequence[Segment]
    ) -> tuple[torch.Tensor, list[int]]:
        """Return the positions ``[K, B, T]`` of a chunk that starts at 0, and where each row continues.

        K is the number of parts of a position: 1, or 3 for a multimodal rotary embedding.
        """

    def read(
        self,
        ids: torch.Tensor,
        place: torch.Tensor,
        segments: Sequence[Segment],
        seen: torch.Tensor | None = None,
        cache: RaggedCache | None = None,
    ) -> torch.Tensor:
        """Return the states ``[B, T, D]`` of a right-padded chunk."""

    @property
    def step(self) -> Step:
        """What reads one token for each row."""


class Step(Protocol):
    """Reads one token for each row."""

    def __call__(
        self, ids: torch.Tensor, place: torch.Tensor, seen: torch.Tensor, cache: RaggedCache
    ) -> torch.Tensor:
        """Return the states ``[B, D]`` of tokens ``[B]`` at positions ``[B]``."""


class CachedReader:
    """Reads a batch of episodes piece by piece; nothing that was read is ever read again.

    Positions are explicit, because a multimodal rotary embedding counts a picture by its sides and not by its
    tokens: each row remembers the position at which its next token stands.

    Args:
        model: Reads the pieces.
        device: Where the cache is kept.
    """

    def __init__(self, model: ChunkModel, device: torch.device) -> None:
        """Begin without rows."""
        self._model = model
        self._cache = RaggedCache(device)
        self._position: list[int] = []

    @torch.no_grad()
    def append(self, segments: Mapping[int, Segment]) -> torch.Tensor:
        """Append a segment to some rows and return the states of their last tokens ``[n, D]``."""
        if not self._position:
            self._position = [0] * len(segments)
        if all(len(part.token_ids) == 1 and not part.pictures for part in segments.values()):
            return self._append_tokens({row: segment.token_ids[0] for row, segment in segments.items()})
        rows, parts = list(segments), list(segments.values())
        sizes = [len(part.token_ids) for part in parts]
        ids, mask = pad(parts)
        place, following = self._model.positions(ids, mask, parts)
        start = torch.tensor([self._position[row] for row in rows])
        seen = self._cache.extend(rows, sizes)
        states = self._model.read(ids, place + start[None, :, None], parts, seen, self._cache)
        for row, step in zip(rows, following, strict=True):
            self._position[row] += step
        return states[range(len(rows)), [size - 1 for size in sizes]]

    def _append_tokens(self, tokens: Mapping[int, int]) -> torch.Tensor:
        """Append one token to each of some rows; the others take part idly."""
        rows = range(len(self._position))
        seen = self._cache.extend(rows, [int(row in tokens) for row in rows])
        ids = torch.tensor([tokens.get(row, 0) for row in rows], device=seen.device)
        states = self._model.step(ids, torch.tensor(self._position), seen, self._cache)
        for row in tokens:
            self._position[row] += 1
        return states if list(tokens) == list(rows) else states[list(tokens)]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order, and free the others; a row may be kept more than once."""
        self._cache.keep(rows)
        self._position = [self._position[row] for row in rows]


def pad(segments: Sequence[Segment]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids ``[B, T]``, right-padded with 0, and which of them are real; T is at least 1."""
    sizes = torch.tensor([len(segment.token_ids) for segment in segments])
    longest = max(1, int(sizes.max()))
    ids = [[*segment.token_ids, *[0] * (longest - len(segment.token_ids))] for segment in segments]
    return torch.tensor(ids, dtype=torch.long), torch.arange(longest) < sizes[:, None]
