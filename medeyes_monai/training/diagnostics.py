"""Numbers to log about a step: reduced over the tokens of each stream, and joined over parts of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

__all__ = ["describe_tokens", "merge_diagnostics"]


def describe_tokens(
    values: Mapping[str, torch.Tensor], streams: Mapping[str, torch.Tensor]
) -> dict[str, float]:
    """Reduce what is known of each token to one number for each stream that has tokens.

    Args:
        values: Tensors ``[N, T]`` by name. The largest is taken where a name ends in ``_max``, the sum where
            it ends in ``_sum``, else the mean over tokens.
        streams: The tokens of each stream, bool ``[N, T]``.

    Returns:
        Numbers by names like ``policy/ratio_max``, and the number of ``tokens``.

    Example:
        >>> mask = torch.tensor([[True, True, False]])
        >>> describe_tokens({"ratio_max": torch.tensor([[1.0, 2.0, 9.0]])}, {"policy": mask})
        {'policy/tokens': 2.0, 'policy/ratio_max': 2.0}
    """
    numbers: dict[str, torch.Tensor] = {}
    for stream, mask in streams.items():
        if mask.any():
            numbers[f"{stream}/tokens"] = mask.sum().float()
            for name, value in values.items():
                numbers[f"{stream}/{name}"] = _reduce(name, value.detach()[mask].float())
    # One copy from the device for all numbers.
    return dict(zip(numbers, torch.stack(list(numbers.values())).tolist(), strict=True)) if numbers else {}


def merge_diagnostics(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Join the diagnostics of parts of a step into those of the step.

    Names that end in ``_mean`` or ``_share`` are averaged over their stream's tokens, ``_max`` is the
    largest, the others are added.

    Example:
        >>> one = {"policy/tokens": 1.0, "policy/ratio_mean": 2.0}
        >>> other = {"policy/tokens": 3.0, "policy/ratio_mean": 1.0}
        >>> merge_diagnostics([one, other])  # (1 * 2 + 3 * 1) / 4
        {'policy/tokens': 4.0, 'policy/ratio_mean': 1.25}
    """
    merged: dict[str, float] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        having = [part for part in parts if name in part]
        values = [part[name] for part in having]
        if name.endswith("_max"):
            merged[name] = max(values)
        elif name.endswith(("_mean", "_share")):
            counts = [part[name.split("/")[0] + "/tokens"] for part in having]
            merged[name] = sum(c * v for c, v in zip(counts, values, strict=True)) / sum(counts)
        else:
            merged[name] = sum(values)
    return merged


def _reduce(name: str, values: torch.Tensor) -> torch.Tensor:
    if name.endswith("_max"):
        return values.max()
    return values.sum() if name.endswith("_sum") else values.mean()
