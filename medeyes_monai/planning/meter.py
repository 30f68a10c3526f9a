"""Counts the bytes that a piece of the engine would hold, by running it on tensors without data."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["LiveBytes", "peaks_by_stage"]


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own, untyped
    """Counts the storages that operations make and that are still referred to, stage by stage.

    Args:
        known: Tensors that exist already; they are not counted.

    Example:
        >>> with LiveBytes([]) as meter, meter.stage("sum"):
        ...     total = (torch.empty(1024) + 1).sum()
        >>> meter.peaks
        {'sum': 8192}
    """

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        """Begin with nothing but what is known."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = [tensor.untyped_storage() for tensor in known]  # kept, so that no address is reused
        self._seen = {storage._cdata for storage in self._known}
        self._now = 0
        self._stage = ""
        self.peaks: dict[str, int] = {}
        """Largest number of bytes at once in each stage."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what follows under a name."""
        self._stage = name
        self.peaks[name] = max(self.peaks.get(name, 0), self._now)
        yield

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf)
        return made

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        if address in self._seen:
            return
        self._seen.add(address)
        self._now += size
        self.peaks[self._stage] = max(self.peaks.get(self._stage, 0), self._now)
        weakref.finalize(storage, self._free, address, size)

    def _free(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self._now -= size


def peaks_by_stage(few: dict[str, int], more: dict[str, int], step: int, further: int) -> dict[str, int]:
    """Return the peaks of a deep model from those of two shallow ones; its layers are alike.

    Args:
        few: Peaks with some layers.
        more: Peaks with ``step`` layers more.
        step: The difference.
        further: How many layers more than ``few`` the model has.

    Example:
        >>> peaks_by_stage({"read": 10}, {"read": 16}, step=2, further=5)
        {'read': 25}
    """
    return {name: few[name] + (more[name] - few[name]) * further // step for name in few}
