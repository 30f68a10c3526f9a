"""A model's shapes: its configuration, read or shipped beside a recipe, and the model built without data."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.planning.settings import RunSettings
from medeyes_monai.policy.adapters import add_adapter
from medeyes_monai.policy.huggingface import FAMILIES
from medeyes_monai.policy.loading import vision_tower

__all__ = ["Model", "Shapes", "find_shapes"]


@dataclass(frozen=True)
class Shapes:
    """What is known of a model without its weights.

    Args:
        name: Hub name or directory.
        config: Its configuration, as in ``config.json``.
        directory: The checkpoint, where it is on this machine; its tokenizer and processor are used, too.
        parameters: Published number of parameters; None where nothing was shipped.
    """

    name: str
    config: dict[str, Any]
    directory: Path | None = None
    parameters: int | None = None


def find_shapes(name: str, folder: str | Path) -> Shapes:
    """Return the shapes of a checkpoint directory or of a hub name that is shipped. Nothing is downloaded.

    Args:
        name: Checkpoint directory or hub name.
        folder: Where shipped shapes lie, one ``.json`` file for each model.

    Raises:
        ConfigError: If the directory has no configuration, or nothing is shipped for the name.
    """
    directory = Path(name)
    if directory.is_dir():
        return Shapes(name, _read(directory / "config.json"), directory)
    shipped = {}
    for file in sorted(Path(folder).glob("*.json")):
        content = _read(file)
        shipped[content["policy_path"]] = Shapes(
            content["policy_path"], content["config"], parameters=content["parameters"]
        )
    if name not in shipped:
        raise ConfigError(
            f"no shapes are known of {name!r}; give a downloaded checkpoint directory as policy_path, or one "
            f"of {', '.join(shipped) or f'the models in {folder} (there are none)'}"
        )
    return shipped[name]


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read as a model's configuration ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: must be a JSON object, got {type(content).__name__}")
    return content


class Model:
    """A model as transformers and peft build it, on the meta device: every shape, no data.

    Args:
        shapes: Its configuration.
        settings: Type of the weights, adapter, what is trained.

    Raises:
        ConfigError: If transformers does not know the family, or the adapter does not fit.
    """

    def __init__(self, shapes: Shapes, settings: RunSettings) -> None:
        """Build it."""
        from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig, AutoModelForImageTextToText

        self.settings = settings
        try:
            self.config = AutoConfig.for_model(**shapes.config)
            if type(self.config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
                raise ConfigError(f"{shapes.name}: family {self.config.model_type!r} reads no images")
            with torch.device("meta"):
                stored = self.config.dtype or torch.float32
                dtype = stored if settings.dtype is None else getattr(torch, settings.dtype)
                self.core = AutoModelForImageTextToText.from_config(
                    self.config, dtype=dtype, attn_implementation="sdpa"
                )
                self.tower = vision_tower(self.core)
                self.parameters = sum(weight.numel() for weight in self.core.parameters())
                if settings.freeze_vision:
                    self.tower.requires_grad_(False)
                if settings.lora is not None:
                    add_adapter(self.core, settings.lora, self.tower)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{shapes.name}: no model can be built of its shapes ({error})") from error
        self.decoder = self.core.get_decoder()
        self.head = self.core.get_output_embeddings()
        if settings.gradient_checkpointing:
            self.core.gradient_checkpointing_enable({"use_reentrant": False})

    def beside(self) -> Iterator[torch.nn.Parameter]:
        """Iterate over the parameters through which a gradient would reach what stands for a picture."""
        inside: torch.nn.Module = self.core.base_model
        if self.config.model_type in FAMILIES:
            inside = self.tower
        return inside.parameters()

    @property
    def text(self) -> Any:
        """The language model's configuration."""
        return self.config.get_text_config()

    @property
    def vision(self) -> Any:
        """The vision tower's configuration."""
        return self.config.vision_config

    @cached_property
    def trained(self) -> list[torch.nn.Parameter]:
        """Parameters that are trained."""
        return [weight for weight in self.core.parameters() if weight.requires_grad]

    def at(self, settings: RunSettings) -> Model:
        """Return the same model under other settings of the run, which do not change how it is built."""
        other = copy.copy(self)
        other.settings = settings
        return other

    @contextmanager
    def shallow(self, number: int) -> Iterator[list[torch.Tensor]]:
        """Leave the language model some layers for a while, on a device that computes, without data.

        On the meta device an operation takes the path of that device; here it takes the path of the CPU, with
        its attention kernels and mixed precision. Enter it in a fake tensor mode.

        Args:
            number: How many layers stay.

        Yields:
            The tensors of the language model and its output layer.
        """
        whole = self.decoder.layers
        self.decoder.layers = whole[:number]
        replaced = []
        made: dict[int, torch.Tensor] = {}
        for module in (*self.decoder.modules(), *self.head.modules()):
            for store in (module._parameters, module._buffers):
                for name, old in store.items():
                    if old is not None and id(old) not in map(id, made.values()):
                        replaced.append((store, name, old))
                        store[name] = made.setdefault(id(old), _without_data(old))
        try:
            yield list(made.values())
        finally:
            for store, name, old in replaced:
                store[name] = old
            self.decoder.layers = whole


def _without_data(old: torch.Tensor) -> torch.Tensor:
    new = torch.empty(old.shape, dtype=old.dtype)
    if not isinstance(old, torch.nn.Parameter):
        return new
    return torch.nn.Parameter(new, requires_grad=old.requires_grad)
