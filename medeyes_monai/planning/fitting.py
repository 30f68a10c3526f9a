"""Looks for settings under which a run fits into a memory, the ones that change least first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from medeyes_monai.errors import ConfigError
from medeyes_monai.planning.estimate import Estimate, Estimator
from medeyes_monai.planning.settings import RunSettings

__all__ = ["GIBIBYTE", "Fitted", "fit", "read_memory"]

GIBIBYTE = 2**30
LORA = {"r": 16, "lora_alpha": 32}
FEWEST_DRAWS = 4
"""Draws of a question below which a group says little."""


@dataclass(frozen=True)
class Fitted:
    """Settings that fit.

    Args:
        estimate: What the run needs with them.
        changes: What was changed, as ``--set`` takes it, in the order in which it was tried.
    """

    estimate: Estimate
    changes: tuple[str, ...]


def fit(estimator: Estimator, settings: RunSettings, memory: int) -> Fitted:
    """Change settings until the run fits, those first that change only its time.

    Args:
        estimator: Of the model.
        settings: The settings that are wanted.
        memory: What there is. Unit: bytes.

    Raises:
        ConfigError: If nothing that is known to help is enough.
    """
    found = estimator(settings)
    changes: dict[str, str] = {}
    while found.peak > memory:
        for changed, said in _options(found, memory):
            better = estimator(changed)
            if better.peak < found.peak or max(better.drawing, better.update) < max(
                found.drawing, found.update
            ):
                found = better
                changes |= said
                break
        else:
            raise ConfigError(
                f"{found.name}: {memory / GIBIBYTE:.1f} GiB are too little for any known setting; the least "
                f"that was found needs {found.peak / GIBIBYTE:.1f} GiB; take a smaller model or fewer "
                "max_turn_tokens"
            )
    return Fitted(found, tuple(f"{name}={value}" for name, value in changes.items()))


def _options(found: Estimate, memory: int) -> Iterator[tuple[RunSettings, dict[str, str]]]:
    """Yield changes that help where it does not fit, the best first."""
    now, episode = found.settings, found.tokens.episode
    if found.update > memory and not now.gradient_checkpointing:
        yield (
            replace(now, gradient_checkpointing=True),
            {"policy::gradient_checkpointing": "true"},
        )
    if found.update > memory and now.micro_tokens > episode:
        fewer = max(episode, now.micro_tokens // 2)
        yield replace(now, micro_tokens=fewer), {"train::trainer::micro_tokens": str(fewer)}
    if found.drawing > memory:
        most = max(now.rows, now.test_batch)
        if most > now.draws:
            fewer = max(now.draws, most // 2)
            yield (
                replace(now, batch=fewer, test_batch=min(now.test_batch, fewer)),
                {
                    "train::inferer::batch": str(fewer),
                    "test::inferer::batch": str(min(now.test_batch, fewer)),
                },
            )
    if now.lora is None:
        yield replace(now, lora=LORA), {"lora": "{r: 16, lora_alpha: 32}"}
    if now.dtype == "float32" and now.lora is not None:
        yield replace(now, dtype="bfloat16"), {"dtype": "bfloat16"}
    if not now.four_bit and now.lora is not None:
        yield (
            replace(now, four_bit=True),
            {"policy::quantization_config": "{load_in_4bit: true, bnb_4bit_compute_dtype: bfloat16}"},
        )
    if found.drawing > memory and now.draws > FEWEST_DRAWS:
        fewer = max(FEWEST_DRAWS, now.draws // 2)
        yield (
            replace(now, draws=fewer, batch=fewer, test_batch=min(now.test_batch, fewer)),
            {
                "draws": str(fewer),
                "train::inferer::batch": str(fewer),
                "test::inferer::batch": str(min(now.test_batch, fewer)),
            },
        )


def read_memory(text: str) -> int:
    """Read a memory such as ``24GB``, ``24GiB`` or a number of bytes. A GPU's "24 GB" are 24 GiB.

    Raises:
        ConfigError: If it is none.

    Example:
        >>> read_memory("1.5 GiB"), read_memory("24GB") == 24 * 2**30
        (1610612736, True)
    """
    number = text.strip().upper().removesuffix("B")
    unit = number.lstrip("0123456789. ")
    factor = {"G": 2**30, "GI": 2**30, "M": 2**20, "MI": 2**20, "": 1}.get(unit)
    try:
        memory = int(float(number.removesuffix(unit)) * (factor or 0))
    except ValueError:
        memory = 0
    if memory < 1:
        raise ConfigError(f"memory must be a size such as 24GB, got {text!r}")
    return memory
