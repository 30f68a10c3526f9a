"""Loads a checkpoint of transformers: checks first, safetensors only, no code that comes with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from medeyes_monai.errors import ConfigError
from medeyes_monai.io.hub import check_hub_name, is_hub_name
from medeyes_monai.policy.adapters import ADAPTER_CONFIG
from medeyes_monai.policy.settings import POLICY_FILE, DType, PolicySettings, read_settings

__all__ = ["Sources", "check_checkpoint", "find_sources", "load_core", "stored_settings", "vision_tower"]

FLASH = "flash_attention_2"

QUANTISED = ("F8", "F6", "F4", "I8", "U8", "I4", "U4")
"""How safetensors names types that no weights have but quantised ones begins so."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the parts of a policy come from.

    Args:
        base: Directory or hub name of the whole checkpoint.
        revision: Its revision on the hub; None for the newest.
        adapter: Directory of an adapter that is laid over it; None for none.
        settings: The settings that are stored beside the adapter or, without one, beside the checkpoint;
            None where there are none.
        digest: Digest of the base that the adapter was trained on; None where it is not known.
    """

    base: str
    revision: str | None
    adapter: Path | None
    settings: PolicySettings | None
    digest: str | None = None


def find_sources(path: str, revision: str | None, adapter: str | Path | None) -> Sources:
    """Tell a checkpoint from an adapter, which names its base, and read the settings that it brings.

    Args:
        path: Directory or hub name of a checkpoint, or the directory of an adapter.
        revision: Revision of a hub name.
        adapter: Directory of an adapter to lay over a checkpoint.

    Raises:
        ConfigError: If an adapter names no base or is laid over another adapter, or a file cannot be read.
    """
    folder = _hub_files(path, revision) if is_hub_name(path) else Path(path)
    if not (folder / ADAPTER_CONFIG).is_file():
        over = None if adapter is None else Path(adapter)
        settings, base = (None, {}) if over is None else read_settings(over)
        return Sources(path, revision, over, settings or read_settings(folder)[0], base.get("digest"))
    if adapter is not None:
        raise ConfigError(f"policy {path}: is an adapter itself; give its base as path, or no adapter")
    try:
        described = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        name, of_base = described.get("base_model_name_or_path"), described.get("revision")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"policy {path}: {ADAPTER_CONFIG} cannot be read ({error})") from error
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"policy {path}: {ADAPTER_CONFIG} names no base; give the base as path and this as adapter"
        )
    settings, base = read_settings(folder)
    return Sources(name, of_base, folder, settings, base.get("digest"))


def stored_settings(
    path: str, adapter: str | Path | None = None, revision: str | None = None
) -> PolicySettings:
    """Return the settings that are stored with a policy, without loading it.

    Args:
        path: Directory or hub name of a checkpoint, or the directory of an adapter.
        adapter: Directory of an adapter to lay over a checkpoint.
        revision: Revision of a hub name.

    Returns:
        The defaults where nothing is stored, and where there is no such policy, which loading it says.

    Raises:
        ConfigError: If a file cannot be read, or the hub does not answer for a name.
    """
    if not Path(path).is_dir() and not is_hub_name(path):
        return PolicySettings()
    return find_sources(path, revision, adapter).settings or PolicySettings()


def _hub_files(name: str, revision: str | None) -> Path:
    """Return a local copy of what transformers does not load by itself: an adapter and the settings."""
    from huggingface_hub import snapshot_download

    check_hub_name(name, revision)
    return Path(snapshot_download(name, revision=revision, allow_patterns=["adapter_*", POLICY_FILE]))


def check_checkpoint(path: str, revision: str | None = None) -> None:
    """Say what a directory lacks, or what the hub says of a name, before transformers guesses.

    Raises:
        ConfigError: If it is no directory, or has no weights, configuration, tokenizer or image processor.
    """
    directory = Path(path)
    if is_hub_name(path):
        check_hub_name(path, revision)
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
    if (directory / ADAPTER_CONFIG).is_file():  # transformers would lay it over the model by itself
        raise ConfigError(
            f"policy {path}: is the base of an adapter and holds {ADAPTER_CONFIG}; remove that file"
        )


def load_core(
    path: str,
    dtype: DType | None,
    attention: str,
    *,
    revision: str | None = None,
    quantization: Any = None,
    device: torch.device | None = None,
) -> tuple[Any, Any]:
    """Return a checkpoint's tokenizer and model.

    Args:
        path: Checkpoint directory or hub name.
        dtype: Type of the weights; None for the type in which they are stored.
        attention: Attention implementation of transformers.
        revision: Revision of a hub name.
        quantization: Quantisation of the weights while they are loaded.
        device: Where quantised weights are put.

    Raises:
        ConfigError: If they cannot be loaded, or the model does not make text of images and text.
    """
    from transformers import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoConfig,
        AutoModelForImageTextToText,
        AutoTokenizer,
    )

    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        _check_attention(path, config)
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise ConfigError(
                f"policy {path}: family {config.model_type!r} makes no text of images and text; give a "
                "checkpoint of an image-text-to-text model, such as qwen3_vl, gemma3 or idefics3"
            )
        _check_types(path, config)
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
        more: dict[str, Any] = {}
        if quantization is not None:
            more = {"quantization_config": quantization, "device_map": {"": device}}
        core, loaded = AutoModelForImageTextToText.from_pretrained(
            path,
            revision=revision,
            dtype="auto" if dtype is None else getattr(torch, dtype),
            attn_implementation=_implementations(attention),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **more,
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


def _implementations(attention: str) -> str | dict[str, str]:
    """Return the attention of each part: FlashAttention serves the tower, which reads without a mask.

    The language model reads with masks of its own shape, which FlashAttention does not take; where it reads
    without one, scaled dot-product attention runs the flash kernel of torch.

    Raises:
        ConfigError: If FlashAttention is asked for and not installed.
    """
    if attention != FLASH:
        return attention
    from transformers.utils import is_flash_attn_2_available

    if not is_flash_attn_2_available():
        raise ConfigError(
            f"attention {FLASH!r} needs the package flash-attn and a CUDA device; install it, or take 'sdpa'"
        )
    return {"": "sdpa", "text_config": "sdpa", "vision_config": FLASH}


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
