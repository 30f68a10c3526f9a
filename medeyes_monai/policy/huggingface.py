"""A policy of the Qwen2.5-VL or Qwen3-VL family, from any checkpoint directory or hub name."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.base import Segment, TokenScores
from medeyes_monai.policy.conversation import Conversation
from medeyes_monai.policy.decoding import CachedDecoder
from medeyes_monai.scenes import Case, Scene, View
from medeyes_monai.trajectory import Episode, Picture

__all__ = ["INSTRUCTION", "HuggingFacePolicy"]

Coordinates = Literal["pixels", "relative"]
FAMILIES: dict[str, Coordinates] = {"qwen2_5_vl": "pixels", "qwen3_vl": "relative"}
"""Supported values of ``model_type``, and the frame in which each family was trained to write boxes."""
RELATIVE_EXTENT = 1000
"""Extent of every axis for families that write relative coordinates."""
POLICY_FILE = "policy_config.json"
"""Optional file in a checkpoint directory with the defaults of ``coordinates`` and ``instruction``."""
FORBIDDEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
"""Tokens that only the environment may write."""
INSTRUCTION = (
    "{question}\n"
    "Before each step, think inside <reasoning></reasoning>. Then either look closer at one region with "
    '<action>{"name":"Gaze","coordinate":[x1,y1,x2,y2]}</action> and you will be shown its pixels, or '
    "finish with <answer></answer>."
)
"""What a general checkpoint is told about the protocol, around the question."""


class HuggingFacePolicy(torch.nn.Module):
    """A vision-language model of transformers as a :class:`~medeyes_monai.policy.Policy`.

    Works without torchvision, loads safetensors only, and never runs code that comes with a checkpoint.

    Args:
        path: Checkpoint directory or hub name.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        attention: Attention implementation of transformers, e.g. ``"sdpa"`` or ``"flash_attention_2"``.
        lora: Arguments of ``peft.LoraConfig``; None trains the model itself.
        freeze_vision: Leave the vision tower as it is.
        temperature: Softmax temperature, in sampling and in training alike.
        coordinates: ``"pixels"`` of the overview or ``"relative"`` (0 to 1000); None takes the checkpoint's
            ``policy_config.json`` or the family's convention.
        instruction: Prompt with ``{question}`` in it; None takes the checkpoint's or :data:`INSTRUCTION`.
        device: Where the weights are put.

    Raises:
        ConfigError: If the directory has no weights, no tokenizer or no image processor, the family is not
            supported, or an argument does not fit.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        attention: str = "sdpa",
        lora: Mapping[str, Any] | None = None,
        freeze_vision: bool = True,
        temperature: float = 1.0,
        coordinates: Coordinates | None = None,
        instruction: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        """Load the checkpoint."""
        super().__init__()
        if temperature <= 0:
            raise ConfigError(
                f"temperature must be above 0, got {temperature}; for greedy answers ask the rollout"
            )
        self.path = str(path)
        _check_checkpoint(self.path)
        tokenizer, self._processor, self.core = _load(self.path, dtype, attention)
        stored = _stored_settings(self.path)
        family = self.core.config.model_type
        self.coordinates: Coordinates = coordinates or stored.get("coordinates", FAMILIES[family])
        self.instruction: str = instruction or stored.get("instruction", INSTRUCTION)
        if self.coordinates not in ("pixels", "relative") or "{question}" not in self.instruction:
            raise ConfigError(
                "coordinates must be 'pixels' or 'relative' and instruction must hold {question}; "
                f"got {self.coordinates!r} and {self.instruction!r}"
            )
        self.temperature = temperature
        self.image_token_id = int(self.core.config.image_token_id)
        self.conversation = Conversation(tokenizer, self.image_token_id)
        self.pad_token_id = int(tokenizer.pad_token_id)
        self.patch: int = self._processor.patch_size * self._processor.merge_size
        self.vocabulary_size = int(self.core.config.get_text_config().vocab_size)
        forbidden = torch.zeros(self.vocabulary_size, dtype=torch.bool)
        forbidden[[i for i in tokenizer.convert_tokens_to_ids(list(FORBIDDEN)) if i is not None]] = True
        forbidden[len(tokenizer) :] = True
        self._forbidden: torch.Tensor
        self.register_buffer("_forbidden", forbidden, persistent=False)
        if freeze_vision:
            self.core.model.visual.requires_grad_(False)
        self.adapted = None if lora is None else _with_adapter(self.core, lora)
        self.to(device)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._forbidden.device

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
        question = case.question
        if case.options:
            listed = "\n".join(f"{chr(65 + n)}. {option}" for n, option in enumerate(case.options))
            question = f"{question}\n{listed}"
        content = self.instruction.replace("{question}", question)
        return Segment(self.conversation.prompt(content, self._image_tokens(picture)), (picture,))

    def feedback(self, view: View) -> Segment:
        """Return the pixels of a look inside ``<feedback>``, up to the next invitation to speak."""
        return Segment(self.conversation.feedback(self._image_tokens(view.pixels)), (view.pixels,))

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a turn's text; special tokens spelled out in it are plain text."""
        return self.conversation.plain(text)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return self.conversation.decode(token_ids)

    def start(self, segments: Sequence[Segment]) -> CachedDecoder:
        """Read prompts and return the state from which to write on."""
        return CachedDecoder(self, segments)

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return tempered float32 logits ``[..., V]`` of hidden states ``[..., D]``, forbidden ones -inf."""
        logits: torch.Tensor = self.core.lm_head(hidden).float() / self.temperature
        return logits.masked_fill(self._forbidden, float("-inf"))

    def score(self, episodes: Sequence[Episode]) -> TokenScores:
        """Score the response tokens of some episodes in one teacher-forced pass.

        Returns:
            Log-probabilities and entropies ``[B, T]``, T the length of the longest episode, with gradient
            where parameters are trained.
        """
        longest = max(len(episode) for episode in episodes)
        ids = torch.full((len(episodes), longest), self.pad_token_id)
        attention, mask = torch.zeros_like(ids), torch.zeros(ids.shape, dtype=torch.bool)
        for row, episode in enumerate(episodes):
            ids[row, : len(episode)] = episode.token_ids
            attention[row, : len(episode)] = 1
            mask[row, : len(episode)] = episode.response_mask
        ids, attention, mask = ids.to(self.device), attention.to(self.device), mask.to(self.device)
        pixels, grids = self.patches([picture for episode in episodes for picture in episode.pictures])
        output = self.core.model(
            input_ids=ids,
            attention_mask=attention,
            pixel_values=pixels,
            image_grid_thw=grids,
            mm_token_type_ids=((ids == self.image_token_id) & attention.bool()).int(),
            use_cache=False,
        )
        asked = mask[:, 1:]  # the state before a token is the one that predicts it
        distribution = torch.log_softmax(self.scores(output.last_hidden_state[:, :-1][asked]), dim=-1)
        chosen = distribution.gather(-1, ids[:, 1:][asked][:, None])[:, 0]
        possible = distribution.masked_fill(self._forbidden, 0.0)
        entropy = -(possible.exp().masked_fill(self._forbidden, 0.0) * possible).sum(-1)
        empty = torch.zeros(ids.shape, dtype=torch.float32, device=self.device)
        place = torch.nn.functional.pad(asked, (1, 0))
        return TokenScores(empty.masked_scatter(place, chosen), empty.masked_scatter(place, entropy), place)

    def patches(self, pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the vision tower's input for some pictures: patches ``[P, F]`` and grids ``[N, 3]``."""
        images = [Image.fromarray(np.ascontiguousarray(picture)) for picture in pictures]
        batch = self._processor(images=images, return_tensors="pt", do_resize=False)
        return (
            batch["pixel_values"].to(self.device, self.core.dtype),
            batch["image_grid_thw"].to(self.device),
        )

    def save(self, directory: str | Path) -> None:
        """Write a checkpoint that this class loads again: safetensors, tokenizer, processor and settings.

        An adapter is merged into the weights, so what is written needs neither the base nor peft.
        """
        target = Path(directory)
        whole = self.core if self.adapted is None else copy.deepcopy(self.adapted).merge_and_unload()
        whole.save_pretrained(target)
        self.conversation.tokenizer.save_pretrained(target)
        self._processor.save_pretrained(target)
        settings = {"coordinates": self.coordinates, "instruction": self.instruction}
        (target / POLICY_FILE).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")

    def _image_tokens(self, picture: Picture) -> int:
        rows, columns = picture.shape[:2]
        if rows % self.patch or columns % self.patch:
            raise ConfigError(
                f"a picture of {columns}x{rows} pixels does not fit the policy's grid of {self.patch} "
                f"pixels; set patch: {self.patch} on the scene"
            )
        return int(rows // self.patch) * int(columns // self.patch)


def _check_checkpoint(path: str) -> None:
    """Say what a local directory lacks before transformers guesses."""
    directory = Path(path)
    if not directory.exists() and path.count("/") == 1 and not path.startswith((".", "/", "~")):
        return  # a hub name
    if not directory.is_dir():
        raise ConfigError(
            f"policy {path}: no such directory; give a checkpoint directory or a hub name 'owner/name'"
        )
    missing = [name for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json")
               if not (directory / name).is_file()]  # fmt: skip
    if not list(directory.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise ConfigError(
            f"policy {path}: the directory lacks {', '.join(missing)}; copy the whole checkpoint"
        )


def _with_adapter(core: Any, lora: Mapping[str, Any]) -> Any:
    """Put trainable low-rank layers into a model, in place, and freeze everything else."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(core, LoraConfig(**lora))


def _load(path: str, dtype: str, attention: str) -> tuple[Any, Any, Any]:
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"dtype must be float32, bfloat16 or float16, got {dtype!r}")
    try:
        family = AutoConfig.from_pretrained(path).model_type
        if family not in FAMILIES:
            raise ConfigError(
                f"policy {path}: family {family!r} is not supported; supported: {', '.join(sorted(FAMILIES))}"
            )
        tokenizer = AutoTokenizer.from_pretrained(path)
        processor = Qwen2VLImageProcessorPil.from_pretrained(path)
        model = AutoModelForImageTextToText.from_pretrained(
            path, dtype=getattr(torch, dtype), attn_implementation=attention, use_safetensors=True
        )
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ConfigError(f"policy {path}: cannot be loaded ({error})") from error
    return tokenizer, processor, model


def _stored_settings(path: str) -> dict[str, Any]:
    file = Path(path) / POLICY_FILE
    if not file.is_file():
        return {}
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ConfigError(
            f"{file}: is not a JSON object; write one with coordinates and instruction"
        ) from error
