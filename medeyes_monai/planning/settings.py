"""What a run's memory depends on, read from its configuration; nothing is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.loading import find_sources
from medeyes_monai.policy.settings import PolicySettings

__all__ = ["RunSettings", "read_settings"]


@dataclass(frozen=True)
class RunSettings:
    """The settings of a training run that its memory depends on, named as in the configuration.

    Args:
        model: Checkpoint directory or hub name, the base's where the policy is an adapter.
        dtype: Type of the weights; None for the type in which they are stored.
        lora: Arguments of ``peft.LoraConfig``; None trains the model itself.
        four_bit: Whether the linear layers are loaded in 4 bits.
        freeze_vision: Whether the vision tower is left as it is.
        gradient_checkpointing: Whether each layer's states are computed again in backward.
        mixed_precision: ``"no"``, ``"bf16"`` or ``"fp16"``, as of accelerate.
        questions: Questions of an update.
        draws: Episodes of each question.
        n_paths: Expert paths of each question; 0 without an expert.
        batch: Episodes that are drawn side by side in training.
        test_batch: The same in an evaluation, where each is of another question.
        overview_pixels: Most pixels of the overview.
        look_pixels: Most pixels of a look.
        image_tokens: Most tokens of one picture where the family's processor decides their number.
        max_looks: Largest number of looks.
        max_turn_tokens: Largest number of tokens in a turn.
        micro_tokens: Largest number of tokens in one pass of an update.
        updates: Updates of the whole run.
    """

    model: str
    dtype: str | None
    lora: Mapping[str, Any] | None
    four_bit: bool
    freeze_vision: bool
    gradient_checkpointing: bool
    mixed_precision: str
    questions: int
    draws: int
    n_paths: int
    batch: int
    test_batch: int
    overview_pixels: int
    look_pixels: int
    image_tokens: int
    max_looks: int
    max_turn_tokens: int
    micro_tokens: int
    updates: int

    @property
    def rows(self) -> int:
        """Episodes that training draws side by side; the draws of a question are not parted."""
        return self.draws * self.questions_at_once

    @property
    def questions_at_once(self) -> int:
        """Questions that training asks side by side."""
        return min(self.questions, max(1, self.batch // self.draws))


def read_settings(parser: ConfigParser) -> RunSettings:
    """Read what matters from a training's configuration, as the run itself would.

    Args:
        parser: The configuration, of which nothing is built, before or here. Sizes and limits that are stored
            with the policy are read from its directory; a hub name has those of a general model.

    Raises:
        ConfigError: If a value that matters cannot be read, or is no number where one is wanted.
    """
    parser = ConfigParser(parser.get(), globals=parser.globals)  # the run's own stays unresolved
    try:
        model = str(parser.get_parsed_content("policy::path"))
        stored = PolicySettings()
        if Path(model).is_dir():
            sources = find_sources(model, None, None)
            model, stored = sources.base, sources.settings or stored
        parser["settings"] = stored

        def value(name: str) -> Any:
            return parser.get_parsed_content(name)

        accelerator = parser.get("train::trainer::accelerator") or {}
        quantization = value("policy::quantization_config") or {}
        dtype, image_tokens = value("policy::dtype"), value("policy::image_tokens")
        return RunSettings(
            model=model,
            dtype=dtype or stored.dtype,
            lora=value("policy::lora"),
            four_bit=bool(quantization.get("load_in_4bit")),
            freeze_vision=bool(value("policy::freeze_vision")),
            gradient_checkpointing=bool(value("policy::gradient_checkpointing")),
            mixed_precision=str(accelerator.get("mixed_precision") or "no"),
            questions=int(value("questions")),
            draws=int(value("train::inferer::draws")),
            n_paths=0 if parser.get("train::trainer::sampler") is None else int(value("n_paths")),
            batch=int(value("train::inferer::batch")),
            test_batch=int(value("test::inferer::batch")),
            overview_pixels=int(value("scene::overview_pixels")),
            look_pixels=int(value("scene::look_pixels")),
            image_tokens=int(image_tokens or stored.image_tokens),
            max_looks=int(value("train::inferer::max_looks")),
            max_turn_tokens=int(value("train::inferer::max_turn_tokens")),
            micro_tokens=int(value("train::trainer::micro_tokens")),
            updates=int(value("max_epochs")) * int(value("epoch_length")),
        )
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"the settings of the run cannot be read without building it ({error})") from error
