"""Keys and values of a batch of episodes of different length, without padding between their parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["RaggedCache"]

COLUMNS = 64
"""Room for tokens is made in steps of this size, and at least by a quarter of what is there."""


class RaggedCache:
    """A key-value cache in which each row is filled from its first column on, however long the others are.

    It stands where a cache of transformers stands: the attention layers hand in the keys and values of a
    chunk and get back those that the chunk may see. Before each pass, :meth:`extend` says whose chunk it is.

    Args:
        device: Where keys and values are kept.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin without rows."""
        self.lengths: list[int] = []
        self._device = device
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._rows = self._columns = torch.zeros(0, 0, dtype=torch.long, device=device)
        self._everyone = True
        self._seen = 0

    def extend(self, rows: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
        """Make ready for a chunk that is right-padded to a common length, T.

        A row may take part with size 0: what is stored for it is never seen, and overwritten later.

        Args:
            rows: Row of each member of the chunk; new rows follow the last one.
            sizes: Number of tokens of each member.

        Returns:
            Which columns each token may see, itself included: bool ``[n, 1, T, L]``.
        """
        self.lengths += [0] * (max(rows) + 1 - len(self.lengths))
        start = torch.tensor([self.lengths[row] for row in rows], device=self._device)
        self._columns = start[:, None] + torch.arange(max(1, *sizes), device=self._device)
        self._seen = max(self.lengths[row] for row in rows) + max(1, *sizes)
        self._everyone = list(rows) == list(range(len(self.lengths)))
        self._rows = torch.tensor(list(rows), device=self._device)[:, None]
        for row, size in zip(rows, sizes, strict=True):
            self.lengths[row] += size
        return torch.arange(self._seen, device=self._device) <= self._columns[:, None, :, None]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a chunk's keys and values ``[n, H, T, D]``; return all of its rows' ``[n, H, L, D]``."""
        all_keys, all_values = self._room(keys, values, layer)
        all_keys[self._rows, :, self._columns] = keys.transpose(1, 2)
        all_values[self._rows, :, self._columns] = values.transpose(1, 2)
        seen_keys, seen_values = all_keys[:, :, : self._seen], all_values[:, :, : self._seen]
        if self._everyone:
            return seen_keys, seen_values
        rows = self._rows[:, 0]
        return seen_keys[rows], seen_values[rows]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order, and free the others; a row may be kept more than once."""
        self.lengths = [self.lengths[row] for row in rows]
        index = torch.tensor(list(rows), device=self._device)
        columns = _rounded(max(self.lengths, default=0) + 1)
        for layer, both in self._layers.items():
            self._layers[layer] = (both[0][index, :, :columns], both[1][index, :, :columns])

    def _room(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a layer's storage ``[B, H, C, D]``, with room for every row and the columns of the chunk."""
        if layer in self._layers:
            old = self._layers[layer]
            if len(old[0]) == len(self.lengths) and old[0].shape[2] >= self._seen:
                return old
            columns = _rounded(max(self._seen, old[0].shape[2] * 5 // 4))
        else:
            old, columns = (keys[:0, :, :0], values[:0, :, :0]), _rounded(self._seen)
        self._layers[layer] = (
            _grown(old[0], len(self.lengths), columns),
            _grown(old[1], len(self.lengths), columns),
        )
        return self._layers[layer]


def _grown(old: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return a larger copy; what is new is zero, since even a column that is not seen must be finite."""
    new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


def _rounded(columns: int) -> int:
    return -(-columns // COLUMNS) * COLUMNS
