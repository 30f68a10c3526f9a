"""The other contestant of a GRPO step: TRL's trainer. Imports nothing of ours: its memory is its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    TrainerCallback,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from trl import GRPOConfig, GRPOTrainer

from bench.process import memory_now, memory_peak


@dataclass(frozen=True)
class StepWork:
    """What a GRPO step is made of, in both trainers.

    Args:
        checkpoint: Checkpoint directory of a Qwen2.5-VL.
        pictures: Numpy file, one picture for each step, ``uint8 (steps, rows, columns, 3)``.
        prompt: Text of the question.
        suppressed: Tokens that the policy may never write.
        freeze: Leave the vision tower as it is.
        draws: Episodes of a step.
        tokens: Tokens of each episode.
        rate: Learning rate.
        clip: Largest norm of the gradient.
    """

    checkpoint: str
    pictures: str
    prompt: str
    suppressed: Sequence[int]
    freeze: bool
    draws: int
    tokens: int
    rate: float = 1e-4
    clip: float = 1.0


class ImageOnlyProcessor(Qwen2_5_VLProcessor):  # type: ignore[misc]
    """The processor that TRL asks for, without the part for videos, which needs torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        """Take over the tokenizer's template."""
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        names = [self.image_token, self.video_token]
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(names)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=tokenizer.chat_template)


class RecordingTrainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer that remembers the batch of its last step."""

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        self.batch = super()._prepare_inputs(generation_batch)
        return self.batch


class Watch(TrainerCallback):  # type: ignore[misc]
    """Times each step and calls a function after it.

    Args:
        after: Called after each step, outside of its time; None also leaves out what is kept to compare.
    """

    def __init__(self, after: Callable[[], None] | None) -> None:
        """Begin without steps."""
        self.after, self.seconds = after, list[float]()
        self.trainer: Any = None
        self.batch: Mapping[str, Any] = {}
        self.gradients: dict[str, torch.Tensor] = {}
        self.tokens = 0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_pre_optimizer_step(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        """Keep batch and gradient of the first step."""
        if self.after is not None and not self.gradients:
            self.batch = self.trainer.batch
            named = model.named_parameters()
            self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
            self.started = time.perf_counter()  # the first step is the warm-up

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop the clock, and let the other one step."""
        self.seconds.append(time.perf_counter() - self.started)
        self.tokens = int(self.trainer.batch["completion_mask"].sum())
        if self.after is not None:
            self.after()


def even_share(tokens: Sequence[int]) -> float:
    """Return the share of even token ids: a reward that costs nothing and differs between draws."""
    return sum(token % 2 == 0 for token in tokens) / len(tokens)


def trl_trainer(work: StepWork, watch: Watch) -> RecordingTrainer:
    """Return TRL's trainer of as many steps as there are pictures."""
    pictures = np.load(work.pictures)
    question = [{"role": "user", "content": work.prompt}]
    rows = [{"prompt": question, "image": Image.fromarray(picture)} for picture in pictures]
    tokenizer = AutoTokenizer.from_pretrained(work.checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(work.checkpoint, dtype=torch.float32)
    if work.freeze:
        model.model.visual.requires_grad_(False)
    config = GRPOConfig(
        output_dir=str(Path(work.pictures).parent / "trl"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_steps=len(rows),
        per_device_train_batch_size=work.draws,
        num_generations=work.draws,
        shuffle_dataset=False,
        max_completion_length=work.tokens,
        generation_kwargs={"min_new_tokens": work.tokens, "suppress_tokens": list(work.suppressed)},
        temperature=1.0,
        loss_type="grpo",
        beta=0.0,
        optim="adamw_torch_fused",
        learning_rate=work.rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=work.clip,
        logging_steps=len(rows) + 1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    watch.trainer = RecordingTrainer(
        model=model,
        reward_funcs=_reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=ImageOnlyProcessor(
            Qwen2VLImageProcessorPil.from_pretrained(work.checkpoint), tokenizer
        ),
        callbacks=[watch],
    )
    return watch.trainer


def _reward(completion_ids: Sequence[Sequence[int]], **kwargs: Any) -> list[float]:
    return [even_share(tokens) for tokens in completion_ids]


def trl_child(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Do the steps with TRL alone; return peaks."""
    watch = Watch(None)
    trainer = trl_trainer(StepWork(**arguments), watch)
    loaded = memory_now()
    trainer.train()
    peak = memory_peak()
    return {"peak_mib": peak, "loaded_mib": loaded, "growth_mib": peak - loaded, "steps": len(watch.seconds)}
