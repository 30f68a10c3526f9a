"""One more token for every row of a batch: the step in which a rollout spends its life."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.cache import RaggedCache, additive
from medeyes_monai.policy.joined import JoinedLayer, joined_layers

__all__ = ["TokenStep"]


class TokenStep:
    """Runs the layers of a Qwen decoder on one text token for each row.

    A layer of transformers is made for any chunk; on one token, checks and conversions take much of its time.
    This goes through the same weights with fewer operations: the three parts of a text token's position are
    equal, so its rotation comes from a table, heads that share a key are queries of one attention, and the
    linear maps that read the same states are joined: their adapters always, the maps in a small model.

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
        self._compiled = compiled
        self._table: tuple[torch.Tensor, torch.Tensor] | None = None
        self._joined: list[JoinedLayer] = []
        self._run: Callable[..., torch.Tensor] = torch.compile(_run, dynamic=True) if compiled else _run

    def begin(self) -> None:
        """Take the weights as they are now; call it before each rollout."""
        self._joined = joined_layers(self._language.layers, packed=not self._compiled)

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
        embedded = self._language.embed_tokens(ids)
        bias = additive(seen, embedded.dtype)
        cos, sin = self._rotation(place, embedded)
        columns = cache.rows[:, 0], cache.columns[:, 0]
        past = cache.keys, cache.values
        return self._run(self._language, self._joined, embedded.float(), cos, sin, bias, columns, *past)

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
    joined: list[JoinedLayer],
    states: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    bias: torch.Tensor,
    columns: tuple[torch.Tensor, torch.Tensor],
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
) -> torch.Tensor:
    """Take states ``[B, D]`` through all layers; ``columns`` are row and column of each token's place.

    Between layers states are in float32; a layer computes in the type of its weights (``round_at_norms``).
    """
    kind = cos.dtype
    rows, seen, shared = len(states), bias.shape[-1], keys[0].shape[1]
    flat_bias = bias.expand(-1, shared, -1, -1).reshape(rows * shared, 1, seen)
    for number, (layer, maps) in enumerate(zip(language.layers, joined, strict=True)):
        attention = layer.self_attn
        width = attention.head_dim
        turned, value = _heads(
            attention, maps.attention(_norm(layer.input_layernorm, states).to(kind)), shared
        )
        turned = torch.addcmul(turned * cos, turned.roll(width // 2, -1), sin)
        keys[number][columns[0], :, columns[1]] = turned[:, -shared:]
        values[number][columns[0], :, columns[1]] = value
        attended = _attend(
            turned[:, :-shared].view(rows, shared, -1, width),
            keys[number][:, :, :seen],
            values[number][:, :, :seen],
            flat_bias,
            attention.scaling,
        )
        states = states + maps.output(attended.reshape(rows, -1))
        gate, up = maps.mlp(_norm(layer.post_attention_layernorm, states).to(kind)).chunk(2, dim=-1)
        states = states + maps.down(layer.mlp.act_fn(gate) * up)
    return _norm(language.norm, states)


def _heads(attention: Any, whole: torch.Tensor, shared: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return heads ``[B, H, W]``: queries and then keys, normalised where the family does; and values."""
    heads = whole.view(len(whole), -1, attention.head_dim)
    turned, value = heads[:, :-shared], heads[:, -shared:]
    if hasattr(attention, "q_norm"):
        queries = _norm(attention.q_norm, turned[:, :-shared])
        turned = torch.cat((queries, _norm(attention.k_norm, turned[:, -shared:])), dim=1)
    return turned, value


def _attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, bias: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attend from few queries ``[B, H, G, W]`` to many columns ``[B, H, L, W]``; bias ``[B * H, 1, L]``."""
    rows, shared, group, width = queries.shape
    if queries.device.type != "cpu" or queries.dtype != torch.float32:
        bias = bias.view(rows, shared, 1, -1)
        return scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=scale)
    # In float32 on a CPU the fused kernel takes twice as long for so few queries (128 rows, 150 columns).
    keys, values = (part.view(rows * shared, -1, width) for part in (keys, values))
    scores = torch.baddbmm(bias, queries.reshape(-1, group, width), keys.transpose(1, 2), alpha=scale)
    return torch.bmm(scores.softmax(-1), values).view(queries.shape)


def _norm(layer: Any, states: torch.Tensor) -> torch.Tensor:
    """Normalise by the root mean square."""
    if states.device.type != "cpu" or states.dtype != torch.float32:
        return rms_norm(states, states.shape[-1:], layer.weight.to(states.dtype), layer.variance_epsilon)
    # On a CPU ``rms_norm`` is a chain of a dozen operations; this is a third of its time for small rows.
    size = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    scale = (size * size / states.shape[-1] + layer.variance_epsilon).rsqrt()
    normed: torch.Tensor = states * scale * layer.weight
    return normed
