"""Log-probabilities of tokens without the logits wall: a large vocabulary is met in chunks of rows.

All logits of a batch at once are its largest tensor by far: 152,000 scores for each token. Here the logits
of a chunk live until its numbers are known and are made anew in backward, so memory does not grow with the
number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from medeyes_monai.errors import ConfigError

__all__ = ["CHUNK_BYTES", "rows_for", "score_tokens"]

Head = Callable[[torch.Tensor], torch.Tensor]
"""Hidden states ``[n, D]`` to tempered logits ``[n, V]``, tokens that may not be drawn at minus infinity."""
CHUNK_BYTES = 64 * 2**20
"""Bytes of a chunk's float32 logits; two to four such blocks exist at once, with those that the head makes.

Blocks above 32 MiB go back to the system when they are freed; smaller ones can fragment the heap of glibc
until it is larger than all logits together.
"""


def rows_for(vocabulary: int, budget: int = CHUNK_BYTES) -> int:
    """Return how many rows of float32 logits fit into a budget, at least 1.

    Args:
        vocabulary: Number of scores in a row, ``V``.
        budget: Size of one chunk of logits. Unit: bytes.

    Example:
        >>> rows_for(152_000)
        110
    """
    return max(1, budget // (4 * vocabulary))


def score_tokens(
    hidden: torch.Tensor,
    targets: torch.Tensor,
    head: Head,
    *,
    chunk: int,
    entropy_gradient: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each target and the entropy of the distribution it is drawn from.

    No more than ``chunk`` rows of logits exist at a time, forward or backward. One chunk keeps its logits for
    backward; of several, each is computed again there. Gradients reach ``hidden`` and whatever ``head`` is
    made of.

    Args:
        hidden: State that predicts each target. Shape ``[N, D]``; N may be 0.
        targets: Token ids. Shape ``[N]``, int64.
        head: Gives the logits of some rows; called once or twice for each.
        chunk: Largest number of rows whose logits exist at once; see :func:`rows_for`.
        entropy_gradient: Whether the entropy has a gradient. It takes one more block of the size of a chunk.

    Returns:
        Log-probabilities and entropies, both ``[N]``, in the type of the logits. A forbidden target has the
        log-probability minus infinity. Unit: nats.

    Raises:
        ConfigError: If ``chunk`` is below 1.

    Example:
        >>> hidden = torch.tensor([[0.0, 0.0], [0.0, 1.0986123]])  # log 1, log 3
        >>> logprobs, entropy = score_tokens(hidden, torch.tensor([0, 1]), lambda rows: rows, chunk=1)
        >>> logprobs.exp().round(decimals=2).tolist()
        [0.5, 0.75]
    """
    if chunk < 1:
        raise ConfigError(f"chunk must be at least 1 row of logits, got {chunk}")
    score = partial(_score_rows, head=head, entropy_gradient=entropy_gradient)
    chunks = max(1, math.ceil(len(hidden) / chunk))  # of one size: a small rest would fragment the heap
    if chunks > 1 and torch.is_grad_enabled():
        score = partial(checkpoint, score, use_reentrant=False)
    pairs = zip(hidden.tensor_split(chunks), targets.tensor_split(chunks), strict=True)
    logprobs, entropies = zip(*(score(rows, wanted) for rows, wanted in pairs), strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _score_rows(
    hidden: torch.Tensor, targets: torch.Tensor, *, head: Head, entropy_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs, entropy = _LogprobAndEntropy.apply(head(hidden), targets)  # type: ignore[no-untyped-call]
    return logprobs, entropy if entropy_gradient else entropy.detach()


class _LogprobAndEntropy(torch.autograd.Function):
    """``log p`` of a target and ``H = -sum p log p`` of logits, in as few blocks of their size as will do."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep one block, the logarithm of the distribution."""
        ctx.set_materialize_grads(False)
        logs = torch.log_softmax(logits, dim=-1)
        chosen = logs.gather(-1, targets[:, None])[:, 0]
        logs.clamp_(min=torch.finfo(logs.dtype).min)  # so that 0 log 0 is 0
        entropy = -logs.exp().mul_(logs).sum(-1)
        ctx.save_for_backward(logs, targets, entropy)
        return chosen, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, chosen: torch.Tensor | None, entropy: torch.Tensor | None
    ) -> tuple[torch.Tensor, None]:
        """Return ``(onehot - p) g`` for a log-probability and ``-p (log p + H) g`` for an entropy."""
        logs, targets, value = ctx.saved_tensors
        chosen = torch.zeros_like(value) if chosen is None else chosen
        gradient = logs.exp()
        if entropy is None:
            gradient.mul_(-chosen[:, None])
        else:
            spread = (gradient * logs).mul_(entropy[:, None])
            gradient.mul_(-(chosen + entropy * value)[:, None]).sub_(spread)
        return gradient.scatter_add_(-1, targets[:, None], chosen[:, None]), None
