"""A family's own processor as transformers has it, for pictures only and without torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from medeyes_monai.errors import ConfigError
from medeyes_monai.trajectory import Picture

__all__ = ["PictureProcessor", "special_ids"]

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What a processor makes of text. The last two say which tokens are a picture's."""
PROBES = ((336, 336), (336, 1344), (1344, 336), (1344, 1344))
"""Rows and columns of pictures that are tried on loading; a family may cut the large and long ones up."""


class PictureProcessor:
    """Tells which tokens stand for a picture, and makes of pictures what the model takes.

    Args:
        path: Checkpoint directory or hub name.
        config: The model's configuration.

    Raises:
        ConfigError: If the processor cannot be loaded, or does not work with tokens that are given.
    """

    def __init__(self, path: str, config: Any) -> None:
        """Load the processor and try it."""
        try:
            kind = _image_only(_processor_class(path, config))
            self.processor = kind.from_pretrained(path, trust_remote_code=False)
            self._text = str(self.processor.image_token)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
            raise ConfigError(
                f"policy {path}: its processor cannot be used for pictures and text ({error})"
            ) from error
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.chat_template = self.processor.chat_template or self.tokenizer.chat_template
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.placeholder = int(self.tokenizer.convert_tokens_to_ids(self._text))
        self.image_tokens = frozenset(int(i) for i in self.processor.image_token_ids if i is not None)
        self._known: dict[tuple[int, int], tuple[int, ...]] = {}
        self._try(path)

    def picture_ids(self, picture: Picture) -> tuple[int, ...]:
        """Return the tokens into which the processor expands a placeholder; the size alone decides them."""
        size = (int(picture.shape[0]), int(picture.shape[1]))
        if size not in self._known:
            self._known[size] = tuple(self._run([[picture]])["input_ids"][0].tolist())
        return self._known[size]

    def pixels(self, rows: Sequence[Sequence[Picture]]) -> dict[str, torch.Tensor]:
        """Return what the model takes for the pictures of some rows; nothing where there are none."""
        shown = [row for row in rows if row]
        if not shown:
            return {}
        return {name: value for name, value in self._run(shown).items() if name not in TEXT_INPUTS}

    def _run(self, rows: Sequence[Sequence[Picture]], more: str = "") -> dict[str, torch.Tensor]:
        """Process rows of pictures with nothing but their placeholders as text."""
        images = [[Image.fromarray(np.ascontiguousarray(picture)) for picture in row] for row in rows]
        text = [self._text * len(row) + more for row in rows]
        made = self.processor(
            images=images, text=text, padding=True, add_special_tokens=False, return_tensors="pt"
        )
        return dict(made)

    def _try(self, path: str) -> None:
        """Learn the tokens of pictures of several shapes; refuse inputs that are a function of the text."""
        pictures = [np.zeros((*size, 3), np.uint8) for size in PROBES]
        small = self._run([pictures[:1]])
        longer = self._run([pictures[:1]], more=" a b c d e f g")
        bound = [
            name
            for name, value in small.items()
            if name not in TEXT_INPUTS and value.shape != longer[name].shape
        ]
        shown = torch.isin(small["input_ids"], torch.tensor(sorted(self.image_tokens)))
        self.types = tuple(name for name in TEXT_INPUTS[2:] if name in small and small[name].any())
        wrong = [name for name in self.types if not torch.equal(small[name].bool(), shown)]
        if bound or not shown.any():
            raise ConfigError(
                f"policy {path}: its processor makes {', '.join(bound) or 'no image tokens'} of text and "
                "pictures together; only families whose pictures are tokens of their own are supported"
            )
        self.mistyped = frozenset(wrong)
        self.pixel_names = frozenset(small) - set(TEXT_INPUTS)
        special = special_ids(self.tokenizer)
        seen = {token for picture in pictures for token in self.picture_ids(picture)}
        self.picture_tokens = frozenset(seen & special) | self.image_tokens | {self.placeholder}


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of a tokenizer's special tokens, also of those that have no role by name."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {int(i) for i, token in added if token.special}


def _processor_class(path: str, config: Any) -> Any:
    """Return the class that a checkpoint names, or else the one of its family."""
    import transformers
    from transformers.image_processing_base import ImageProcessingMixin
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    stored, _ = transformers.ProcessorMixin.get_processor_dict(path)
    if "processor_class" not in stored:
        stored, _ = ImageProcessingMixin.get_image_processor_dict(path)
    name = stored.get("processor_class")
    return getattr(transformers, name) if name else PROCESSOR_MAPPING[type(config)]


def _image_only(processor: Any) -> Any:
    """Return a processor class without its parts for video and sound, which need further libraries."""
    from transformers import ProcessorMixin

    wanted = [name for name in processor.get_attributes() if name in ("image_processor", "tokenizer")]
    absent = [name for name in processor.get_attributes() if name not in wanted]
    if not absent:
        return processor

    class Parts(ProcessorMixin):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            named = dict(zip(processor.get_attributes(), args, strict=False)) | kwargs
            super().__init__(**{name: part for name, part in named.items() if name not in absent})

    class ImageOnly(processor, Parts):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return wanted

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: Any, **kwargs: Any) -> Any:
            parts = dict(zip(wanted, args, strict=True)) | dict.fromkeys(absent)
            return super().from_args_and_dict([], processor_dict, **kwargs, **parts)

    ImageOnly.__name__ = processor.__name__  # it is saved under this name
    return ImageOnly
