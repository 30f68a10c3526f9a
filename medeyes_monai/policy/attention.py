"""Where a policy attends while it writes each step of an episode: maps over the image tokens it was shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.base import Segment
from medeyes_monai.policy.huggingface import HuggingFacePolicy
from medeyes_monai.policy.qwen_vl import QwenVL
from medeyes_monai.trajectory import Episode

__all__ = ["Map", "StepAttention", "attention_maps", "can_show_attention", "recorded_attention"]

Map = npt.NDArray[np.float64]
"""Attention to each cell of a picture's grid of image tokens, ``[rows, columns]``."""


@dataclass(frozen=True, slots=True, eq=False)
class StepAttention:
    """Where the tokens of one turn attended among the image tokens before them.

    A token's attention is that of the position whose state predicted it, the one before it. Maps are means
    over the turn's tokens, over layers and over heads, so a cell holds the share of a token's attention that
    went to it; the rest of the 1 went to text.

    Args:
        maps: One for each picture that was shown before the turn: the overview, then the looks in order.
    """

    maps: tuple[Map, ...]

    @property
    def mass(self) -> tuple[float, ...]:
        """Share of all attention that went to each picture."""
        return tuple(float(one.sum()) for one in self.maps)


def attention_maps(
    policy: HuggingFacePolicy,
    episode: Episode,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> tuple[StepAttention, ...]:
    """Read an episode once and return, for each of its turns, the attention to the pictures before it.

    A picture after which nothing was written has no map. The pass is teacher-forced, without gradient and
    without dropout; it takes one layer's attention at a time, ``4 * heads * T * T`` bytes.

    Args:
        policy: The policy; a Qwen-VL family.
        episode: An episode that this policy's tokens were written for.
        layers: Numbers of the layers to average over, from 0; None for all.
        heads: Numbers of the heads; None for all.

    Raises:
        ConfigError: If the family is another one, there is no such layer or head, or the tokens of the
            episode do not belong to its pictures.
    """
    chosen = _checked("layer", layers, len(_layers(policy)))
    spoken = _checked("head", heads, int(policy.core.config.get_text_config().num_attention_heads))
    spans = _spans(policy, episode)
    turns = _turns(episode)
    if not turns:
        return ()
    parts: list[Map] = []

    def keep(layer: int, weights: torch.Tensor) -> None:
        if layer in chosen:
            rows = [weights[0, spoken][:, turn].float().mean((0, 1)) for turn in turns]
            parts.append(torch.stack(rows).double().cpu().numpy())

    with recorded_attention(policy, keep):
        policy.family.hidden([Segment(tuple(episode.token_ids.tolist()), episode.pictures)])
    rows = np.mean(parts, axis=0)
    return tuple(
        StepAttention(
            tuple(
                row[places].reshape(shape)
                for places, shape in spans
                if places[-1] <= int(turn[0])  # shown before the turn
            )
        )
        for row, turn in zip(rows, turns, strict=True)
    )


@contextmanager
def recorded_attention(
    policy: HuggingFacePolicy, keep: Callable[[int, torch.Tensor], None]
) -> Iterator[None]:
    """Hand over the attention of every layer for a while; afterwards the policy is as before.

    Meanwhile the language model computes its attention step by step ("eager"), with the same states up to
    rounding, without gradient and dropout.

    Args:
        policy: The policy; a Qwen-VL family.
        keep: Called in every pass with the number of each layer and its attention ``[B, heads, T, T]``, rows
            attending to columns.

    Raises:
        ConfigError: If the family is another one.
    """
    layers = _layers(policy)
    language = policy.core.model.language_model
    before, training = language.config._attn_implementation, policy.training

    def hook(number: int) -> Callable[..., None]:
        return lambda _module, _inputs, output: keep(number, output[1])

    hooks = [layer.self_attn.register_forward_hook(hook(n)) for n, layer in enumerate(layers)]
    try:
        language.set_attn_implementation("eager")
        policy.train(False)
        with torch.no_grad():
            yield
    finally:
        language.set_attn_implementation(before)
        policy.train(training)
        for handle in hooks:
            handle.remove()


def can_show_attention(policy: object) -> bool:
    """Tell whether :func:`attention_maps` can read with a policy: one whose image tokens form a grid."""
    return isinstance(policy, HuggingFacePolicy) and isinstance(policy.family, QwenVL)


def _layers(policy: HuggingFacePolicy) -> Sequence[Any]:
    if not can_show_attention(policy):
        raise ConfigError(
            f"policy {policy.path}: attention is shown for Qwen-VL families, whose image tokens form a grid"
        )
    layers: Sequence[Any] = policy.core.model.language_model.layers
    return layers


def _checked(what: str, asked: Sequence[int] | None, number: int) -> list[int]:
    chosen = list(range(number)) if asked is None else list(asked)
    if not chosen or not all(0 <= one < number for one in chosen):
        raise ConfigError(f"the policy has {what}s 0 to {number - 1}, asked for {chosen}")
    return chosen


def _spans(
    policy: HuggingFacePolicy, episode: Episode
) -> list[tuple[npt.NDArray[np.int64], tuple[int, int]]]:
    """Return, for each picture, the places of its tokens and the shape of its grid."""
    places = np.flatnonzero(episode.token_ids.numpy() == policy.image_token_id)
    shapes = [(p.shape[0] // policy.patch, p.shape[1] // policy.patch) for p in episode.pictures]
    sizes = [rows * columns for rows, columns in shapes]
    if sum(sizes) != len(places):
        raise ConfigError(
            f"the episode has {len(places)} image tokens and its pictures stand for {sum(sizes)}; was it "
            "written for this policy?"
        )
    return list(zip(np.split(places, np.cumsum(sizes)[:-1]), shapes, strict=True))


def _turns(episode: Episode) -> list[npt.NDArray[np.int64]]:
    """Return, for each turn, the places whose states predicted its tokens."""
    written = np.flatnonzero(episode.response_mask.numpy())
    return [turn - 1 for turn in np.split(written, np.flatnonzero(np.diff(written) > 1) + 1) if len(turn)]
