"""The linear maps of a decoder layer that read the same states, joined into one product each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

__all__ = ["Joined", "joined_layers"]

MOST_BYTES = 2**26
"""Weights are copied to join them up to this size; above it, arithmetic outweighs the calls saved."""


class Joined(NamedTuple):
    """Copies of a layer's weights, one below the other.

    Args:
        attention: Weight ``[Q + K + V, D]`` of queries, keys and values.
        attention_bias: Their bias ``[Q + K + V]``, or None.
        mlp: Weight ``[2 F, D]`` of gate and up projection.
        mlp_bias: Their bias ``[2 F]``, or None.
    """

    attention: torch.Tensor
    attention_bias: torch.Tensor | None
    mlp: torch.Tensor
    mlp_bias: torch.Tensor | None


def joined_layers(layers: Sequence[Any]) -> list[Joined | None]:
    """Join the maps of each layer of a Qwen decoder, as its weights are now.

    Returns:
        One for each layer; None for each where a map is more than a linear one (an adapter is on it), or the
        copies would be larger than :data:`MOST_BYTES`.
    """
    groups = [
        ((a.q_proj, a.k_proj, a.v_proj), (m.gate_proj, m.up_proj))
        for a, m in ((layer.self_attn, layer.mlp) for layer in layers)
    ]
    maps = [part for pair in groups for group in pair for part in group]
    plain = all(type(part) is torch.nn.Linear for part in maps)
    if not plain or sum(part.weight.nbytes for part in maps) > MOST_BYTES:
        return [None] * len(groups)
    with torch.no_grad():
        return [Joined(*_join(attention), *_join(mlp)) for attention, mlp in groups]


def _join(maps: Sequence[torch.nn.Linear]) -> tuple[torch.Tensor, torch.Tensor | None]:
    weights: list[torch.Tensor] = [part.weight for part in maps]
    biases: list[torch.Tensor] = [part.bias for part in maps if part.bias is not None]
    return torch.cat(weights), torch.cat(biases) if len(biases) == len(maps) else None
