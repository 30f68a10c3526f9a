"""Loads a checkpoint of transformers: checks first, safetensors only, no code that comes with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from medeyes_monai.errors import ConfigError
from medeyes_monai.io.hub import check_hub_name, is_hub_name

__all__ = [
    "POLICY_FILE",
    "add_adapter",
    "check_adapter",
    "check_checkpoint",
    "load_core",
    "merge_adapter",
    "stored_settings",
    "vision_tower",
]

POLICY_FILE = "policy_config.json"
"""Optional file in a checkpoint directory with the defaults of ``coordinates`` and ``instruction``."""

QUANTISED = ("F8", "F6", "F4", "I8", "U8", "I4", "U4")
"""How safetensors names types that no weights have but quantised ones begins so."""

DType = Literal["float32", "bfloat16", "float16"]


def check_checkpoint(path: str) -> None:
    """Say what a local directory lacks before transformers guesses.

    Raises:
        ConfigError: If it is no directory, or has no weights, configuration, tokenizer or image processor.
    """
    directory = Path(path)
    if is_hub_name(path):
        check_hub_name(path)
        return
    if not directory.is_dir():
        raise ConfigError(
            f"policy {path}: no such directory; give a checkpoint directory or a hub name 'owner/name'"
        )
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (directory / name).is_file()]
    if not any((directory / f"{name}_config.json").is_file() for name in ("preprocessor", "processor")):
        missing.append("preprocessor_config.json")
    if not list(directory.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise ConfigError(
            f"policy {path}: the directory lacks {', '.join(missing)}; copy the whole checkpoint"
        )
    if (directory / "adapter_config.json").is_file():
        check_adapter(directory)  # transformers lays it over the model by itself


def load_core(path: str, dtype: DType, attention: str) -> tuple[Any, Any]:
    """Return a checkpoint's tokenizer and model.

    Args:
        path: Checkpoint directory or hub name.
        dtype: Type of the weights.
        attention: Attention implementation of transformers.

    Raises:
        ConfigError: If they cannot be loaded, or the model does not make text of images and text.
    """
    from transformers import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoConfig,
        AutoModelForImageTextToText,
        AutoTokenizer,
    )

    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"dtype must be float32, bfloat16 or float16, got {dtype!r}")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        _check_attention(path, config)
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise ConfigError(
                f"policy {path}: family {config.model_type!r} makes no text of images and text; give a "
                "checkpoint of an image-text-to-text model, such as qwen3_vl, gemma3 or idefics3"
            )
        _check_types(path, config)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        core, loaded = AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except ConfigError:
        raise
    except Exception as error:  # a checkpoint comes from anywhere, and may be wrong in any way
        raise ConfigError(f"policy {path}: cannot be loaded ({type(error).__name__}: {error})") from error
    if lacking := sorted(loaded["missing_keys"]):
        raise ConfigError(
            f"policy {path}: its weights lack {lacking[0]} ({len(lacking)} tensors in all); copy the whole "
            "checkpoint"
        )
    return tokenizer, core


def _check_attention(path: str, config: Any) -> None:
    """Refuse a checkpoint that names a kernel of the hub as its attention, which transformers would run."""
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]
    named = [str(getattr(part, "_attn_implementation_internal", None)) for part in parts]
    if foreign := [name for name in named if "/" in name]:
        raise ConfigError(
            f"policy {path}: its config.json asks for the kernel {foreign[0]}, code that is never run; "
            "remove attn_implementation from it"
        )


def _check_types(path: str, config: Any) -> None:
    """Refuse weights that transformers would take for ordinary numbers, though they are quantised."""
    said = getattr(config, "quantization_config", None)
    if said is not None and dict(said).get("quant_method") == "gguf":
        raise ConfigError(
            f"policy {path}: its config.json says that the weights are GGUF, which is not read; where they "
            "are plain safetensors, remove quantization_config"
        )
    for file in sorted(Path(path).glob("*.safetensors")) if said is None else ():
        with safe_open(file, "pt") as weights:
            kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        if strange := sorted(kind for kind in kinds if kind.startswith(QUANTISED)):
            raise ConfigError(
                f"policy {path}: {file.name} holds weights of type {strange[0]}, and config.json does not "
                "say how they were quantised; give the original weights"
            )


def vision_tower(core: Any) -> Any:
    """Return the part of a model that encodes pictures.

    Raises:
        ConfigError: If it is not found.
    """
    tower = core.get_encoder(modality="image")
    if tower is core or tower is core.base_model:
        raise ConfigError(
            f"family {core.config.model_type!r} has no vision tower that can be told apart; use "
            "freeze_vision: false"
        )
    return tower


def add_adapter(core: Any, lora: Mapping[str, Any]) -> Any:
    """Put trainable low-rank layers into a model, in place, and freeze everything else."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(core, LoraConfig(**lora))


def check_adapter(directory: str | Path) -> None:
    """Refuse an adapter that names a module of Python, which peft would import.

    Raises:
        ConfigError: If it names one, or its configuration is not a JSON object.
    """
    try:
        said = dict(json.loads((Path(directory) / "adapter_config.json").read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"adapter {directory}: adapter_config.json is not a JSON object") from error
    if said.get("megatron_config") is not None:
        raise ConfigError(
            f"adapter {directory}: is for Megatron, whose module peft would import by the name that the file "
            "gives; remove megatron_config from adapter_config.json"
        )


def merge_adapter(core: Any, directory: str | Path) -> Any:
    """Return a model into whose weights a finished adapter of peft is merged.

    Args:
        core: The model.
        directory: Local directory with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        ConfigError: If one of them is missing, or the adapter does not fit the model.
    """
    from peft import PeftModel

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(directory) / name).is_file():
            raise ConfigError(f"adapter {directory}: lacks {name}; give the directory that peft has saved")
    check_adapter(directory)
    try:
        return PeftModel.from_pretrained(core, str(directory)).merge_and_unload()
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"adapter {directory}: does not fit the model ({error})") from error


def stored_settings(path: str) -> dict[str, Any]:
    """Return what a checkpoint directory says in its policy file; nothing where it has none.

    Raises:
        ConfigError: If the file is not a JSON object.
    """
    file = Path(path) / POLICY_FILE
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ConfigError(
            f"{file}: is not a JSON object; write one with coordinates and instruction"
        ) from error
