"""Looks for settings under which a run fits into a memory, the ones that change least first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from medeyes_monai.errors import ConfigError
from medeyes_monai.planning.estimate import Estimate, Estimator
from medeyes_monai.planning.settings import RunSettings

__all__ = ["GIBIBYTE", "HEADROOM", "Fitted", "fit", "read_memory", "usable_of"]

GIBIBYTE = 2**30
HEADROOM = 0.1
"""Share of a memory that is left to CUDA itself and to fragmentation."""
LORA = {"r": 16, "lora_alpha": 32}
SETTING = {
    "lora": ("lora", "{r: 16, lora_alpha: 32}"),
    "dtype": ("dtype", None),
    "four_bit": (
        "policy::quantization_config",
        "{load_in_4bit: true, bnb_4bit_compute_dtype: bfloat16}",
    ),
    "draws": ("draws", None),
    "gradient_checkpointing": ("policy::gradient_checkpointing", None),
    "micro_tokens": ("train::trainer::micro_tokens", None),
    "batch": ("train::inferer::batch", None),
    "test_batch": ("test::inferer::batch", None),
}
"""Where a setting that is changed stands in a configuration, and how its value is written if not as it is."""
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
    """Change settings until the run fits: at first only what costs time, then what is trained or drawn.

    Args:
        estimator: Of the model.
        settings: The settings that are wanted.
        memory: What there is. Unit: bytes.

    Raises:
        ConfigError: If nothing that is known to help is enough.
    """
    usable = usable_of(memory)
    for form in _forms(settings):
        found = _reduced(estimator, form, usable)
        if found.peak <= usable:
            return Fitted(found, tuple(_changes(settings, found.settings)))
    raise ConfigError(
        f"{found.name}: {memory / GIBIBYTE:.1f} GiB are too little for any known setting; the least that was "
        f"found needs {found.peak / (1 - HEADROOM) / GIBIBYTE:.1f} GiB; take a smaller model, or fewer "
        "max_looks or max_turn_tokens"
    )


def usable_of(memory: int) -> int:
    """Return what of a memory a run may use. Unit: bytes.

    Example:
        >>> usable_of(1000)
        900
    """
    return int(memory * (1 - HEADROOM))


def _forms(settings: RunSettings) -> Iterator[RunSettings]:
    """Yield forms of a run that need less and less, those that change the result least first."""
    yield settings
    if settings.lora is None:
        settings = replace(settings, lora=LORA)
        yield settings
    if settings.dtype == "float32":
        settings = replace(settings, dtype="bfloat16")
        yield settings
    if not settings.four_bit:
        settings = replace(settings, four_bit=True)
        yield settings
    while settings.draws > FEWEST_DRAWS:
        settings = replace(settings, draws=max(FEWEST_DRAWS, settings.draws // 2))
        yield settings


def _reduced(estimator: Estimator, settings: RunSettings, usable: int) -> Estimate:
    """Return an estimate under settings that differ only in what costs time, as far as is needed."""
    found = estimator(settings)
    if found.peak > usable and (least := estimator(_least(settings))).peak > usable:
        return least
    while found.peak > usable:
        now, changed = found.settings, found.settings
        if found.update > usable and not now.gradient_checkpointing:
            changed = replace(changed, gradient_checkpointing=True)
        elif found.update > usable and now.micro_tokens > found.tokens.episode:
            changed = replace(changed, micro_tokens=max(found.tokens.episode, now.micro_tokens // 2))
        if found.drawing > usable and (most := max(now.rows, now.test_batch)) > now.draws:
            fewer = max(now.draws, most // 2)
            changed = replace(changed, batch=fewer, test_batch=min(now.test_batch, fewer))
        if changed == now:
            break
        found = estimator(changed)
    return found


def _least(settings: RunSettings) -> RunSettings:
    """Return the settings that need least of those that differ only in what costs time."""
    few = min(settings.test_batch, settings.draws)
    return replace(
        settings, gradient_checkpointing=True, micro_tokens=1, batch=settings.draws, test_batch=few
    )


def _changes(wanted: RunSettings, now: RunSettings) -> Iterator[str]:
    """Yield what differs, as ``--set`` takes it."""
    for name, (key, written) in SETTING.items():
        value = getattr(now, name)
        if value != getattr(wanted, name):
            yield f"{key}={written or str(value).lower()}"


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
