"""Keys and values of a batch of episodes of different length, without padding between their parts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["RaggedCache", "additive", "cache_name"]

COLUMNS = 64
"""Room for tokens is made in steps of this size, and at least by a quarter of what is there."""


def cache_name(model: torch.nn.Module) -> str:
    """Return the name under which a model takes its cache and returns it: transformers 5.24 changed it.

    Example:
        >>> class Model(torch.nn.Module):
        ...     def forward(self, ids, past_key_values=None):
        ...         return ids
        >>> cache_name(Model())
        'past_key_values'
    """
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


class RaggedCache:
    """A key-value cache in which each row is filled from its first column on, however long the others are.

    It stands where a cache of transformers stands: the attention layers hand in the keys and values of a
    chunk and get back those that the chunk may see. Before each pass, :meth:`extend` says whose chunk it is.

    Args:
        device: Where keys and values are kept.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin without rows."""
        self._device = device
        self.lengths: list[int] = []
        """Number of tokens in each row."""
        self.keys: list[torch.Tensor] = []
        """Storage of each layer, ``[B, H, C, W]``; C columns are at least those that are filled."""
        self.values: list[torch.Tensor] = []
        """As :attr:`keys`."""
        self.rows = torch.zeros(0, 1, dtype=torch.long, device=device)
        """Rows of the chunk, ``[n, 1]``."""
        self.columns = torch.zeros(0, 0, dtype=torch.long, device=device)
        """Columns of the chunk's tokens, ``[n, T]``."""
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
        self.columns = start[:, None] + torch.arange(max(1, *sizes), device=self._device)
        self._seen = max(self.lengths[row] for row in rows) + max(1, *sizes)
        self._everyone = list(rows) == list(range(len(self.lengths)))
        self.rows = torch.tensor(list(rows), device=self._device)[:, None]
        for row, size in zip(rows, sizes, strict=True):
            self.lengths[row] += size
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            if len(keys) < len(self.lengths) or keys.shape[2] < self._seen:
                columns = _rounded(max(self._seen, keys.shape[2] * 5 // 4))
                self.keys[layer] = _grown(keys, len(self.lengths), columns)
                self.values[layer] = _grown(values, len(self.lengths), columns)
        return torch.arange(self._seen, device=self._device) <= self.columns[:, None, :, None]

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store a chunk's keys and values ``[n, H, T, W]``; return all of its rows' ``[n, H, L, W]``.

        What else an attention layer hands over, by position or by name, differs between versions of
        transformers and is not needed.
        """
        if layer == len(self.keys):
            size = len(self.lengths), _rounded(self._seen)
            self.keys.append(_grown(keys[:0, :, :0], *size))
            self.values.append(_grown(values[:0, :, :0], *size))
        self.keys[layer][self.rows, :, self.columns] = keys.transpose(1, 2)
        self.values[layer][self.rows, :, self.columns] = values.transpose(1, 2)
        seen_keys, seen_values = self.keys[layer][:, :, : self._seen], self.values[layer][:, :, : self._seen]
        if self._everyone:
            return seen_keys, seen_values
        members = self.rows[:, 0]
        return seen_keys[members], seen_values[members]

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order, and free the others; a row may be kept more than once."""
        self.lengths = [self.lengths[row] for row in rows]
        index = torch.tensor(list(rows), dtype=torch.long, device=self._device)
        columns = _rounded(max(self.lengths, default=0) + 1)
        for storage in (self.keys, self.values):
            for layer, whole in enumerate(storage):
                storage[layer] = whole[index, :, :columns]


def additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to attention scores so that only what is seen counts: 0, else minus infinity."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))


def _grown(old: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return a larger copy; what is new is zero, since even a column that is not seen must be finite."""
    new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


def _rounded(columns: int) -> int:
    return -(-columns // COLUMNS) * COLUMNS
