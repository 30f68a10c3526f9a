"""Makes small checkpoints of the supported architectures from nothing: for dry runs and tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch

from medeyes_monai.policy.huggingface import FAMILIES, FORBIDDEN
from medeyes_monai.policy.settings import POLICY_FILE, PolicySettings
from medeyes_monai.protocol import ACTION, ANSWER, REASONING

__all__ = ["make_tiny_checkpoint"]

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *FORBIDDEN)
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<|im_start|>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>{% endfor %}"
)
"""A chat form without role names: who speaks follows from the order, and there are fewer tokens to read."""
LARGEST_NUMBER = 512
"""Whole numbers up to this one are one token each, so that a corner of a box is one decision."""


def make_tiny_checkpoint(
    directory: str | Path,
    *,
    family: Literal["qwen3_vl", "qwen2_5_vl"] = "qwen3_vl",
    corpus: Iterable[str] = (),
    coordinates: Literal["pixels", "relative"] = "pixels",
    seed: int = 0,
) -> None:
    """Write a checkpoint of about 1.4 M random parameters with a tokenizer of its own.

    Args:
        directory: Where it is written.
        family: Architecture.
        corpus: Text that the tokenizer is trained on, so that its words are short.
        coordinates: Frame in which the policy will write boxes.
        seed: Seed of the weights.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(corpus)
    tokenizer.save_pretrained(target)
    patch = 16 if family == "qwen3_vl" else 14
    Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=2, temporal_patch_size=1, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _model(family, tokenizer)
    model.save_pretrained(target)
    settings = PolicySettings(
        coordinates=coordinates,
        instruction="{question}",
        dtype="float32",
        overview_pixels=128 * 128,
        look_pixels=64 * 64,
        max_turn_tokens=48,
    )
    (target / POLICY_FILE).write_text(settings.to_json(), encoding="utf-8")


def _tokenizer(corpus: Iterable[str]) -> Any:
    """Train a byte-level BPE with Qwen's special tokens; the protocol's tags are one token each."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    words = Regex(r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    numbers = [str(n) for n in range(LARGEST_NUMBER + 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*numbers, *corpus], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        clean_up_tokenization_spaces=False,
        extra_special_tokens=list(SPECIAL),
    )
    opening = ACTION[0] + '{"name":"Gaze","coordinate":['
    tags = (*REASONING, opening, "]}" + ACTION[1], *ANSWER, "<feedback>", "</feedback>")
    fast.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _model(family: Literal["qwen3_vl", "qwen2_5_vl"], tokenizer: Any) -> Any:
    from transformers import AutoConfig, AutoModelForImageTextToText

    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    name = tokenizer.convert_tokens_to_ids
    text: dict[str, Any] = {
        "vocab_size": (len(tokenizer) + 63) // 64 * 64, "hidden_size": 128, "intermediate_size": 256,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "max_position_embeddings": 4096, "tie_word_embeddings": True, "bos_token_id": None,
        "eos_token_id": name("<|im_end|>"), "pad_token_id": name("<|endoftext|>"),
    }  # fmt: skip
    vision: dict[str, Any] = {
        "depth": 3, "hidden_size": 96, "intermediate_size": 192, "num_heads": 4, "out_hidden_size": 128,
        "spatial_merge_size": 2, "temporal_patch_size": 1,
    }  # fmt: skip
    if family == "qwen3_vl":
        text["rope_parameters"] = {"rope_type": "default", "mrope_section": [6, 5, 5], "rope_theta": 1e4}
        vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [1]}
    else:
        text["rope_parameters"] = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e4}
        vision |= {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [2]}
    config = AutoConfig.for_model(
        family,
        text_config=text,
        vision_config=vision,
        image_token_id=name("<|image_pad|>"),
        video_token_id=name("<|video_pad|>"),
        vision_start_token_id=name("<|vision_start|>"),
        vision_end_token_id=name("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return AutoModelForImageTextToText.from_config(config)
