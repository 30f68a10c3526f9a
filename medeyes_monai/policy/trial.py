"""Tries a model on loading: what a family does in a way that is not foreseen must not pass silently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.base import Segment
from medeyes_monai.policy.generic import GenericFamily

__all__ = ["check_reading", "logit_cap"]

CALL_ERRORS = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What a part of a model raises that is called in a way that it does not know."""


@torch.no_grad()
def logit_cap(core: Any, token_ids: Sequence[int]) -> float | None:
    """Return the soft cap that a model puts on the scores of its output layer, or None if it puts none.

    Found by trying: a configuration may name a cap that the model does not apply.

    Args:
        core: The model.
        token_ids: Some text.

    Raises:
        ConfigError: If the logits are made in another way.
    """
    ids = torch.tensor([list(token_ids)], device=core.device)
    wanted = core(input_ids=ids).logits
    plain = core.get_output_embeddings()(core.base_model(input_ids=ids).last_hidden_state)
    cap = getattr(core.config.get_text_config(), "final_logit_softcapping", None)
    found = {None: plain} if cap is None else {None: plain, float(cap): cap * torch.tanh(plain / cap)}
    errors = {key: _distance(logits, wanted) for key, logits in found.items()}
    best = min(errors, key=lambda key: errors[key])
    if not errors[best] <= _tolerance(core.dtype):
        raise ConfigError(
            f"family {core.config.model_type!r} is not supported: its logits are neither the scores of its "
            "output layer nor those under a soft cap"
        )
    return best


@torch.no_grad()
def check_reading(
    family: GenericFamily,
    scores: Callable[[torch.Tensor], torch.Tensor],
    rows: Sequence[tuple[Segment, Segment]],
    token_ids: Sequence[int],
) -> None:
    """Read two rows in one pass and piece by piece, and compare with the model's own forward pass of each.

    Each row is a prompt, some tokens, a look and the tokens again. The pieces are appended to a cache in
    which a row is dropped, one is duplicated, and one waits while others continue. Whether the tokens of a
    picture attend to each other in both directions is found by trying, and set.

    Args:
        family: The family.
        scores: Turns states ``[..., D]`` into the model's logits.
        rows: Prompt and look of each of two rows, of different length.
        token_ids: What is written between them; at least two tokens.

    Raises:
        ConfigError: If they differ by more than rounding, or the model's parts cannot be called in this way.
    """
    try:
        error, step = _compared(family, scores, rows, token_ids)
    except ConfigError:
        raise
    except CALL_ERRORS as fault:
        told = " ".join(str(fault).split())[:200]
        raise ConfigError(
            f"family {family.name!r} is not supported: its parts cannot be called on embeddings with "
            f"explicit positions, masks and a cache ({type(fault).__name__}: {told})"
        ) from fault
    if error is not None:
        raise ConfigError(
            f"family {family.name!r} is not supported: {step} differs from the model's own forward pass "
            f"(relative difference {error:.1e})"
        )


def _compared(
    family: GenericFamily,
    scores: Callable[[torch.Tensor], torch.Tensor],
    rows: Sequence[tuple[Segment, Segment]],
    token_ids: Sequence[int],
) -> tuple[float | None, str]:
    """Return the first difference that is more than rounding and what differs, or None."""
    said = Segment(tuple(token_ids))
    wholes = [_joined(prompt, said, look, said) for prompt, look in rows]
    own = [family.own_logits(whole) for whole in wholes]
    errors = {}
    for both_ways in (False, True):
        family.both_ways = both_ways
        states = family.hidden(wholes)
        errors[both_ways] = max(
            _distance(scores(states[row, : len(logits)]), logits) for row, logits in enumerate(own)
        )
    family.both_ways = errors[True] < errors[False]
    tolerance = _tolerance(own[0].dtype)
    if not min(errors.values()) <= tolerance:
        return min(errors.values()), "a pass over embedded tokens and pictures"
    reader = family.start()
    reader.append({0: rows[0][0], 1: rows[1][0], 2: rows[0][0]})
    reader.keep([1, 0, 1])
    order = (1, 0, 1)
    place = [len(rows[row][0].token_ids) for row in order]
    pieces = [[*(Segment((token,)) for token in token_ids), rows[row][1], said] for row in order]
    schedule = [(0, 1, 2)] * (len(token_ids) - 1) + [(0, 2), (2,), (0, 1), (1,), (0, 2), (1,)]
    for members in schedule:
        parts = {n: pieces[n].pop(0) for n in members}
        logits = scores(reader.append(parts))
        for n, part in parts.items():
            place[n] += len(part.token_ids)
        wanted = torch.stack([own[order[n]][place[n] - 1] for n in members])
        if not _distance(logits, wanted) <= tolerance:
            return _distance(logits, wanted), "what is appended to a cache"
    return None, ""


def _joined(*segments: Segment) -> Segment:
    """Return segments as one."""
    return Segment(
        tuple(token for segment in segments for token in segment.token_ids),
        tuple(picture for segment in segments for picture in segment.pictures),
    )


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-4 if dtype == torch.float32 else 0.1
