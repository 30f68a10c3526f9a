"""Says what a run needs: as lines for one configuration, and as a table over models and memories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medeyes_monai.errors import ConfigError
from medeyes_monai.planning.estimate import Estimate, Estimator
from medeyes_monai.planning.fitting import GIBIBYTE, HEADROOM, Fitted, fit, usable_of
from medeyes_monai.planning.settings import RunSettings

__all__ = ["described", "table"]

GPU_MEMORIES = tuple(size * GIBIBYTE for size in (12, 16, 24, 40, 48, 80))
"""Memories of common GPUs. Unit: bytes."""


def described(fitted: Fitted, found: Estimate, memory: int) -> str:
    """Return what a run needs, and what to change to fit into a memory, as lines of text.

    Args:
        fitted: Settings that fit.
        found: What the run needs as it is.
        memory: Unit: bytes.
    """
    tokens, settings = found.tokens, found.settings
    counted = "" if tokens.exact else " (texts estimated: no tokenizer at hand)"
    trained = f"{found.trained / 1e6:.1f} M trained" + ("" if settings.lora else " (no adapter)")
    lines = [
        f"model        {found.name}: {found.parameters / 1e9:.2f} B parameters, {trained}",
        f"tokens       overview {tokens.overview}, look {tokens.look}, longest episode {tokens.episode}"
        + counted,
        f"drawing      {found.rows} episodes side by side, {settings.test_batch} in evaluations",
        f"update       at most {found.passes} micro-batches of {settings.micro_tokens:,} tokens",
        "",
        "peak memory, computed from shapes:",
        f"  weights    {_size(found.weights)}",
        *(
            f"  {name:10} {_size(value)}{'  <- does not fit' if value > usable_of(memory) else ''}"
            for name, value in (
                ("drawing", found.drawing),
                ("update", found.update),
                ("saving", found.saving),
            )
        ),
        f"on disk      {'adapter' if settings.lora else 'policy'} {found.adapter / 2**20:.0f} MiB",
        "",
    ]
    if not fitted.changes:
        return "\n".join(
            [*lines, f"fits into {memory / GIBIBYTE:.4g} GiB as it is, with {HEADROOM:.0%} left over"]
        )
    peak = _size(fitted.estimate.peak).strip()
    return "\n".join(
        [
            *lines,
            f"to fit into {memory / GIBIBYTE:.4g} GiB with {HEADROOM:.0%} left over (peak {peak}), add:",
            *(f'  --set "{change}"' for change in fitted.changes),
        ]
    )


def table(models: Mapping[str, tuple[Estimator, RunSettings]], memories: Sequence[int] = GPU_MEMORIES) -> str:
    """Return a Markdown table of models over memories: with which changes each fits, and its peak.

    Args:
        models: Estimators and settings by the name that is shown.
        memories: Unit: bytes.
    """
    head = ["model", *(f"{memory / GIBIBYTE:.4g} GB" for memory in memories)]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, (estimator, settings) in models.items():
        lines.append(
            f"| {' | '.join([name, *(_cell(estimator, settings, memory) for memory in memories)])} |"
        )
    return "\n".join(lines)


def _cell(estimator: Estimator, settings: RunSettings, memory: int) -> str:
    try:
        fitted = fit(estimator, settings, memory)
    except ConfigError:
        return "-"
    now = fitted.estimate.settings
    words = [f"batch {now.batch}"] if now.batch != settings.batch else []
    if now.draws != settings.draws:
        words.append(f"draws {now.draws}")
    if now.micro_tokens != settings.micro_tokens:
        words.append(f"micro_tokens {now.micro_tokens}")
    if now.four_bit:
        words.append("4 bits")
    return f"{', '.join(words) or 'as it is'}: {fitted.estimate.peak / GIBIBYTE:.1f}"


def _size(number: int) -> str:
    return f"{number / GIBIBYTE:6.2f} GiB"
