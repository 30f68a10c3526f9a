"""Makes small random checkpoints of families that have no code of their own in the package."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

CORPUS = ["left large solid", "3 candidates", "Which kind is the lesion?", "<reasoning></reasoning>"] * 20
TEXT: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 56, "patch_size": 14,
}  # fmt: skip
IDEFICS_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% elif part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""Shows lists of parts only; the beginning of a text is left to the tokenizer."""
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{% endif %}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Writes the beginning of a text itself."""


def make_idefics3(directory: Path, *, split: bool = False) -> None:
    """Idefics3, the architecture of SmolVLM: a picture is a global view and, if split, rows of tiles."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>", *tiles]
    tokenizer = _tokenizer("<s>", "</s>", special, IDEFICS_TEMPLATE)
    pictures = Idefics3ImageProcessorPil(
        size={"longest_edge": 112}, max_image_size={"longest_edge": 56}, do_image_splitting=split
    )
    Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=IDEFICS_TEMPLATE).save_pretrained(
        directory
    )
    text = {"model_type": "llama", "vocab_size": len(tokenizer) + 3, "pad_token_id": 0, **TEXT}
    _save_model(
        directory,
        "idefics3",
        text_config=text,
        vision_config=VISION,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )


def make_gemma3(directory: Path) -> None:
    """Gemma 3: image tokens that see one another both ways, and layers with a sliding window of 24 tokens."""
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
    from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    turns = ["<start_of_turn>", "<end_of_turn>"]
    tokenizer = _tokenizer("<bos>", "<eos>", turns, GEMMA_TEMPLATE, named)
    pictures = Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    Gemma3Processor(pictures, tokenizer, image_seq_length=4, chat_template=GEMMA_TEMPLATE).save_pretrained(
        directory
    )
    text = {"vocab_size": len(tokenizer) + 3, "sliding_window": 24, **TEXT}
    text["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    name = tokenizer.convert_tokens_to_ids
    _save_model(
        directory,
        "gemma3",
        text_config=text,
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **VISION},
        mm_tokens_per_image=4,
        image_token_id=name("<image_soft_token>"),
        boi_token_id=name("<start_of_image>"),
        eoi_token_id=name("<end_of_image>"),
    )


def _tokenizer(
    begin: str, end: str, special: list[str], template: str, named: dict[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """Train a byte-level tokenizer that puts a beginning before every text."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", begin, end],
        show_progress=False,
    )
    inner.train_from_iterator(CORPUS, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, inner.token_to_id(begin))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=begin,
        eos_token=end,
        pad_token="<pad>",  # noqa: S106
        clean_up_tokenization_spaces=False,
        extra_special_tokens=named or {},
    )
    tokenizer.chat_template = template
    tokenizer.add_tokens(special, special_tokens=True)
    return tokenizer


def _save_model(directory: Path, family: str, **arguments: Any) -> None:
    """Save a model with weights that are large enough for distinct distributions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **arguments))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(directory)
