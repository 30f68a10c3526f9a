"""Tokens of pictures, of what is said around them, and of the longest episode that settings allow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from medeyes_monai.planning.shapes import Model, Shapes
from medeyes_monai.policy.conversation import Conversation
from medeyes_monai.policy.huggingface import FAMILIES, INSTRUCTION
from medeyes_monai.policy.processor import PictureProcessor
from medeyes_monai.policy.settings import read_settings

__all__ = ["EpisodeTokens", "count_tokens", "picture_grid"]

CHARACTERS = 4
"""Characters of a token of English text, where no tokenizer is at hand."""
FRAME_TOKENS = 32
"""Tokens of a chat template around a message, where no tokenizer is at hand."""
MARKERS = 4
"""Tokens that frame a picture, where no processor is at hand."""
QUESTION = "Is there a lesion in the left upper lobe, and if so, of which kind is it?"


@dataclass(frozen=True)
class EpisodeTokens:
    """Tokens of the longest episode.

    Args:
        overview: Of the overview.
        look: Of a look.
        prompt: Of the first message, overview included.
        feedback: Of the message that shows a look, look included.
        turn: Of a turn of the policy, at most.
        looks: Number of looks.
        most: What the model has room for.
        exact: Whether the texts were counted with the checkpoint's own tokenizer.
    """

    overview: int
    look: int
    prompt: int
    feedback: int
    turn: int
    looks: int
    most: int
    exact: bool

    @property
    def episode(self) -> int:
        """All of them."""
        return min(self.most, self.prompt + self.looks * (self.turn + self.feedback) + self.turn)

    @property
    def written(self) -> int:
        """Those that the policy writes."""
        return (self.looks + 1) * self.turn


def picture_grid(config: Any) -> int | None:
    """Return the side of a picture's cell that is one token; None where a processor decides. Unit: pixels."""
    if config.model_type not in FAMILIES:
        return None
    return int(config.vision_config.patch_size * config.vision_config.spatial_merge_size)


def count_tokens(shapes: Shapes, model: Model) -> EpisodeTokens:
    """Count the tokens of an episode that uses up its limits."""
    settings, config = model.settings, model.config
    pictures, conversation = _readers(shapes, config, settings.image_tokens)
    overview, look = (
        _picture_tokens(config, pictures, pixels, settings.image_tokens)
        for pixels in (settings.overview_pixels, settings.look_pixels)
    )
    if conversation is None:
        asked = INSTRUCTION.replace("{question}", QUESTION)
        prompt, feedback = len(asked) // CHARACTERS + FRAME_TOKENS, FRAME_TOKENS
    else:
        instruction = _instruction(shapes)
        prompt = len(conversation.prompt(instruction.replace("{question}", QUESTION), ()))
        feedback = len(conversation.feedback(()))
    return EpisodeTokens(
        overview=overview,
        look=look,
        prompt=prompt + overview,
        feedback=feedback + look,
        turn=settings.max_turn_tokens,
        looks=settings.max_looks,
        most=int(model.text.max_position_embeddings),
        exact=conversation is not None,
    )


def _instruction(shapes: Shapes) -> str:
    stored, _ = read_settings(shapes.name)
    return (stored and stored.instruction) or INSTRUCTION


def _readers(
    shapes: Shapes, config: Any, image_tokens: int
) -> tuple[PictureProcessor | None, Conversation | None]:
    """Return a checkpoint's own processor, where it decides about tokens, and its conversation."""
    if shapes.directory is None:
        return None, None
    if picture_grid(config) is None:
        pictures = PictureProcessor(shapes.name, config, image_tokens)
        return pictures, Conversation(pictures.tokenizer, pictures.placeholder)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shapes.name, trust_remote_code=False)
    return None, Conversation(tokenizer, int(config.image_token_id))


def _picture_tokens(config: Any, pictures: PictureProcessor | None, pixels: int, most: int) -> int:
    grid = picture_grid(config)
    if grid is not None:
        return pixels // grid**2
    if pictures is None:
        return min(most, _tile_tokens(config)) + MARKERS
    side = math.isqrt(pixels)
    return len(pictures.picture_ids(np.zeros((side, side, 3), np.uint8)))


def _tile_tokens(config: Any) -> int:
    """Return the tokens of one tile of a family whose pictures have a fixed size."""
    for name in ("mm_tokens_per_image", "image_seq_length"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    side = config.vision_config.image_size // config.vision_config.patch_size
    return int(side**2 // config.scale_factor**2)
