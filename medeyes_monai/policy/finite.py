"""Are all numbers of some tensors finite: asked before weights are stepped, kept or written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from medeyes_monai.errors import CheckpointError

__all__ = ["check_finite", "first_names", "non_finite"]

_NAMED = 3
"""How many tensors a message names."""


def non_finite(tensors: Mapping[str, torch.Tensor | None]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity, in their order.

    Args:
        tensors: Tensors by name; None holds nothing. Whole numbers and numbers of one byte are not looked at.

    Example:
        >>> non_finite({"a": torch.ones(2), "b": torch.tensor([0.0, float("nan")]), "c": None})
        ['b']
    """
    given = {
        name: tensor.detach()
        for name, tensor in tensors.items()
        if tensor is not None and tensor.is_floating_point() and tensor.element_size() > 1
    }
    # One copy from each device for all tensors.
    by_device: dict[torch.device, list[str]] = {}
    for name, tensor in given.items():
        by_device.setdefault(tensor.device, []).append(name)
    bad = {
        name
        for names in by_device.values()
        for name, fine in zip(
            names, torch.stack([given[name].isfinite().all() for name in names]).tolist(), strict=True
        )
        if not fine
    }
    return [name for name in given if name in bad]


def check_finite(tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Refuse to write tensors of which some hold NaN or infinity.

    Args:
        tensors: What is to be written, by name.
        what: What it is, for the message, e.g. ``"the policy"``.

    Raises:
        CheckpointError: If some are not finite; it names the first of them.

    Example:
        >>> check_finite({"head.weight": torch.tensor([float("inf")])}, "the policy")
        Traceback (most recent call last):
        medeyes_monai.errors.CheckpointError: the policy is not saved: 1 of 1 tensors hold NaN or infinity \
(head.weight); go back to an earlier checkpoint
    """
    if bad := non_finite(tensors):
        raise CheckpointError(
            f"{what} is not saved: {len(bad)} of {len(tensors)} tensors hold NaN or infinity "
            f"({first_names(bad)}); go back to an earlier checkpoint"
        )


def first_names(names: Sequence[str]) -> str:
    """Join the first names of a list, as a message shows them.

    Example:
        >>> first_names(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
