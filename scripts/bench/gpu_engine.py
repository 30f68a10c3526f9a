"""The policy of the part ``gpu``: its shape and sizes, and the limits of the device that it is on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.setting import (
    EndlessPolicy,
    Settings,
    Vision,
    noise_case,
)

LORA = {
    "r": 16,
    "lora_alpha": 32,
    "target_modules": r".*language_model.*\.(q|k|v|o|gate|up|down)_proj",
}
TEXT_3B = {
    "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
    "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 128000,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6},
}  # fmt: skip
VISION_3B = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048,
    "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
"""Qwen2.5-VL-3B, from its public configuration."""


@dataclass(frozen=True)
class Sizes:
    """How large the measurements are.

    Args:
        questions: Questions of a step.
        draws: Policy episodes of each.
        experts: Expert episodes of each.
        side: Side of the pictures. Unit: pixels.
        short: Tokens of the short rollout.
        long: Tokens of the long one.
        episode: Tokens of an episode in the update, prompt included.
        copy: Bytes that are copied to measure bandwidth.
        matrix: Side of the matrices whose product measures the rate.
    """

    questions: int = 8
    draws: int = 8
    experts: int = 6
    side: int = 336
    short: int = 32
    long: int = 160
    episode: int = 2048
    copy: int = 2**30
    matrix: int = 8192


SMALL = Sizes(2, 2, 1, 56, short=4, long=16, episode=64, copy=2**22, matrix=256)


class Engine:
    """The policy of the part ``gpu`` on its device.

    Args:
        settings: Device and size.
    """

    def __init__(self, settings: Settings) -> None:
        """Make the weights and load them."""
        self.device = torch.device(settings.device)
        large = settings.size == "3b"
        self.sizes = Sizes() if large else SMALL
        self.dtype = torch.bfloat16 if large else torch.float32
        self.checkpoint = _checkpoint(settings, self.device) if large else settings.checkpoint("qwen2_5_vl")
        self.policy = EndlessPolicy(
            self.checkpoint,
            dtype="bfloat16" if large else "float32",
            lora=LORA,
            gradient_checkpointing=True,
            device=self.device,
        )
        self.vision = Vision(self.checkpoint)
        self.cases = [
            noise_case(self.sizes.side, self.policy.patch, number) for number in range(self.sizes.questions)
        ]
        self.text: Any = self.policy.core.config.get_text_config()
        self.head_size: int = self.text.hidden_size // self.text.num_attention_heads

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def parameters(self, part: torch.nn.Module, trained: bool) -> int:
        """Return the number of weights of a part's matrices, the embedding left out."""
        return sum(
            p.numel()
            for name, p in part.named_parameters()
            if p.dim() > 1 and "embed_tokens" not in name and p.requires_grad == trained
        )

    def bandwidth(self) -> float:
        """Return the bandwidth of a copy, bytes read plus bytes written. Unit: bytes/s."""
        source = torch.ones(self.sizes.copy, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * self.sizes.copy / self._best(lambda: target.copy_(source))

    def matrix_rate(self) -> float:
        """Return the rate of a large product of matrices in the policy's precision. Unit: FLOP/s."""
        side = self.sizes.matrix
        one = torch.randn(side, side, device=self.device, dtype=self.dtype)
        return 2 * side**3 / self._best(lambda: one @ one)

    def _best(self, work: Callable[[], Any], times: int = 20) -> float:
        """Return the median time of ten pieces of work in a row, over ten."""
        found = []
        for _ in range(times):
            self.wait()
            started = time.perf_counter()
            for _ in range(10):
                work()
            self.wait()
            found.append((time.perf_counter() - started) / 10)
        return median(found)


def _checkpoint(settings: Settings, device: torch.device) -> Path:
    """Write random weights of the shape of Qwen2.5-VL-3B with the tiny policy's tokenizer."""
    from transformers import AutoConfig, AutoModelForImageTextToText
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    source, folder = settings.checkpoint("qwen2_5_vl"), settings.work / "qwen2_5_vl-3b"
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    tiny = AutoConfig.from_pretrained(source)
    of_text = {name: getattr(tiny.get_text_config(), name) for name in ("eos_token_id", "pad_token_id")}
    tokens = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = AutoConfig.for_model(
        "qwen2_5_vl",
        text_config=TEXT_3B | of_text | {"bos_token_id": None},
        vision_config=VISION_3B,
        tie_word_embeddings=True,
        **{name: getattr(tiny, name) for name in tokens},
    )
    torch.manual_seed(0)
    with device:
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, temporal_patch_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder
