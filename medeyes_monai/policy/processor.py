"""A family's own processor as transformers has it, for pictures only and without torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any

import numpy as np
import torch
from PIL import Image

from medeyes_monai.errors import ConfigError
from medeyes_monai.trajectory import Picture

__all__ = ["PictureProcessor", "special_ids"]

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What a processor makes of text. The last two say which tokens are a picture's."""
ONE_TILE = {
    "do_image_splitting": False,
    "do_pan_and_scan": False,
    "crop_to_patches": False,
    "min_patches": 1,
    "max_patches": 1,
}
"""Settings of image processors with which a picture is not cut into tiles: a look is what shows more."""
CELL = 48
"""Largest side of the part of a picture that one token stands for in today's families. Unit: pixels."""
SHRINK, SHRINKS = 0.95, 60
"""Factor by which a largest length is reduced at a time, and how often before the family is refused."""


class PictureProcessor:
    """Tells which tokens stand for a picture, and makes of pictures what the model takes.

    Args:
        path: Checkpoint directory or hub name.
        config: The model's configuration. Its ``image_grid_pinpoints`` are reduced to one tile.
        image_tokens: Largest number of tokens of one picture, with those that stand around it.

    Raises:
        ConfigError: If the processor cannot be loaded, does not work with tokens that are given, or makes
            more tokens of a picture whatever its settings.

    The settings of the processor are reduced until every picture has one tile and few enough tokens; what is
    saved has the reduced settings.
    """

    def __init__(self, path: str, config: Any, image_tokens: int) -> None:
        """Load the processor, reduce its settings and try it."""
        from transformers.utils import is_torchvision_available

        if image_tokens < 1:
            raise ConfigError(f"image_tokens must be at least 1, got {image_tokens}; the default is 1024")
        try:
            kind = _image_only(_processor_class(path, config))
            self.processor = kind.from_pretrained(path, trust_remote_code=False)
            self._text = str(self.processor.image_token)
        except ImportError as error:
            raise ConfigError(
                f"policy {path}: its processor needs a package that is not installed: {_first(error)}; "
                "install it with pip and load the policy again"
            ) from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"policy {path}: its processor cannot be used for pictures and text ({_first(error)})"
                + ("" if is_torchvision_available() else "; some families' processors need torchvision")
            ) from error
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.chat_template = self.processor.chat_template or self.tokenizer.chat_template
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.placeholder = int(self.tokenizer.convert_tokens_to_ids(self._text))
        self.image_tokens = frozenset(int(i) for i in self.processor.image_token_ids if i is not None)
        self._path, self._limit = path, image_tokens
        self._known: dict[tuple[int, int], tuple[tuple[int, ...], torch.Tensor | None]] = {}
        self.several = False
        """Whether a picture has other tokens alone than as one of several, as in an episode with looks."""
        self._one_tile(config)
        self._try()
        self._bound()

    def picture_ids(self, picture: Picture) -> tuple[int, ...]:
        """Return the tokens into which the processor expands a placeholder; the size alone decides them.

        Raises:
            ConfigError: If there are more than ``image_tokens`` of them.
        """
        ids, _ = self._expanded(int(picture.shape[0]), int(picture.shape[1]))
        if len(ids) > self._limit:
            raise ConfigError(
                f"policy {self._path}: a picture of {picture.shape[1]}x{picture.shape[0]} pixels has "
                f"{len(ids)} tokens as one tile, wanted at most {self._limit}; set image_tokens: {len(ids)}"
            )
        return ids

    def grid(self, picture: Picture) -> torch.Tensor:
        """Return the numbers of patches ``[1, 3]`` (time, rows, columns) that multimodal positions count."""
        _, grid = self._expanded(int(picture.shape[0]), int(picture.shape[1]))
        if grid is None:
            raise ConfigError(f"policy {self._path}: its processor does not tell the grid of a picture")
        return grid

    def pixels(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """Return what the model takes for the pictures of one row."""
        return {name: value for name, value in self._run(pictures).items() if name not in TEXT_INPUTS}

    def _expanded(self, rows: int, columns: int) -> tuple[tuple[int, ...], torch.Tensor | None]:
        """Return the tokens of a picture and its grid of patches, if the family has one."""
        if (rows, columns) not in self._known:
            picture = np.zeros((rows, columns, 3), np.uint8)
            made = self._run([picture, picture] if self.several else [picture])
            ids = tuple(made["input_ids"][0].tolist())
            grid = made.get("image_grid_thw")
            self._known[rows, columns] = (
                ids[: len(ids) // (2 if self.several else 1)],
                None if grid is None else grid[:1],
            )
        return self._known[rows, columns]

    def _run(self, pictures: Sequence[Picture], more: str = "") -> dict[str, torch.Tensor]:
        """Process the pictures of one row with nothing but their placeholders as text."""
        made = self.processor(
            images=[[Image.fromarray(np.ascontiguousarray(picture)) for picture in pictures]],
            text=[self._text * len(pictures) + more],
            add_special_tokens=False,
            return_tensors="pt",
        )
        return dict(made)

    def _one_tile(self, config: Any) -> None:
        """Switch off what cuts a picture into tiles; the model reads some of these settings too."""
        images = self.processor.image_processor
        for name, value in ONE_TILE.items():
            if getattr(images, name, None):
                setattr(images, name, value)
        if getattr(images, "image_grid_pinpoints", None):
            side = int(config.vision_config.image_size)
            images.image_grid_pinpoints = config.image_grid_pinpoints = [[side, side]]

    def _try(self) -> None:
        """Learn what the processor makes; refuse inputs that are a function of the text."""
        picture = np.zeros((336, 336, 3), np.uint8)
        try:
            small, pair = self._run([picture]), self._run([picture, picture])
            longer = self._run([picture], more=" a b c d e f g")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
            raise ConfigError(
                f"policy {self._path}: its processor does not expand placeholders of pictures by themselves "
                f"({_first(error)}); only families that do are supported"
            ) from error
        bound = [
            name
            for name, value in small.items()
            if name not in TEXT_INPUTS and value.shape != longer[name].shape
        ]
        tokens = torch.tensor(sorted(self.image_tokens))
        shown = torch.isin(small["input_ids"], tokens)
        self.types = tuple(name for name in TEXT_INPUTS[2:] if name in small and small[name].any())
        wrong = [name for name in self.types if not torch.equal(small[name].bool(), shown)]
        if bound or not shown.any():
            raise ConfigError(
                f"policy {self._path}: its processor makes {', '.join(bound) or 'no image tokens'} of text "
                "and pictures together; only families whose pictures are tokens of their own are supported"
            )
        self.several = int(torch.isin(pair["input_ids"], tokens).sum()) != 2 * int(shown.sum())
        self.mistyped = frozenset(wrong)
        self.pixel_names = frozenset(small) - set(TEXT_INPUTS)

    def _bound(self) -> None:
        """Reduce the largest size until pictures of all shapes have few enough tokens."""
        side = CELL * isqrt(self._limit) + CELL
        probes = ((side, side), (side, side // 4), (side // 4, side))
        images = self.processor.image_processor
        size = getattr(images, "size", None) or {}
        if hasattr(images, "merge_size"):  # families whose largest size is an area, of one or of all frames
            cell = self._limit * (int(images.patch_size) * int(images.merge_size)) ** 2
            sizes = [cell * int(images.temporal_patch_size), cell]
        else:  # a length, where there is one: a square of it has the most tokens
            sizes = [int(side * SHRINK**n) for n in range(SHRINKS)]
        for largest in sizes:
            if len(self._expanded(side, side)[0]) <= self._limit or not size.get("longest_edge"):
                break
            size["longest_edge"] = min(size["longest_edge"], largest)
            if size.get("shortest_edge"):
                size["shortest_edge"] = min(size["shortest_edge"], size["longest_edge"])
            self._known.clear()
        special = special_ids(self.tokenizer)
        seen = {
            token for probe in probes for token in self.picture_ids(np.broadcast_to(np.uint8(0), (*probe, 3)))
        }
        self.picture_tokens = frozenset(seen & special) | self.image_tokens | {self.placeholder}


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of a tokenizer's special tokens, also of those that have no role by name."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {int(i) for i, token in added if token.special}


def _first(error: Exception) -> str:
    """Return the first sentence of an error, on one line."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")


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
