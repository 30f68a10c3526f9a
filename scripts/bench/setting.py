"""What all measurements share: sizes, tiny policies whose turns have a fixed length, times and memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch

from medeyes_monai.geometry import Box
from medeyes_monai.policy import Decoder, HuggingFacePolicy, Segment
from medeyes_monai.policy.huggingface import FORBIDDEN
from medeyes_monai.policy.tiny import make_tiny_checkpoint
from medeyes_monai.protocol import render_answer, render_fixation
from medeyes_monai.scenes import Case, ImageScene, Scene
from medeyes_monai.trajectory import Episode, Fixation, Picture, Trajectory

Family = Literal["qwen2_5_vl", "qwen3_vl"]
Result = TypeVar("Result")

WEIGHT_SPREAD = 0.05
"""Standard deviation of the random weights: enough for distributions that are far from uniform."""
QUESTION = "Is there evidence of pneumothorax in the image?"


@dataclass(frozen=True)
class Settings:
    """How a benchmark is run.

    Args:
        work: Folder for checkpoints that the benchmark makes.
        family: Architecture of the tiny policies.
        repeats: Measurements of each figure.
        quick: Small sizes.
        tokens: Tokens of a turn, end of turn included.
        device: Device of the part ``gpu``; all others run on the CPU.
        size: Shape of the policy of the part ``gpu``.
        compiled: Compile the token step of our rollouts.
    """

    work: Path
    family: Family = "qwen2_5_vl"
    repeats: int = 5
    quick: bool = False
    tokens: int = 48
    device: str = "cpu"
    size: Literal["tiny", "3b"] = "tiny"
    compiled: bool = False

    def checkpoint(self, family: Family) -> Path:
        """Return a tiny random checkpoint, made when first asked for."""
        folder = self.work / family
        if not folder.exists():
            make_tiny_checkpoint(folder, family=family)
            policy = HuggingFacePolicy(folder)
            generator = torch.Generator().manual_seed(1)
            for parameter in policy.parameters():
                if parameter.dim() > 1:
                    parameter.data.normal_(0, WEIGHT_SPREAD, generator=generator)
            policy.save(folder)
        return folder


class PacedPolicy(HuggingFacePolicy):
    """A policy that writes turns of a fixed length and is read as looking, looking, …, answering.

    Its tokens are drawn as ever, except that a turn ends at its last token and not before. What a turn *says*
    is not what was drawn: :meth:`decode` returns a gaze at another region for each draw and turn, so that no
    two draws look at the same pixels, and an answer in the last turn.
    """

    def begin(self, *, draws: int, turns: int, tokens: int) -> None:
        """Forget the turns that were read and set what the next rollout does."""
        self.draws, self.turns, self.turn_tokens, self.turns_read = draws, turns, tokens, 0

    def start(self, segments: Sequence[Segment]) -> Decoder:
        """Read prompts and return a decoder whose turns have the set length."""
        return PacedDecoder(super().start(segments), len(segments), self.end_of_turn, self.turn_tokens)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text that the script has for this turn."""
        turn, draw = divmod(self.turns_read, self.draws)
        self.turns_read += 1
        if turn == self.turns - 1:
            return render_answer("", "yes")
        return render_fixation(Fixation("", self.region(draw, turn)))

    def watch(self, scene: Scene) -> None:
        """Set the scene whose overview is the frame of the scripted looks."""
        self.extent = scene.frame

    def region(self, draw: int, turn: int) -> Box:
        """Return a region of half the frame's sides; no two draws or turns share one."""
        half = [side // 2 for side in self.extent]
        start = ((draw * 7 + turn * 3) % half[0], (draw * 13 + turn * 5) % half[1])
        return Box(start, tuple(a + side for a, side in zip(start, half, strict=True)))


class PacedDecoder:
    """A decoder in which each turn ends at its last token and not before.

    Args:
        inner: The decoder that does the work.
        rows: Number of rows.
        end_of_turn: Token that ends a turn.
        tokens: Tokens of a turn, its end included.
    """

    def __init__(self, inner: Decoder, rows: int, end_of_turn: int, tokens: int) -> None:
        """Begin the first turn."""
        self._inner, self._end, self._tokens = inner, end_of_turn, tokens
        self._written = [0] * rows
        self._asked = list(range(rows))

    @property
    def logits(self) -> torch.Tensor:
        """The inner decoder's scores ``[n, V]`` with the end of turn forced or forbidden."""
        logits = self._inner.logits.clone()
        last = torch.tensor([self._written[row] == self._tokens - 1 for row in self._asked])
        last = last.to(logits.device)
        logits[last] = float("-inf")
        logits[:, self._end] = torch.where(last, 0.0, float("-inf"))
        return logits

    def append(self, segments: Mapping[int, Segment]) -> None:
        """Append; a segment of more than one token begins a turn."""
        self._inner.append(segments)
        self._asked = list(segments)
        for row, segment in segments.items():
            self._written[row] = self._written[row] + 1 if len(segment.token_ids) == 1 else 0

    def keep(self, rows: Sequence[int]) -> None:
        """Keep rows."""
        self._inner.keep(rows)
        self._written = [self._written[row] for row in rows]


class EndlessPolicy(HuggingFacePolicy):
    """A policy in which no token ends a turn: every turn is as long as the rollout allows."""

    @property
    def end_of_turn(self) -> int:
        """No token's number."""
        return -1


def noise_case(side: int, patch: int, number: int = 0) -> Case:
    """Return a question about noise, whose overview and looks have ``side`` pixels a side.

    The side is rounded down to the policy's grid. Each number has its own noise, so that nothing that was
    kept from one repeat can help the next.
    """
    side, key = max(1, side // patch) * patch, f"noise-{number}"
    rng = np.random.default_rng(number)
    image = rng.integers(0, 256, (3, 2 * side, 2 * side), dtype=np.uint8)
    scene = ImageScene(
        image, key=key, patch=patch, min_extent=1, overview_pixels=side**2, look_pixels=side**2
    )
    return Case(key, scene, QUESTION, "yes")


def episode_of(prompt: Segment, written: torch.Tensor, case: str = "noise-0") -> Episode:
    """Return the unscored episode of a prompt and the tokens ``[T]`` that answer it."""
    ids = torch.cat([torch.tensor(prompt.token_ids), written])
    return Episode(
        case=case,
        stream="policy",
        draw=0,
        token_ids=ids,
        response_mask=torch.arange(len(ids)) >= len(prompt.token_ids),
        behaviour_logprobs=torch.zeros(len(ids)),
        pictures=prompt.pictures,
        turns=(),
        trajectory=Trajectory(),
    )


def forbidden_tokens(policy: HuggingFacePolicy) -> list[int]:
    """Return the tokens that the policy may never write: the environment's and those without a text."""
    tokenizer = policy.conversation.tokenizer
    special: list[int] = tokenizer.convert_tokens_to_ids(list(FORBIDDEN))
    return [*special, *range(len(tokenizer), policy.vocabulary_size)]


class Vision:
    """The checkpoint's own image processor, for baselines that go past the policy.

    Args:
        checkpoint: Checkpoint directory.
    """

    def __init__(self, checkpoint: Path) -> None:
        """Load the processor."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self.processor = Qwen2VLImageProcessorPil.from_pretrained(checkpoint)

    def __call__(self, pictures: Sequence[Picture], policy: HuggingFacePolicy) -> dict[str, torch.Tensor]:
        """Return ``pixel_values`` and ``image_grid_thw`` of some pictures."""
        batch = self.processor(images=[np.array(p) for p in pictures], return_tensors="pt", do_resize=False)
        return {
            "pixel_values": batch["pixel_values"].to(policy.device, policy.core.dtype),
            "image_grid_thw": batch["image_grid_thw"].to(policy.device),
        }


@torch.no_grad()
def uncached_logprobs(
    policy: HuggingFacePolicy, vision: Vision, episode: Episode, never: Sequence[int], last: int
) -> torch.Tensor:
    """Return the log-probabilities of an episode's last tokens from one full forward without a cache.

    Args:
        policy: The policy, of which only the model of transformers is used.
        vision: The checkpoint's image processor.
        episode: The episode.
        never: Tokens that could not be drawn.
        last: Number of tokens, counted from the end.
    """
    ids = episode.token_ids[None].to(policy.device)
    logits = policy.core(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == policy.core.config.image_token_id).int(),
        use_cache=False,
        logits_to_keep=last + 1,
        **vision(episode.pictures, policy),
    ).logits[0, :-1]
    logits = logits.float()
    logits[:, list(never)] = float("-inf")
    return torch.log_softmax(logits, -1).gather(-1, ids[0, -last:, None])[:, 0].cpu()


def interleaved(
    contestants: Mapping[str, Callable[[int], Result]], repeats: int
) -> tuple[dict[str, list[float]], dict[str, Result]]:
    """Time contestants in turns, A, B, A, B, …, after one warm-up of each.

    Args:
        contestants: Functions of the number of the repeat, 0 in the warm-up.
        repeats: How often each is timed.

    Returns:
        The times of each in seconds, and what each returned last.
    """
    results = {name: run(0) for name, run in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(1, repeats + 1):
        for name, run in contestants.items():
            gc.collect()
            started = time.perf_counter()
            results[name] = run(repeat)
            times[name].append(time.perf_counter() - started)
    return times, results
