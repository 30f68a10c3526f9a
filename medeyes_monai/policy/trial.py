"""Tries a model on loading: what a family does in a way that is not foreseen must not pass silently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.base import Segment
from medeyes_monai.policy.family import Family

__all__ = ["check_cache", "logit_cap"]


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
def check_cache(family: Family, prompts: Sequence[Segment], token_ids: Sequence[int], name: str) -> None:
    """Write some tokens after prompts of different length, and compare with a pass over the whole.

    Args:
        family: The family.
        prompts: The beginnings, one for each row.
        token_ids: What is written after each.
        name: The family's name, for the message.

    Raises:
        ConfigError: If the two differ by more than rounding.
    """
    reader = family.start()
    states = reader.append(dict(enumerate(prompts)))
    for token in token_ids:
        states = reader.append(dict.fromkeys(range(len(prompts)), Segment((token,))))
    whole = [Segment((*prompt.token_ids, *token_ids), prompt.pictures) for prompt in prompts]
    full = family.hidden(whole)
    last = torch.stack([full[row, len(segment.token_ids) - 1] for row, segment in enumerate(whole)])
    if not _distance(states, last) <= _tolerance(states.dtype):
        raise ConfigError(
            f"family {name!r} is not supported: tokens appended to its cache are not what they are in a pass "
            f"over the whole (relative difference {_distance(states, last):.1e})"
        )


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-4 if dtype == torch.float32 else 0.1
