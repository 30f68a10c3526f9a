"""One more token for every row of a batch: the step in which a rollout spends its life."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.cache import RaggedCache, additive

__all__ = ["TokenStep"]


class TokenStep:
    """Runs the layers of a Qwen decoder on one text token for each row.

    A layer of transformers is made for any chunk; on one token, checks and conversions take much of its time.
    This goes through the same weights (linear layers are called, so adapters count) with fewer operations:
    the three parts of a text token's position are equal, so its rotation comes from a table, and heads that
    share a key are queries of one attention.

    Args:
        language: The decoder of a Qwen-VL model.
        compiled: Compile the step when it is first taken (``torch.compile``). It takes about a minute, and
            again for a batch of one row.

    Raises:
        ConfigError: If its rotary frequencies depend on the length of the text.
    """

    def __init__(self, language: Any, *, compiled: bool) -> None:
        """Begin with an empty table."""
        kind = getattr(language.rotary_emb, "rope_type", "default")
        if kind in ("dynamic", "longrope"):
            raise ConfigError(f"rotary embeddings of type {kind!r} are not supported; use a fixed type")
        self._language = language
        self._table: tuple[torch.Tensor, torch.Tensor] | None = None
        self._run: Callable[..., torch.Tensor] = torch.compile(_run, dynamic=True) if compiled else _run

    def __call__(
        self, ids: torch.Tensor, place: torch.Tensor, seen: torch.Tensor, cache: RaggedCache
    ) -> torch.Tensor:
        """Return the states ``[B, D]`` of one token for each row; its keys and values go into the cache.

        Args:
            ids: Token ids ``[B]``.
            place: Positions ``[B]``, on the CPU.
            seen: Columns that each may see, bool ``[B, 1, 1, L]``.
            cache: What was read before, made ready for this chunk.
        """
        states = self._language.embed_tokens(ids)
        bias = additive(seen, states.dtype)
        cos, sin = self._rotation(place, states)
        columns = cache.rows[:, 0], cache.columns[:, 0]
        return self._run(self._language, states, cos, sin, bias, columns, cache.keys, cache.values)

    def _rotation(self, place: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine and signed sine ``[B, 1, W]`` for some positions, W the width of a head."""
        needed = int(place.max()) + 1
        table = self._table
        kind = like.dtype, like.device
        if table is None or len(table[0]) < needed or (table[0].dtype, table[0].device) != kind:
            positions = torch.arange(2 * needed, device=like.device).expand(3, 1, -1)
            cos, sin = self._language.rotary_emb(like, positions)
            width = cos.shape[-1]
            cos, sin = cos.reshape(-1, 2 * needed, width)[0], sin.reshape(-1, 2 * needed, width)[0]
            table = self._table = cos, torch.cat((-sin[:, : width // 2], sin[:, width // 2 :]), dim=-1)
        rows = place.to(like.device)
        return table[0][rows, None], table[1][rows, None]


def _run(
    language: Any,
    states: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    bias: torch.Tensor,
    columns: tuple[torch.Tensor, torch.Tensor],
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
) -> torch.Tensor:
    """Take states ``[B, D]`` through all layers; ``columns`` are row and column of each token's place."""
    for number, layer in enumerate(language.layers):
        attention, normed = layer.self_attn, _norm(layer.input_layernorm, states)
        shared, width = keys[number].shape[1], attention.head_dim
        heads = _heads(attention, normed, width)
        heads = torch.addcmul(heads * cos, heads.roll(width // 2, -1), sin)
        keys[number][columns[0], :, columns[1]] = heads[:, -shared:]
        values[number][columns[0], :, columns[1]] = attention.v_proj(normed).view(len(states), -1, width)
        attended = _attend(
            heads[:, :-shared].view(len(states), shared, -1, width),
            keys[number][:, :, : bias.shape[-1]],
            values[number][:, :, : bias.shape[-1]],
            bias,
            attention.scaling,
        )
        states = states + attention.o_proj(attended.reshape(len(states), -1))
        states = states + layer.mlp(_norm(layer.post_attention_layernorm, states))
    return _norm(language.norm, states)


def _heads(attention: Any, states: torch.Tensor, width: int) -> torch.Tensor:
    """Return the heads of queries and then those of keys, ``[B, H, W]``, normalised where the family does."""
    queries = attention.q_proj(states).view(len(states), -1, width)
    keys = attention.k_proj(states).view(len(states), -1, width)
    if hasattr(attention, "q_norm"):
        queries, keys = _norm(attention.q_norm, queries), _norm(attention.k_norm, keys)
    return torch.cat((queries, keys), dim=1)


def _attend(
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
