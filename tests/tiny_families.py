"""Makes small random checkpoints of many families, most of which have no code of their own in the package."""

import json
from collections.abc import Callable
from functools import partial
from importlib import import_module
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
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}PICTURE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML with what a family writes for a picture."""
TURNS = ["<|im_start|>", "<|im_end|>"]


def make_idefics3(directory: Path, *, split: bool = False, side: int = 56, spread: float = 0.1) -> None:
    """Idefics3, the architecture of SmolVLM: a picture is a global view and, if split, rows of tiles."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>", *tiles]
    tokenizer = _tokenizer("<s>", "</s>", special, IDEFICS_TEMPLATE)
    pictures = Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * side}, max_image_size={"longest_edge": side}, do_image_splitting=split
    )
    tokens = (side // VISION["patch_size"] // 2) ** 2
    Idefics3Processor(
        pictures, tokenizer, image_seq_len=tokens, chat_template=IDEFICS_TEMPLATE
    ).save_pretrained(directory)
    text = {"model_type": "llama", "vocab_size": len(tokenizer) + 3, "pad_token_id": 0, **TEXT}
    _save_model(
        directory,
        "idefics3",
        spread=spread,
        tie_word_embeddings=TEXT.get("tie_word_embeddings", False),
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


def make_qwen(directory: Path, family: str) -> None:
    """A Qwen-VL family that has no fast path: multimodal positions; the mixture has deepstack features."""
    vision = {
        "hidden_size": 48, "depth": 3, "num_heads": 4, "in_channels": 3, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "intermediate_size": 64, "out_hidden_size": 64,
    }  # fmt: skip
    text: dict[str, Any] = {"rope_parameters": _rope([2, 3, 3])}
    if family == "qwen2_vl":
        vision |= {"embed_dim": 48, "hidden_size": 64, "mlp_ratio": 2}
    elif family == "qwen3_vl_moe":
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [1]}
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    else:
        vision |= {"num_position_embeddings": 64}
        kinds = ["linear_attention", "linear_attention", "full_attention"]
        text |= {"layer_types": kinds, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
        text |= {"linear_key_head_dim": 16, "linear_value_head_dim": 16}
        text |= {"rope_parameters": _rope([2, 3, 3]) | {"partial_rotary_factor": 1.0}}
    special = ["<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>"]
    tokenizer = _chat_tokenizer("<|vision_start|><|image_pad|><|vision_end|>", special)
    name = tokenizer.convert_tokens_to_ids
    _save(
        directory,
        family,
        tokenizer,
        ("qwen2_vl", "Qwen2VLImageProcessorPil", {"patch_size": 14}),
        {"processor_class": "Qwen2VLProcessor" if family == "qwen2_vl" else "Qwen3VLProcessor"},
        text_config=text,
        vision_config=vision,
        image_token_id=name("<|image_pad|>"),
        video_token_id=name("<|video_pad|>"),
        vision_start_token_id=name("<|vision_start|>"),
        vision_end_token_id=name("<|vision_end|>"),
    )


def make_glm4v(directory: Path) -> None:
    """GLM-4V: multimodal positions over half of each head."""
    special = ["<|begin_of_image|>", "<|image|>", "<|end_of_image|>", "<|video|>"]
    special += ["<|begin_of_video|>", "<|end_of_video|>"]
    tokenizer = _chat_tokenizer("<|begin_of_image|><|image|><|end_of_image|>", special)
    name = tokenizer.convert_tokens_to_ids
    _save(
        directory,
        "glm4v",
        tokenizer,
        ("glm4v", "Glm4vImageProcessorPil", {"patch_size": 14}),
        {"processor_class": "Glm4vProcessor"},
        text_config={"rope_parameters": _rope([1, 1, 2]) | {"partial_rotary_factor": 0.5}, "pad_token_id": 0},
        vision_config={
            "hidden_size": 48, "depth": 2, "num_heads": 4, "image_size": 56, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 64, "intermediate_size": 64,
        },
        image_token_id=name("<|image|>"),
        video_token_id=name("<|video|>"),
        image_start_token_id=name("<|begin_of_image|>"),
        image_end_token_id=name("<|end_of_image|>"),
        video_start_token_id=name("<|begin_of_video|>"),
        video_end_token_id=name("<|end_of_video|>"),
    )  # fmt: skip


def make_internvl(directory: Path) -> None:
    """InternVL: up to 12 tiles and a thumbnail as the checkpoint is shipped."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = _chat_tokenizer("<IMG_CONTEXT>", [], named)
    images = {"size": {"height": 56, "width": 56}, "crop_to_patches": True, "max_patches": 12}
    vision = {**VISION, "image_size": [56, 56], "patch_size": [14, 14]}
    _save(
        directory,
        "internvl",
        tokenizer,
        ("got_ocr2", "GotOcr2ImageProcessorPil", images),
        {"processor_class": "InternVLProcessor", "image_seq_length": 4},
        text_config={"model_type": "qwen2"},
        vision_config=vision,
        image_seq_length=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )


def make_llava(directory: Path, family: str) -> None:
    """A LLaVA family; all but the first cut a picture into tiles."""
    tokenizer = _chat_tokenizer("<image>", ["<image>", "<video>"])
    size, pinpoints = {"height": 56, "width": 56}, [[56, 56], [56, 112], [112, 56], [112, 112]]
    strategy = "full" if family == "llava_onevision" else "default"
    settings: dict[str, Any] = {"patch_size": 14, "vision_feature_select_strategy": strategy}
    more: dict[str, Any] = {"image_grid_pinpoints": pinpoints}
    if family == "llava":
        images = ("clip", "CLIPImageProcessorPil", {"size": {"shortest_edge": 56}, "crop_size": size})
        settings |= {"processor_class": "LlavaProcessor", "num_additional_image_tokens": 1}
        more = {"image_seq_length": 16}
    elif family == "llava_next":
        grid = {"size": {"shortest_edge": 56}, "crop_size": size, "image_grid_pinpoints": pinpoints}
        images = ("llava_next", "LlavaNextImageProcessorPil", grid)
        settings |= {"processor_class": "LlavaNextProcessor", "num_additional_image_tokens": 1}
    else:
        grid = {"size": size, "image_grid_pinpoints": pinpoints}
        images = ("llava_onevision", "LlavaOnevisionImageProcessorPil", grid)
        settings = {"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 16}
        settings |= {"vision_feature_select_strategy": strategy}
        more |= {"video_token_index": tokenizer.convert_tokens_to_ids("<video>"), "vision_feature_layer": -1}
    vision = "clip_vision_model" if strategy == "default" else "siglip_vision_model"
    head = {} if strategy == "default" else {"vision_use_head": False}
    _save(
        directory,
        family,
        tokenizer,
        images,
        settings,
        text_config={"model_type": "qwen2" if family == "llava_onevision" else "llama"},
        vision_config={"model_type": vision, **VISION, **head},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy=strategy,
        **more,
    )


def make_mistral3(directory: Path) -> None:
    """Mistral 3: pictures of any shape, a token at the end of each row; a window of 24 tokens."""
    named = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
    tokenizer = _chat_tokenizer("[IMG]", [], named)
    _save(
        directory,
        "mistral3",
        tokenizer,
        ("pixtral", "PixtralImageProcessorPil", {"size": {"longest_edge": 1540}, "patch_size": 14}),
        {"processor_class": "PixtralProcessor", "patch_size": 14, "spatial_merge_size": 2},
        text_config={"model_type": "mistral", "sliding_window": 24},
        vision_config={"model_type": "pixtral", **VISION, "image_size": 1540, "head_dim": 12},
        spatial_merge_size=2,
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
    )


def make_smolvlm(directory: Path) -> None:
    """SmolVLM: Idefics3 under another name, with a processor that asks for num2words."""
    make_idefics3(directory, split=True)
    for file, name in (("config.json", "smolvlm"), ("processor_config.json", "SmolVLM")):
        text = (directory / file).read_text()
        old = "idefics3" if file == "config.json" else "Idefics3"
        (directory / file).write_text(text.replace(old, name))


def make_paligemma(directory: Path) -> None:
    """PaliGemma: picture and question attend to each other in both directions."""
    tokenizer = _chat_tokenizer("<image>", [], {"image_token": "<image>"})
    size = {"height": 56, "width": 56}
    _save(
        directory,
        "paligemma",
        tokenizer,
        ("siglip", "SiglipImageProcessorPil", {"size": size, "image_seq_length": 16}),
        {"processor_class": "PaliGemmaProcessor"},
        text_config={"model_type": "gemma", "num_image_tokens": 16},
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **VISION},
        projection_dim=64,
        hidden_size=64,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )


def make_cohere(directory: Path, family: str) -> None:
    """A vision family of Cohere, whose logits are scaled."""
    special = ["<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"]
    special += ["TILE", "TILE_GLOBAL"]
    tokenizer = _chat_tokenizer("<image>", special)
    size = {"height": 56, "width": 56}
    aya = family == "aya_vision"
    settings = {"processor_class": "AyaVisionProcessor", "patch_size": 14, "img_size": 56}
    token = tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>")
    _save(
        directory,
        family,
        tokenizer,
        ("got_ocr2", "GotOcr2ImageProcessorPil", {"size": size, "crop_to_patches": True}),
        settings | {"downsample_factor": 2} if aya else {"processor_class": "Cohere2VisionProcessor"},
        text_config={"model_type": "cohere2", "logit_scale": 0.25, "sliding_window": 24, "pad_token_id": 0},
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **VISION},
        downsample_factor=2,
        **({"image_token_index": token} if aya else {"image_token_id": token}),
    )
    if not aya:
        file = directory / "preprocessor_config.json"
        file.write_text(file.read_text().replace("GotOcr2ImageProcessor", "Cohere2VisionImageProcessor"))


def make_got_ocr2(directory: Path) -> None:
    """GOT-OCR 2.0, whose processor writes the whole question itself."""
    tokenizer = _chat_tokenizer("<img><imgpad></img>", ["<img>", "</img>", "<imgpad>"])
    vision = {
        "hidden_size": 48, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 64, "patch_size": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 64,
    }  # fmt: skip
    _save(
        directory,
        "got_ocr2",
        tokenizer,
        ("got_ocr2", "GotOcr2ImageProcessorPil", {"size": {"height": 64, "width": 64}}),
        {"processor_class": "GotOcr2Processor"},
        text_config={"model_type": "qwen2"},
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<imgpad>"),
    )


def make_lfm2_vl(directory: Path) -> None:
    """LFM2-VL: layers of short convolutions."""
    tokenizer = _chat_tokenizer("<image>", ["<image>", "<|image_start|>", "<|image_end|>"])
    kinds = ["conv", "full_attention", "conv"]
    _save(
        directory,
        "lfm2_vl",
        tokenizer,
        ("siglip2", "Siglip2ImageProcessorPil", {"patch_size": 14}),
        {"processor_class": "Lfm2VlProcessor"},
        text_config={"model_type": "lfm2", "layer_types": kinds},
        vision_config={"model_type": "siglip2_vision_model", **VISION, "num_patches": 16},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )


def make_own(directory: Path, family: str) -> None:
    """A family with code of its own in the package."""
    from medeyes_monai.policy.tiny import make_tiny_checkpoint

    make_tiny_checkpoint(directory, family=family, corpus=CORPUS, coordinates="relative")  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_pretrained(directory, dtype=torch.float32)
        _spread(model, 0.05)
    model.save_pretrained(directory)


FAMILIES: dict[str, Callable[[Path], None]] = {
    **{name: partial(make_own, family=name) for name in ("qwen2_5_vl", "qwen3_vl")},
    **{name: partial(make_qwen, family=name) for name in ("qwen2_vl", "qwen3_vl_moe")},
    "glm4v": make_glm4v,
    "gemma3": make_gemma3,
    "idefics3": partial(make_idefics3, split=True),
    "smolvlm": make_smolvlm,
    "internvl": make_internvl,
    **{name: partial(make_llava, family=name) for name in ("llava", "llava_next", "llava_onevision")},
    "mistral3": make_mistral3,
    **{name: partial(make_cohere, family=name) for name in ("aya_vision", "cohere2_vision")},
    "paligemma": make_paligemma,
    "got_ocr2": make_got_ocr2,
    "lfm2_vl": make_lfm2_vl,
    "qwen3_5": partial(make_qwen, family="qwen3_5"),
}
"""What makes a small random checkpoint of each family, by ``model_type``."""


def _rope(section: list[int]) -> dict[str, Any]:
    return {"rope_type": "default", "mrope_section": section, "rope_theta": 1e4}


def _chat_tokenizer(
    picture: str, special: list[str], named: dict[str, str] | None = None
) -> PreTrainedTokenizerFast:
    template = CHAT_TEMPLATE.replace("PICTURE", picture)
    return _tokenizer("<s>", "</s>", [*TURNS, *special], template, named)


def _save(
    directory: Path,
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    images: tuple[str, str, dict[str, Any]],
    settings: dict[str, Any],
    *,
    text_config: dict[str, Any],
    **config: Any,
) -> None:
    """Save a model with its tokenizer, an image processor of transformers, and a processor's settings."""
    module, name, arguments = images
    folder = import_module(f"transformers.models.{module}.image_processing_pil_{module}")
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(directory)
    getattr(folder, name)(**arguments).save_pretrained(directory)
    (directory / "processor_config.json").write_text(json.dumps(settings))
    text = {"vocab_size": len(tokenizer) + 3, "pad_token_id": 0, **TEXT, **text_config}
    _save_model(directory, family, text_config=text, **config)


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


def _save_model(directory: Path, family: str, *, spread: float = 0.1, **arguments: Any) -> None:
    """Save a model with weights that are large enough for distinct distributions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **arguments))
        _spread(model, spread)
    model.save_pretrained(directory)


def _spread(model: torch.nn.Module, std: float) -> None:
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=std)
