"""A policy from any checkpoint directory or hub name: Qwen-VL families on the fast path, others beside it."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from medeyes_monai.errors import CheckpointError, ConfigError
from medeyes_monai.policy.adapters import (
    ADAPTER_CONFIG,
    Survival,
    add_adapter,
    base_digest,
    check_quantization,
    load_adapter,
    merge_layers,
    reload_adapter,
    save_adapter,
)
from medeyes_monai.policy.base import Segment, TokenScores
from medeyes_monai.policy.conversation import Conversation
from medeyes_monai.policy.decoding import EpisodeDecoder
from medeyes_monai.policy.family import Family
from medeyes_monai.policy.finite import check_finite
from medeyes_monai.policy.generic import GenericFamily
from medeyes_monai.policy.loading import FLASH, check_checkpoint, find_sources, load_core, vision_tower
from medeyes_monai.policy.logprobs import rows_for, score_tokens
from medeyes_monai.policy.precision import float_logits, warn_if_slow
from medeyes_monai.policy.qwen_vl import QwenVL
from medeyes_monai.policy.settings import (
    POLICY_FILE,
    Coordinates,
    DType,
    PolicySettings,
    acting_settings,
    report_overrides,
)
from medeyes_monai.policy.trial import check_reading, logit_cap
from medeyes_monai.scenes import Case, Scene, View
from medeyes_monai.trajectory import Episode

__all__ = ["INSTRUCTION", "RELATIVE_EXTENT", "HuggingFacePolicy", "asked_with_options"]

logger = logging.getLogger(__name__)

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
        path: Checkpoint directory or hub name, or the directory of an adapter, which names its base.
        revision: Revision of a hub name; None for the newest.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``; None for the type that is stored with the
            policy's settings, or else that of the checkpoint.
        attention: Attention implementation of transformers: ``"sdpa"``, ``"eager"``, or
            ``"flash_attention_2"`` for the vision tower.
        quantization_config: Arguments of ``transformers.BitsAndBytesConfig``, such as
            ``{load_in_4bit: true}``, for a quantised base below an adapter; None for none.
        lora: Arguments of ``peft.LoraConfig``; None trains the model itself. Without ``target_modules``, all
            linear layers of the language model are adapted. With an adapter, it is trained on.
        adapter: Directory of an adapter of peft that is laid over ``path``; None for none.
        freeze_vision: Leave the vision tower as it is; its output is kept for every pass where the projector
            behind it is frozen too, as with ``lora``.
        gradient_checkpointing: Compute each layer's states again in backward instead of keeping them.
        temperature: Softmax temperature, in sampling and in training alike.
        coordinates: ``"pixels"`` of the overview or ``"relative"`` (0 to 1000); None takes the stored setting
            or the family's convention.
        instruction: Prompt with ``{question}`` in it; None takes the stored one or :data:`INSTRUCTION`.
        image_tokens: Most tokens of one picture in families without code of their own, which read a picture
            as one tile; None takes the stored setting or 1,024. Their processor is set to it, and saved so.
        compiled: Compile the step that writes one token for each row (Qwen-VL families; see
            :class:`~medeyes_monai.policy.token_step.TokenStep`).
        feature_budget: What is kept at most of the vision tower's output. Unit: bytes.
        device: Where the weights are put.

    Raises:
        ConfigError: If the directory has no weights, no tokenizer or no image processor, the family is not
            supported, or an argument does not fit.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        revision: str | None = None,
        dtype: DType | None = None,
        attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
        quantization_config: Mapping[str, Any] | None = None,
        lora: Mapping[str, Any] | None = None,
        adapter: str | Path | None = None,
        freeze_vision: bool = True,
        gradient_checkpointing: bool = False,
        temperature: float = 1.0,
        coordinates: Coordinates | None = None,
        instruction: str | None = None,
        image_tokens: int | None = None,
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
        if attention not in ("sdpa", "eager", FLASH):
            raise ConfigError(f"attention must be 'sdpa', 'eager' or {FLASH!r}; got {attention!r}")
        if quantization_config is not None and lora is None and adapter is None:
            raise ConfigError("a quantised base is trained by an adapter only; give lora as well")
        self.path, source = str(path), find_sources(str(path), revision, adapter)
        self.base, self.revision = source.base, source.revision
        stored = source.settings or PolicySettings()
        stored = stored.over(
            coordinates=coordinates, instruction=instruction, dtype=dtype, image_tokens=image_tokens
        )
        quantization = check_quantization(quantization_config, torch.device(device))
        check_checkpoint(self.base, self.revision)
        tokenizer, self.core = load_core(
            self.base,
            stored.dtype,
            attention,
            revision=self.revision,
            quantization=quantization,
            device=torch.device(device),
        )
        name = self.core.config.model_type
        self.coordinates: Coordinates = stored.coordinates or FAMILIES.get(name, "relative")
        self.instruction: str = stored.instruction or INSTRUCTION
        warn_if_slow(self.core.dtype, torch.device(device))
        self._stored = stored.over(dtype=str(self.core.dtype).removeprefix("torch."))
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
            self.family = QwenVL(self.core, self.base, feature_budget, compiled=compiled)
            self.conversation = Conversation(tokenizer, self.image_token_id)
        else:
            if compiled:
                raise ConfigError(
                    f"compiled is for {', '.join(sorted(FAMILIES))}; family {name!r} has no token step"
                )
            self.family = family = GenericFamily(self.core, self.base, feature_budget, stored.image_tokens)
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
        self._base_digest = base_digest(self.core)
        if None not in (source.digest, self._base_digest) and source.digest != self._base_digest:
            raise ConfigError(
                f"adapter {source.adapter}: was trained on another base than {self.base}, whose weights "
                "differ; give the base that it was trained on"
            )
        self.adapted: Any = None
        if source.adapter is not None:
            self.adapted = load_adapter(
                self.core,
                source.adapter,
                trainable=lora is not None,
                named=self.base if source.digest is None else None,
            )
            _check_same_adapter(self.adapted, lora, source.adapter)
        elif lora is not None:
            self.adapted = add_adapter(self.core, lora, tower)
        if self.adapted is not None:
            _check_tower(tower, freeze_vision, trained=lora is not None)
        if gradient_checkpointing:
            self.core.gradient_checkpointing_enable({"use_reentrant": False})
        if quantization is None:
            self.to(device)
        else:  # transformers has put the weights there
            self._forbidden = self._forbidden.to(device)
        if isinstance(self.family, GenericFamily):
            self._try(self.family)

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
        logits = self._logits(hidden)
        if self.temperature != 1:
            logits = logits / self.temperature
        return logits.masked_fill(self._forbidden, float("-inf"))

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the model's own logits ``[..., V]`` in float32."""
        logits = float_logits(self.core.get_output_embeddings(), hidden)
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

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

    @property
    def settings(self) -> PolicySettings:
        """What travels with the weights: stored with them, or given when they were loaded."""
        return replace(self._stored, coordinates=self.coordinates, instruction=self.instruction)

    def report_overrides(self, scene: Callable[..., Any], inferer: Any) -> list[str]:
        """Log each size and limit of a scene and an inferer that is not the policy's own; return the names.

        Args:
            scene: Makes scenes of images.
            inferer: Draws episodes.
        """
        return report_overrides(self.settings, scene, inferer)

    def save(
        self, directory: str | Path, *, scene: Callable[..., Any] | None = None, inferer: Any = None
    ) -> None:
        """Write what this class loads again: the adapter alone where there is one, else the checkpoint.

        Files of an earlier save in the same directory are replaced once everything is written.

        Args:
            directory: The directory; it is made.
            scene: Makes the scenes that the policy was trained on, whose sizes are stored; None stores the
                policy's settings.
            inferer: Drew the episodes that it was trained on, whose limits are stored; given with ``scene``.

        Raises:
            CheckpointError: If weights are not finite; nothing is written.
        """
        check_finite(dict(self.named_parameters()), f"the policy {self.path}")
        settings = self.settings
        if scene is not None:
            settings = acting_settings(settings, scene, inferer)
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target, prefix=".writing-"))
        try:
            more: dict[str, Any] = {}
            if self.adapted is None:
                self.core.save_pretrained(temporary)
                self.conversation.tokenizer.save_pretrained(temporary)
                self.family.processor.save_pretrained(temporary)
            else:
                base = str(Path(self.base).resolve()) if Path(self.base).is_dir() else self.base
                save_adapter(self.adapted, temporary, base, self.revision)
                more = {"base": {"name": base, "revision": self.revision, "digest": self._base_digest}}
            (temporary / POLICY_FILE).write_text(settings.to_json(**more), encoding="utf-8")
            _replace_files(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._stored = settings

    @torch.no_grad()
    def reload(self, directory: str | Path) -> None:
        """Replace the weights by what a directory holds, so that what follows is done by what was saved.

        Args:
            directory: Where :meth:`save` has written.

        Raises:
            CheckpointError: If the weights there are not those of this policy's shape.
            ConfigError: If the directory cannot be loaded.
        """
        if self.adapted is not None:
            reload_adapter(self.adapted, directory)
            return
        _, read = load_core(str(directory), self._stored.dtype, "sdpa")
        mine, stored = dict(self.core.named_parameters()), dict(read.named_parameters())
        if {n: w.shape for n, w in mine.items()} != {n: w.shape for n, w in stored.items()}:
            raise CheckpointError(f"{directory}: holds the weights of another policy than the live one")
        for key, weight in mine.items():
            weight.copy_(stored[key])

    def merge(self, dtype: DType | None = None) -> Survival:
        """Merge the adapter into the weights, in float32 and layer by layer; the policy has none afterwards.

        Args:
            dtype: Type of the weights afterwards; None keeps it.

        Returns:
            How much of the update survived the cast.

        Raises:
            ConfigError: If there is no adapter, or it cannot be merged.
        """
        if self.adapted is None:
            raise ConfigError(f"policy {self.path}: has no adapter that could be merged")
        wanted = self._stored.over(dtype=dtype)
        self.core, survival = merge_layers(self.adapted, getattr(torch, str(wanted.dtype)))
        self.adapted, self._stored = None, wanted
        return survival

    def _try(self, family: GenericFamily) -> None:
        """Make sure that a family without code of its own does what is expected of all."""
        said = self.encode("left or right?")
        self._cap = logit_cap(self.core, said)
        rows = []
        for question, shape in (("?", (64, 96, 3)), ("which one?", (96, 48, 3))):
            picture = np.zeros(shape, np.uint8)
            picture[16:, 24:] = 255
            prompt = self.conversation.prompt(question, family.picture_ids(picture))
            look = picture[8:40, 8:40]
            shown = (self.end_of_turn, *self.conversation.feedback(family.picture_ids(look)))
            rows.append((Segment(prompt, (picture,)), Segment(shown, (look,))))
        check_reading(family, self._logits, rows, said)
        sides = [isqrt(pixels) for pixels in (self._stored.overview_pixels, self._stored.look_pixels)]
        tokens = [len(family.picture_ids(np.zeros((side, side, 3), np.uint8))) for side in sides]
        logger.info(
            f"policy {self.path}: an overview of {sides[0]}x{sides[0]} pixels has {tokens[0]} tokens, a look "
            f"of {sides[1]}x{sides[1]} has {tokens[1]}; a picture has at most {self._stored.image_tokens}"
        )


def _told(instruction: str, axes: int) -> str:
    """Return the instruction for a picture or a volume; one that explains no boxes is the same for both."""
    if axes == 2 or BOX_FORM not in instruction:
        return instruction
    return instruction.replace(BOX_FORM, BOX_FORM_3D) + VOLUME_NOTE


def _check_same_adapter(adapted: Any, lora: Mapping[str, Any] | None, directory: Path) -> None:
    """Refuse arguments of a LoRA that are not those of the adapter that is trained on."""
    config = adapted.peft_config["default"]
    for name in ("r", "lora_alpha"):
        if lora is not None and lora.get(name, getattr(config, name)) != getattr(config, name):
            raise ConfigError(
                f"adapter {directory}: has {name} {getattr(config, name)}, lora asks for {lora[name]}; an "
                "adapter that is trained on keeps its own"
            )


def _check_tower(tower: torch.nn.Module, freeze: bool, *, trained: bool) -> None:
    """Make sure that an adapter trains the vision tower where it is to be trained, and nowhere else."""
    reached = any(weight.requires_grad for weight in tower.parameters())
    if freeze and reached:
        raise ConfigError(
            "the adapter reaches into the vision tower, which stays frozen; leave target_modules out, which "
            "adapts the language model alone, or set freeze_vision: false"
        )
    if trained and not freeze and not reached:
        raise ConfigError(
            "freeze_vision is false, but an adapter freezes everything that it does not reach; name layers "
            "of the vision tower in target_modules, or set freeze_vision: true"
        )


def _replace_files(source: Path, target: Path) -> None:
    """Move files over those of an earlier save, and drop weights of it that are not among them."""
    files = [file for file in source.iterdir() if file.is_file()]
    names = {file.name for file in files}
    for file in files:
        file.replace(target / file.name)
    for pattern in ("*.safetensors", "*.safetensors.index.json", ADAPTER_CONFIG):
        for old in target.glob(pattern):
            if old.name not in names:
                old.unlink()
