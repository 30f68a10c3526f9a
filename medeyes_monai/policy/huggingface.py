"""A policy from any checkpoint directory or hub name: Qwen-VL families on the fast path, others beside it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.base import Segment, TokenScores
from medeyes_monai.policy.conversation import Conversation
from medeyes_monai.policy.decoding import EpisodeDecoder
from medeyes_monai.policy.family import Family
from medeyes_monai.policy.generic import GenericFamily
from medeyes_monai.policy.loading import (
    POLICY_FILE,
    DType,
    add_adapter,
    check_checkpoint,
    load_core,
    merge_adapter,
    stored_settings,
    vision_tower,
)
from medeyes_monai.policy.logprobs import rows_for, score_tokens
from medeyes_monai.policy.precision import float_logits
from medeyes_monai.policy.qwen_vl import QwenVL
from medeyes_monai.policy.trial import check_cache, logit_cap
from medeyes_monai.scenes import Case, Scene, View
from medeyes_monai.trajectory import Episode

__all__ = ["INSTRUCTION", "RELATIVE_EXTENT", "HuggingFacePolicy", "asked_with_options"]

Coordinates = Literal["pixels", "relative"]
FAMILIES: dict[str, Coordinates] = {"qwen2_5_vl": "pixels", "qwen3_vl": "relative"}
"""Values of ``model_type`` with code of their own, and the frame in which each was trained to write boxes."""
RELATIVE_EXTENT = 1000
"""Extent of every axis for families that write relative coordinates."""
FORBIDDEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
"""Tokens that only the environment may write."""
INSTRUCTION = (
    "{question}\n"
    "Before each step, think inside <reasoning></reasoning>. Then either look closer at one region with "
    '<action>{"name":"Gaze","coordinate":[x1,y1,x2,y2]}</action> and you will be shown its pixels, or '
    "finish with <answer></answer>."
)
"""What a general checkpoint is told about the protocol, around the question."""
BOX_FORM, BOX_FORM_3D = "[x1,y1,x2,y2]", "[x1,y1,z1,x2,y2,z2]"
VOLUME_NOTE = (
    " The picture shows slabs of a volume from the feet to the head, each with the number of its middle "
    "slice: x and y count within a slab's cell, z in those numbers."
)
"""What it is told besides where the question is about a volume."""


def asked_with_options(case: Case) -> str:
    """Return a question with its options below it, each with its letter.

    Example:
        >>> asked_with_options(Case("q", None, "Which?", options=("left", "right"))).splitlines()
        ['Which?', 'A. left', 'B. right']
    """
    listed = [f"{chr(65 + n)}. {option}" for n, option in enumerate(case.options)]
    return "\n".join([case.question, *listed])


class HuggingFacePolicy(torch.nn.Module):
    """A vision-language model of transformers as a :class:`~medeyes_monai.policy.Policy`.

    Works without torchvision, loads safetensors only, and never runs code that comes with a checkpoint.

    Args:
        path: Checkpoint directory or hub name.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        attention: Attention implementation of transformers, ``"sdpa"`` or ``"eager"``.
        lora: Arguments of ``peft.LoraConfig``; None trains the model itself.
        adapter: Directory of a finished adapter of peft, which is merged into the weights; None for none.
        freeze_vision: Leave the vision tower as it is. Qwen-VL families keep its output for every pass.
        gradient_checkpointing: Compute each layer's states again in backward instead of keeping them.
        temperature: Softmax temperature, in sampling and in training alike.
        coordinates: ``"pixels"`` of the overview or ``"relative"`` (0 to 1000); None takes the checkpoint's
            ``policy_config.json`` or the family's convention.
        instruction: Prompt with ``{question}`` in it; None takes the checkpoint's or :data:`INSTRUCTION`.
        compiled: Compile the step that writes one token for each row (Qwen-VL families; see
            :class:`~medeyes_monai.policy.token_step.TokenStep`).
        feature_budget: What Qwen-VL families keep at most of the vision tower's output. Unit: bytes.
        device: Where the weights are put.

    Raises:
        ConfigError: If the directory has no weights, no tokenizer or no image processor, the family is not
            supported, or an argument does not fit.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dtype: DType = "float32",
        attention: Literal["sdpa", "eager"] = "sdpa",
        lora: Mapping[str, Any] | None = None,
        adapter: str | Path | None = None,
        freeze_vision: bool = True,
        gradient_checkpointing: bool = False,
        temperature: float = 1.0,
        coordinates: Coordinates | None = None,
        instruction: str | None = None,
        compiled: bool = False,
        feature_budget: int = 2**28,
        device: str | torch.device = "cpu",
    ) -> None:
        """Load the checkpoint."""
        super().__init__()
        if temperature <= 0:
            raise ConfigError(
                f"temperature must be above 0, got {temperature}; for greedy answers ask the rollout"
            )
        if attention not in ("sdpa", "eager"):
            raise ConfigError(f"attention must be 'sdpa' or 'eager', which take any mask; got {attention!r}")
        self.path = str(path)
        check_checkpoint(self.path)
        tokenizer, self.core = load_core(self.path, dtype, attention)
        if adapter is not None:
            self.core = merge_adapter(self.core, adapter)
        stored = stored_settings(self.path)
        name = self.core.config.model_type
        self.coordinates: Coordinates = coordinates or stored.get(
            "coordinates", FAMILIES.get(name, "relative")
        )
        self.instruction: str = instruction or stored.get("instruction", INSTRUCTION)
        if self.coordinates not in ("pixels", "relative") or "{question}" not in self.instruction:
            raise ConfigError(
                "coordinates must be 'pixels' or 'relative' and instruction must hold {question}; "
                f"got {self.coordinates!r} and {self.instruction!r}"
            )
        self.temperature = temperature
        self.vocabulary_size = int(self.core.get_output_embeddings().weight.shape[0])
        self.max_tokens = int(self.core.config.get_text_config().max_position_embeddings)
        if getattr(self.core.config, "image_token_id", None) is None:
            raise ConfigError(f"policy {path}: family {name!r} has no token that stands for a picture")
        self.image_token_id = int(self.core.config.image_token_id)
        never = [i for i in tokenizer.convert_tokens_to_ids(list(FORBIDDEN)) if i is not None]
        self._cap: float | None = None
        self.family: Family
        if name in FAMILIES:
            self.family = QwenVL(self.core, self.path, feature_budget, compiled=compiled)
            self.conversation = Conversation(tokenizer, self.image_token_id)
        else:
            if compiled:
                raise ConfigError(
                    f"compiled is for {', '.join(sorted(FAMILIES))}; family {name!r} has no token step"
                )
            self.family = family = GenericFamily(self.core, self.path)
            tokenizer = family.pictures.tokenizer
            self.conversation = Conversation(tokenizer, family.pictures.placeholder)
            never += family.pictures.picture_tokens
        forbidden = torch.zeros(self.vocabulary_size, dtype=torch.bool)
        forbidden[never] = True
        forbidden[len(tokenizer) :] = True
        self._forbidden: torch.Tensor
        self.register_buffer("_forbidden", forbidden, persistent=False)
        tower = vision_tower(self.core)
        if freeze_vision:
            tower.requires_grad_(False)
        self.adapted = None if lora is None else add_adapter(self.core, lora)
        if freeze_vision and any(weight.requires_grad for weight in tower.parameters()):
            raise ConfigError(
                "the adapter reaches into the vision tower, which stays frozen; restrict target_modules, "
                r"as in .*language_model.*\.(q_proj|v_proj), or set freeze_vision: false"
            )
        if gradient_checkpointing:
            self.core.gradient_checkpointing_enable({"use_reentrant": False})
        self.to(device)
        if name not in FAMILIES:
            self._try()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._forbidden.device

    @property
    def patch(self) -> int:
        """Grid to which the sides of a picture have to fit. Unit: pixels."""
        return self.family.grid

    @property
    def end_of_turn(self) -> int:
        """Token that ends each turn."""
        return self.conversation.end_of_turn

    def frame(self, scene: Scene) -> tuple[int, ...]:
        """Return the overview's extent, or 1000 for each axis (see ``coordinates``)."""
        return scene.frame if self.coordinates == "pixels" else (RELATIVE_EXTENT,) * len(scene.shape)

    def prompt(self, case: Case) -> Segment:
        """Return overview, question with its options, and the invitation to speak."""
        picture = case.scene.overview().pixels
        told = _told(self.instruction, len(case.scene.shape))
        content = told.replace("{question}", asked_with_options(case))
        return Segment(self.conversation.prompt(content, self.family.picture_ids(picture)), (picture,))

    def feedback(self, view: View) -> Segment:
        """Return the pixels of a look inside ``<feedback>``, up to the next invitation to speak."""
        return Segment(self.conversation.feedback(self.family.picture_ids(view.pixels)), (view.pixels,))

    def reply(self, text: str) -> Segment:
        """Return a tool's reply inside ``<feedback>``, up to the next invitation to speak."""
        return Segment(self.conversation.reply(text))

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a turn's text; special tokens spelled out in it are plain text."""
        return self.conversation.plain(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return self.conversation.decode(token_ids)

    def start(self, segments: Sequence[Segment]) -> EpisodeDecoder:
        """Read prompts and return the state from which to write on."""
        return EpisodeDecoder(self.family.start(), self.scores, segments)

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return tempered float32 logits ``[..., V]`` of hidden states ``[..., D]``, forbidden ones -inf."""
        logits = float_logits(self.core.get_output_embeddings(), hidden)
        if self._cap is not None:
            logits = self._cap * torch.tanh(logits / self._cap)
        if self.temperature != 1:
            logits = logits / self.temperature
        return logits.masked_fill(self._forbidden, float("-inf"))

    def score(self, episodes: Sequence[Episode], *, entropy_gradient: bool = False) -> TokenScores:
        """Score the response tokens of some episodes in one teacher-forced pass.

        Logits exist only for response tokens, a chunk at a time (:func:`~.logprobs.score_tokens`).

        Args:
            episodes: The episodes.
            entropy_gradient: Whether the entropy has a gradient too.

        Returns:
            Log-probabilities and entropies ``[B, T]``, T the length of the longest episode, with gradient
            where parameters are trained.
        """
        states = self.family.hidden([Segment(tuple(e.token_ids.tolist()), e.pictures) for e in episodes])
        ids = pad_sequence([episode.token_ids for episode in episodes], batch_first=True)
        mask = pad_sequence([episode.response_mask for episode in episodes], batch_first=True)
        asked = mask[:, 1:].to(self.device)  # the state before a token is the one that predicts it
        chosen, entropy = score_tokens(
            states[:, :-1][asked],
            ids.to(self.device)[:, 1:][asked],
            self.scores,
            chunk=rows_for(self.vocabulary_size),
            entropy_gradient=entropy_gradient,
        )
        empty = torch.zeros(mask.shape, dtype=torch.float32, device=self.device)
        place = torch.nn.functional.pad(asked, (1, 0))
        return TokenScores(empty.masked_scatter(place, chosen), empty.masked_scatter(place, entropy), place)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Switch the adapter off for a while: the policy is then the one that training started from.

        Raises:
            ConfigError: If there is no adapter.
        """
        if self.adapted is None:
            raise ConfigError("the policy has no adapter that could be switched off; train with lora")
        with self.adapted.disable_adapter():
            yield

    def save(self, directory: str | Path) -> None:
        """Write a checkpoint that this class loads again: safetensors, tokenizer, processor and settings.

        An adapter is merged into the weights, so what is written needs neither the base nor peft.
        """
        target = Path(directory)
        whole = self.core if self.adapted is None else copy.deepcopy(self.adapted).merge_and_unload()
        whole.save_pretrained(target)
        self.conversation.tokenizer.save_pretrained(target)
        self.family.processor.save_pretrained(target)
        settings = {"coordinates": self.coordinates, "instruction": self.instruction}
        (target / POLICY_FILE).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    def _try(self) -> None:
        """Make sure that a family without code of its own does what is expected of all."""
        said = self.encode("left or right?")
        self._cap = logit_cap(self.core, said)
        picture = np.zeros((64, 96, 3), np.uint8)
        picture[16:, 24:] = 255
        shown = self.family.picture_ids(picture)
        prompts = [Segment(self.conversation.prompt(text, shown), (picture,)) for text in ("?", "which one?")]
        check_cache(self.family, prompts, said, self.core.config.model_type)


def _told(instruction: str, axes: int) -> str:
    """Return the instruction for a picture or a volume; one that explains no boxes is the same for both."""
    if axes == 2 or BOX_FORM not in instruction:
        return instruction
    return instruction.replace(BOX_FORM, BOX_FORM_3D) + VOLUME_NOTE
