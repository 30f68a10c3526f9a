"""One more token for every row of a batch: the step in which a rollout spends its life."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.cache import RaggedCache

__all__ = ["TokenStep"]


class TokenStep:
    """Runs the layers of a Qwen decoder on single text tokens.

    A layer of transformers is made for any chunk; on one token, checks and conversions take most of its time.
    This goes through the same weights (linear layers are called, so adapters count) with fewer operations:
    the three parts of a text token's position are equal, so its rotation comes from a table, and the heads
    that share a key are queries of one attention.

    Args:
        language: The decoder of a Qwen-VL model.

    Raises:
        ConfigError: If its rotary frequencies depend on the length of the text.
    """

    def __init__(self, language: Any) -> None:
        """Begin with an empty table."""
        kind = getattr(language.rotary_emb, "rope_type", "default")
        if kind in ("dynamic", "longrope"):
            raise ConfigError(f"rotary embeddings of type {kind!r} are not supported; use a fixed type")
        self._language = language
        self._table: tuple[torch.Tensor, torch.Tensor] | None = None

    def __call__(
        self, ids: torch.Tensor, place: torch.Tensor, seen: torch.Tensor, cache: RaggedCache
    ) -> torch.Tensor:
        """Return the states ``[B, D]`` of one token for each row.

        Args:
            ids: Token ids ``[B]``.
            place: Positions ``[B]``, on the CPU.
            seen: Columns that each may see, bool ``[B, 1, 1, L]``.
            cache: Keys and values, made ready for this chunk.
        """
        states = self._language.embed_tokens(ids)
        cos, sin = self._rotation(place, states)
        bias = torch.zeros(seen.shape, dtype=states.dtype, device=states.device)
        bias.masked_fill_(~seen, float("-inf"))
        for layer in self._language.layers:
            attended = _attend(layer.self_attn, _norm(layer.input_layernorm, states), cos, sin, bias, cache)
            states = states + attended
            states = states + layer.mlp(_norm(layer.post_attention_layernorm, states))
        return _norm(self._language.norm, states)

    def _rotation(self, place: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine and signed sine ``[B, 1, W]`` for some positions, W the width of a head."""
        needed = int(place.max()) + 1
        table = self._table
        if (
            table is None
            or len(table[0]) < needed
            or (table[0].dtype, table[0].device)
            != (
                like.dtype,
                like.device,
            )
        ):
            positions = torch.arange(2 * needed, device=like.device).expand(3, 1, -1)
            cos, sin = self._language.rotary_emb(like, positions)
            width = cos.shape[-1]
            cos, sin = cos.reshape(-1, 2 * needed, width)[0], sin.reshape(-1, 2 * needed, width)[0]
            table = self._table = cos, torch.cat((-sin[:, : width // 2], sin[:, width // 2 :]), dim=-1)
        rows = place.to(like.device)
        return table[0][rows, None], table[1][rows, None]


def _attend(
    layer: Any,
    states: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    bias: torch.Tensor,
    cache: RaggedCache,
) -> torch.Tensor:
    """Return what a layer's attention adds to ``[B, D]``; keys and values go into the cache."""
    rows, width = len(states), layer.head_dim
    queries = layer.q_proj(states).view(rows, -1, width)
    keys = layer.k_proj(states).view(rows, -1, width)
    values = layer.v_proj(states).view(rows, -1, 1, width)
    if hasattr(layer, "q_norm"):
        queries, keys = _norm(layer.q_norm, queries), _norm(layer.k_norm, keys)
    heads = torch.cat((queries, keys), dim=1)
    heads = torch.addcmul(heads * cos, heads.roll(width // 2, -1), sin)
    shared = values.shape[1]
    every_key, every_value = cache.update(heads[:, -shared:, None], values, layer.layer_idx)
    grouped = heads[:, :-shared].view(rows, shared, -1, width)
    attended = _attention(grouped, every_key, every_value, bias, layer.scaling)
    projected: torch.Tensor = layer.o_proj(attended.reshape(rows, -1))
    return projected


def _attention(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attend from few queries ``[B, H, G, W]`` to many columns ``[B, H, L, W]``."""
    if queries.device.type != "cpu":
        return scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=scale)
    # On a CPU the fused kernel takes twice as long for so few queries (128 rows, 150 columns).
    weights = torch.matmul(queries * scale, keys.transpose(2, 3)) + bias
    return torch.matmul(weights.softmax(-1), values)


def _norm(layer: Any, states: torch.Tensor) -> torch.Tensor:
    return rms_norm(states, states.shape[-1:], layer.weight, layer.variance_epsilon)
