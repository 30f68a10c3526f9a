"""Half-precision weights: logits in float32 all the same, and checks of what they are fit for."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.base import Policy

__all__ = ["check_trained_types", "float_logits", "round_at_norms", "warn_if_slow"]

HALF = (torch.bfloat16, torch.float16)
BLOCK_BYTES = 2 * 2**20
"""Size of the float32 copy of a part of the head. It fits into a core's cache, where it is read at once: for
few rows that takes half the time of a head that is stored in float32."""
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def float_logits(head: torch.nn.Module, hidden: torch.Tensor, block_bytes: int = BLOCK_BYTES) -> torch.Tensor:
    """Return the logits of an output layer in float32, whatever the type of its weights.

    A half-precision layer rounds its logits to 8 bits (bfloat16), which moves a log-probability by several
    per cent. Here half-precision states and weights are multiplied and added in float32, under autocast too.
    CUDA does this in one product. Elsewhere blocks of the vocabulary are converted one after another, so the
    head never exists in float32 as a whole.

    In backward, the gradient of the logits is rounded to the type of the weights, as in any layer of it.

    Args:
        head: The output layer. Anything but a plain ``torch.nn.Linear`` (an adapter is on it, or it is
            quantised) is called as it is and its logits are converted.
        hidden: States ``[..., D]``.
        block_bytes: Size of the float32 copy of a part of the head. Unit: bytes.

    Returns:
        Logits ``[..., V]``, float32 (float64 if the head is).

    Example:
        >>> head = torch.nn.Linear(2, 3, bias=False, dtype=torch.bfloat16)
        >>> float_logits(head, torch.ones(1, 2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    if type(head) is not torch.nn.Linear:
        kind = getattr(head, "weight", hidden).dtype
        logits: torch.Tensor = head(hidden.to(kind) if kind.is_floating_point else hidden)
        return logits if logits.dtype == torch.float64 else logits.float()
    weight, bias = head.weight, head.bias
    with torch.autocast(hidden.device.type, enabled=False):
        if weight.dtype not in HALF:
            return linear(hidden.to(weight.dtype), weight, bias)
        rows = hidden.reshape(-1, hidden.shape[-1])
        block = max(1, block_bytes // (4 * weight.shape[1]))
        logits = _FloatProduct.apply(rows, weight, block)  # type: ignore[no-untyped-call]
        logits = logits.view(*hidden.shape[:-1], -1)
        return logits if bias is None else logits + bias.float()


class _FloatProduct(torch.autograd.Function):
    """``rows @ weight.T`` of a half-precision weight, multiplied, summed and returned in float32."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, block: int) -> torch.Tensor:
        """Keep the two factors."""
        ctx.save_for_backward(rows, weight)
        if rows.is_cuda:
            high = rows.to(weight.dtype)
            logits = torch.mm(high, weight.t(), out_dtype=torch.float32)
            if rows.dtype != weight.dtype:  # what the type of the weights cannot hold of float32 states
                low = (rows - high).to(weight.dtype)
                logits += torch.mm(low, weight.t(), out_dtype=torch.float32)
            return logits
        exact, logits = rows.float(), rows.new_empty(len(rows), len(weight), dtype=torch.float32)
        copy = weight.new_empty(min(block, len(weight)), weight.shape[1], dtype=torch.float32)
        for part, place in zip(torch.split(weight, block), torch.split(logits, block, dim=1), strict=True):
            torch.mm(exact, copy[: len(part)].copy_(part).t(), out=place)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        """Return the gradients of the factors that have one."""
        rows, weight = ctx.saved_tensors
        gradient = gradient.to(weight.dtype)
        to_rows = (gradient @ weight).to(rows.dtype) if ctx.needs_input_grad[0] else None
        to_weight = gradient.t() @ rows.to(weight.dtype) if ctx.needs_input_grad[1] else None
        return to_rows, to_weight, None


def round_at_norms(language: Any) -> None:
    """Let a half-precision decoder of a Qwen-VL family keep the states between its layers in float32.

    A layer adds little to its states, and in bfloat16 each sum is rounded to 8 bits. With this, states that
    enter in float32 stay so, and are rounded where a layer reads them, behind its norms; the products are
    those of half precision as before. States that enter in half precision are not changed by it.

    Args:
        language: The decoder; its weights may have any type.
    """
    kind = language.embed_tokens.weight.dtype

    def rounded(_module: Any, _inputs: Any, output: Any) -> Any:
        return output.to(kind) if isinstance(output, torch.Tensor) else tuple(one.to(kind) for one in output)

    if kind in HALF:
        for layer in language.layers:
            layer.input_layernorm.register_forward_hook(rounded)
            layer.post_attention_layernorm.register_forward_hook(rounded)
        language.rotary_emb.register_forward_hook(rounded)


def check_trained_types(policy: Policy) -> None:
    """Refuse to train half-precision parameters: most updates of an optimiser would be rounded away.

    The spacing of bfloat16 numbers near a weight of 0.02 is 1e-4; AdamW moves it by about the learning rate.

    Args:
        policy: The policy; parameters without ``requires_grad`` may have any type.

    Raises:
        ConfigError: If a parameter with ``requires_grad`` is in bfloat16 or float16.
    """
    half = [p for p in policy.parameters() if p.requires_grad and p.dtype in HALF]
    if half:
        kind = str(half[0].dtype).removeprefix("torch.")
        raise ConfigError(
            f"{len(half)} trained tensors are {kind}, which rounds most updates away; train an "
            "adapter (lora), whose weights are float32, or set dtype: float32"
        )


def warn_if_slow(dtype: torch.dtype, device: torch.device) -> None:
    """Warn where bfloat16 weights are put on a CPU that has no instructions for them.

    Torch lists the instructions in its newer versions; under an older one there is no warning.
    """
    listed = getattr(torch.cpu, "get_capabilities", None)
    if dtype != torch.bfloat16 or device.type != "cpu" or listed is None:
        return
    if not any(listed().get(name) for name in BF16_INSTRUCTIONS):
        warnings.warn(
            "this CPU has no bfloat16 instructions, so the policy will be slow; set dtype: float32",
            stacklevel=2,
        )
