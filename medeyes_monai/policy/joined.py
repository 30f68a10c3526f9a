"""The linear maps of a decoder layer that read the same states, with their adapters, in few products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear

__all__ = ["JoinedLayer", "JoinedMaps", "joined_layers"]

MOST_BYTES = 2**26
"""Weights are copied to join them up to this size; above it, arithmetic outweighs the calls saved."""
PACKED_BYTES = 2**30
"""On a CPU bfloat16 weights are copied up to this size into the layout that oneDNN computes in. A product of
few rows otherwise spends half its time on bringing them into it."""
PACKING = ("_reorder_linear_weight", "_linear_pointwise")
"""Operations of torch that are not public; without them nothing is packed."""


@dataclass(frozen=True, slots=True, eq=False)
class JoinedMaps:
    """Linear maps of the same states, whose outputs stand side by side.

    Args:
        parts: The maps, called one after another where they are not joined.
        weight: Copy of their weights, one below the other, ``[O, D]``; None where they are not joined.
        bias: Copy of their biases ``[O]``, or None.
        down: First factors of their adapters, one below the other, ``[R, D]``; None without an adapter.
        up: Second factors, scaled and block-diagonal, ``[R, O]``; None without an adapter.
    """

    parts: Sequence[Any]
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    down: torch.Tensor | None = None
    up: torch.Tensor | None = None

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Return the outputs ``[B, O]`` for states ``[B, D]``."""
        if self.weight is not None:
            whole = linear(states, self.weight, self.bias)
        else:
            outputs = [part(states) for part in self.parts]
            whole = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
        if self.down is None or self.up is None:
            return whole
        # An adapter's factors are in float32 beside half-precision weights, and its products are too.
        low = linear(states.to(self.down.dtype), self.down)
        return torch.addmm(whole.to(low.dtype), low, self.up).to(whole.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class JoinedLayer:
    """The linear maps of a decoder layer.

    Args:
        attention: Queries, keys and values.
        output: What follows attention.
        mlp: Gate and up projection.
        down: Down projection.
    """

    attention: JoinedMaps
    output: JoinedMaps
    mlp: JoinedMaps
    down: JoinedMaps


class PackedMap:
    """A linear map with a copy of its bfloat16 weights in oneDNN's layout, as ``torch.compile`` makes them.

    Args:
        part: The map.
        rows: Number of rows that the layout is best for.
    """

    def __init__(self, part: torch.nn.Linear, rows: int = 8) -> None:
        """Copy the weights."""
        self._weight = torch.ops.mkldnn._reorder_linear_weight(part.weight.detach(), rows)
        self._bias = None if part.bias is None else part.bias.detach()

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Return the outputs ``[B, O]`` for states ``[B, D]``."""
        outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            states, self._weight, self._bias, "none", [], ""
        )
        return outputs


def joined_layers(layers: Sequence[Any], *, packed: bool = True) -> list[JoinedLayer]:
    """Join the maps of each layer of a Qwen decoder, as its weights and adapters are now.

    The factors of low-rank adapters are copied whatever their size: an optimiser holds more of them. A map
    that is neither a linear one nor such an adapter on one stays as it is.

    Args:
        layers: The layers.
        packed: Pack what is not joined, where that helps (:data:`PACKED_BYTES`).
    """
    groups = [
        (
            (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
            (layer.self_attn.o_proj,),
            (layer.mlp.gate_proj, layer.mlp.up_proj),
            (layer.mlp.down_proj,),
        )
        for layer in layers
    ]
    several = [_bare(part) for layer in groups for group in layer if len(group) > 1 for part in group]
    plain = all(type(part) is torch.nn.Linear for part in several)
    copied = plain and sum(part.weight.nbytes for part in several) <= MOST_BYTES
    fits = packed and _can_pack([_bare(part) for layer in groups for group in layer for part in group])
    with torch.no_grad():
        return [
            JoinedLayer(*(_join(group, copied and len(group) > 1, fits) for group in layer))
            for layer in groups
        ]


def _join(group: Sequence[Any], copied: bool, packed: bool) -> JoinedMaps:
    parts = [_bare(part) for part in group]
    weight = bias = None
    if copied:
        weight = torch.cat([part.weight for part in parts])
        biases = [part.bias for part in parts if part.bias is not None]
        bias = torch.cat(biases) if len(biases) == len(parts) else None
    factors = [_factors(part) if bare is not part else [] for part, bare in zip(group, parts, strict=True)]
    called = [PackedMap(part) for part in parts] if packed and not copied else parts
    if not any(factors):
        return JoinedMaps(called, weight, bias)
    widths = [part.out_features for part in parts]
    down = torch.cat([first for some in factors for first, _ in some])
    up = down.new_zeros(len(down), sum(widths))
    row = column = 0
    for some, width in zip(factors, widths, strict=True):
        for first, second in some:
            up[row : row + len(first), column : column + width] = second.t()
            row += len(first)
        column += width
    return JoinedMaps(called, weight, bias, down, up)


def _can_pack(parts: Sequence[Any]) -> bool:
    if not all(type(part) is torch.nn.Linear for part in parts):
        return False
    weights = [part.weight for part in parts]
    return (
        all(weight.dtype == torch.bfloat16 and weight.device.type == "cpu" for weight in weights)
        and sum(weight.nbytes for weight in weights) <= PACKED_BYTES
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and all(hasattr(torch.ops.mkldnn, name) for name in PACKING)
    )


def _bare(part: Any) -> Any:
    """Return the linear map under a low-rank adapter that is a mere product, else the part itself."""
    if type(part) is torch.nn.Linear:
        return part
    from peft.tuners.lora import Linear

    if type(part) is not Linear or type(part.base_layer) is not torch.nn.Linear or part.merged:
        return part
    names = _active(part)
    dropped = any(part.lora_dropout[name].training and _rate(part.lora_dropout[name]) for name in names)
    biased = any(part.lora_B[name].bias is not None for name in names)
    changed = any(name in part.lora_variant for name in names)
    return part if dropped or biased or changed else part.base_layer


def _factors(part: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the factors ``[r, D]`` and ``[O, r]`` of the active adapters on a map, the second one scaled."""
    return [
        (part.lora_A[name].weight, part.lora_B[name].weight * part.scaling[name]) for name in _active(part)
    ]


def _active(part: Any) -> list[str]:
    return [] if part.disable_adapters else [name for name in part.active_adapters if name in part.lora_A]


def _rate(dropout: Any) -> float:
    return float(getattr(dropout, "p", 0.0))
