"""Low-rank adapters: where they go, how peft saves and loads them, and how they are merged without loss."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from medeyes_monai.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "Survival",
    "add_adapter",
    "base_digest",
    "check_quantization",
    "linear_targets",
    "load_adapter",
    "merge_layers",
    "reload_adapter",
    "save_adapter",
]

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAME = "default"
"""peft's name of the one adapter that a policy has."""
_SAMPLE = 1024
"""Values of each parameter that count towards the digest of a base."""


def linear_targets(core: Any, tower: Any) -> str:
    """Return a pattern that names every linear layer of the language model and none of the vision tower.

    Args:
        core: The model.
        tower: Its vision tower.

    Raises:
        ConfigError: If the language model has no linear layers of its own.
    """
    decoder, seen = core.get_decoder(), {id(module) for module in tower.modules()}
    prefix = next((name for name, module in core.named_modules() if module is decoder), None)
    names = sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in decoder.named_modules()
            if isinstance(module, torch.nn.Linear) and id(module) not in seen
        }
    )
    if not names or not prefix:
        raise ConfigError(
            f"family {core.config.model_type!r}: no linear layers of a language model were found; name the "
            "layers in lora's target_modules"
        )
    return rf"{re.escape(prefix)}\.(?:.*\.)?(?:{'|'.join(map(re.escape, names))})"


def add_adapter(core: Any, lora: Mapping[str, Any], tower: Any) -> Any:
    """Put trainable low-rank layers into a model, in place, and freeze everything else.

    Args:
        core: The model.
        lora: Arguments of ``peft.LoraConfig``. Without ``target_modules``, all linear layers of the language
            model are adapted.
        tower: The model's vision tower.

    Raises:
        ConfigError: If an argument does not fit, the targets match nothing, or the initialisation changes the
            base, to which a saved adapter would then no longer belong.
    """
    from peft import LoraConfig, get_peft_model

    if lora.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise ConfigError(
            f"lora: init_lora_weights {lora['init_lora_weights']!r} changes the weights of the base, so the "
            "adapter would not fit the base that it names; use true, false or gaussian"
        )
    try:
        config = LoraConfig(**{"target_modules": linear_targets(core, tower), **lora})
        return get_peft_model(core, config)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"lora: {_first_line(error)}; see peft.LoraConfig") from error


def save_adapter(adapted: Any, directory: Path, base: str, revision: str | None) -> None:
    """Write an adapter as peft does, with the name and revision of its base.

    Args:
        adapted: The model with its adapter.
        directory: Where ``adapter_config.json`` and ``adapter_model.safetensors`` go.
        base: Name or directory of the base.
        revision: Revision of the base on its hub.
    """
    config = adapted.peft_config[NAME]
    config.base_model_name_or_path, config.revision = base, revision
    adapted.save_pretrained(directory, save_embedding_layers=False)


def load_adapter(core: Any, directory: str | Path, *, trainable: bool, named: str | None = None) -> Any:
    """Lay a saved adapter over its base, unmerged.

    Args:
        core: The base.
        directory: Directory with ``adapter_config.json`` and ``adapter_model.safetensors``.
        trainable: Whether the adapter is trained on.
        named: Name or directory of the base where its weights could not be compared; another name in the
            adapter is logged.

    Raises:
        ConfigError: If a file is missing, the adapter is of another kind than LoRA, or does not fit the base.
    """
    from peft import PeftConfig, PeftModel

    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (Path(directory) / name).is_file():
            raise ConfigError(f"adapter {directory}: lacks {name}; give the directory that peft has saved")
    _refuse_imports(Path(directory))
    try:
        config = PeftConfig.from_pretrained(str(directory))
        if config.peft_type != "LORA":
            raise ConfigError(f"adapter {directory}: is of type {config.peft_type}, wanted LORA")
        if named is not None and config.base_model_name_or_path not in (named, str(Path(named).resolve())):
            logger.warning(
                f"adapter {directory} names {config.base_model_name_or_path} as its base, not {named}"
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(core, str(directory), is_trainable=trainable)
    except ConfigError:
        raise
    except (
        OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, UserWarning, SafetensorError
    ) as error:  # fmt: skip
        raise ConfigError(
            f"adapter {directory}: does not fit the model ({_first_line(error)[:300]}); give the base "
            "that it was trained on"
        ) from error


def _refuse_imports(directory: Path) -> None:
    """Refuse an adapter that names a module of Python, which peft would import."""
    try:
        said = dict(json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"adapter {directory}: {ADAPTER_CONFIG} is not a JSON object") from error
    if said.get("megatron_config") is not None:
        raise ConfigError(
            f"adapter {directory}: is for Megatron, whose module peft would import by the name in "
            f"{ADAPTER_CONFIG}; remove megatron_config from it"
        )


@torch.no_grad()
def reload_adapter(adapted: Any, directory: str | Path) -> None:
    """Replace a live adapter's weights by those in a directory; none of the live ones can remain.

    Raises:
        CheckpointError: If the directory does not hold exactly the weights of this adapter.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    try:
        stored = load_file(Path(directory) / ADAPTER_WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{directory}: the adapter cannot be read back ({error})") from error
    live = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if {name: weight.shape for name, weight in live.items()} != {
        name: weight.shape for name, weight in stored.items()
    }:
        raise CheckpointError(f"{directory}: holds the weights of another adapter than the live one")
    for weight in live.values():
        weight.fill_(math.nan)
    set_peft_model_state_dict(adapted, stored)


def base_digest(core: Any) -> str | None:
    """Return a digest of a base's parameters: names, shapes and the first 1,024 values of each.

    Values count as rounded to bfloat16, so that a base has one digest in float32 and in bfloat16.

    Returns:
        None for float16 and for quantised weights, whose values are not those of the base.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, weight in sorted(core.named_parameters()):
        if weight.dtype not in (torch.float32, torch.bfloat16):
            return None
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        sample = weight.detach().flatten()[:_SAMPLE].to(torch.bfloat16).float().cpu()
        digest.update(torch.nan_to_num(sample).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Survival:
    """How much of an update is left after it was merged and cast.

    Args:
        error: Norm of what the cast changed over the norm of the update; 0 is lossless, 1 as if not trained.
        changed: Share of the adapted weights whose stored value changed at all.
        layers: Number of adapted layers.
    """

    error: float
    changed: float
    layers: int

    def __str__(self) -> str:
        """Say it in words."""
        return (
            f"{self.layers} layers merged; relative error of the update after the cast {self.error:.3f} "
            f"(0 is lossless, 1 is as if not trained); {100 * self.changed:.1f} % of their weights changed"
        )


@torch.no_grad()
def merge_layers(adapted: Any, dtype: torch.dtype) -> tuple[Any, Survival]:
    """Merge an adapter into its base in float32, one layer at a time, and cast each to its stored type.

    Args:
        adapted: The model with its adapter; it is consumed.
        dtype: Type of the merged model.

    Returns:
        The plain model and what is left of the update.

    Raises:
        ConfigError: If the adapter is not plain low-rank (DoRA), or the base is quantised.
    """
    from peft.tuners.lora import LoraLayer

    lost = whole = 0.0
    changed = total = layers = 0
    for name, layer in adapted.named_modules():
        if not isinstance(layer, LoraLayer) or NAME not in layer.scaling:
            continue
        base = layer.get_base_layer()
        if layer.use_dora.get(NAME) or not base.weight.is_floating_point():
            raise ConfigError(f"{name}: only plain LoRA over weights that are not quantised can be merged")
        before = base.weight.detach().float()
        update = layer.get_delta_weight(NAME).float()
        after = (before + update).to(dtype)
        moved = after.float() - before
        lost += float((moved - update).double().square().sum())
        whole += float(update.double().square().sum())
        changed += int(moved.count_nonzero())
        total += moved.numel()
        layers += 1
        base.weight.data = after
    plain = adapted.unload().to(dtype)
    return plain, Survival((lost / whole) ** 0.5 if whole else 0.0, changed / max(1, total), layers)


def check_quantization(config: Mapping[str, Any] | None, device: torch.device) -> Any:
    """Return what transformers takes to load a 4-bit base; None where none is asked for.

    Args:
        config: Arguments of ``transformers.BitsAndBytesConfig``.
        device: Where the base will be.

    Raises:
        ConfigError: If bitsandbytes is missing, the device cannot run it, or an argument does not fit.
    """
    if config is None:
        return None
    from transformers import BitsAndBytesConfig

    if device.type != "cuda":
        raise ConfigError(
            f"a quantised base needs a CUDA device, got {device.type}; leave out quantization_config there"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "a quantised base needs the package bitsandbytes; install it with "
            "pip install 'medeyes-monai[quantized]', or leave out quantization_config"
        )
    try:
        return BitsAndBytesConfig(**config)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"quantization_config: {_first_line(error)}; see transformers.BitsAndBytesConfig"
        ) from error


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())
