"""The limits of a GPU: decoding against memory bandwidth, the policy's update against the matrix rate.

The policy has the shape of Qwen2.5-VL-3B with random weights, bf16, and LoRA of rank 16 on every linear layer
of its language model; ``--size tiny`` runs the same code with a small shape and float32 anywhere.

Decoding: the *floor* of a step is the time to read the language model's weights and the keys and values of
all rows once, at the bandwidth of a copy (bytes read plus bytes written, over time). A step's time is the
slope between a short and a long rollout of the same questions, so that reading the prompts drops out.

Update: model FLOPs are those that forward and backward need and no others; what checkpointing computes again
is not counted. Behind a frozen weight only activations have a gradient, so a frozen weight of a matrix costs
2 FLOPs a token forward and 2 backward, a trained one 2 and 4. Attention costs ``2 T^2 D`` forward (``Q K^T``
and ``P V``, each ``2 T^2 D``, halved by the causal mask) and twice that backward, for each layer and each
episode of ``T`` tokens, ``D`` = heads x head size. The head counts at response tokens alone, the vision
tower (frozen) forward alone, once for each distinct picture, and without its attention.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from ignite.engine import Events
from monai.inferers import Inferer

from bench.process import memory_peak
from bench.results import Bound, Job, Line
from bench.setting import (
    EndlessPolicy,
    Settings,
    Vision,
    episode_of,
    forbidden_tokens,
    interleaved,
    noise_case,
    uncached_logprobs,
)
from medeyes_monai.errors import ConfigError
from medeyes_monai.rollout import rollout
from medeyes_monai.scenes import Case
from medeyes_monai.training.trainer import DualStreamGRPOTrainer
from medeyes_monai.trajectory import Episode

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
OVER_FLOOR, UTILISATION, GIGABYTES = 2.0, 0.4, 80.0


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


SMALL = Sizes(2, 2, 1, 56, short=4, long=16, episode=64, copy=2**24, matrix=512)


class Prepared(Inferer):  # type: ignore[misc]
    """Hands out episodes that are already written, of both streams.

    Args:
        episodes: The episodes.
    """

    def __init__(self, episodes: Sequence[Episode]) -> None:
        """Keep them."""
        super().__init__()
        self.episodes = episodes

    def __call__(self, inputs: Sequence[Case], network: Any, *args: Any, **kwargs: Any) -> list[Episode]:
        """Return the episodes of the questions."""
        keys = {case.key for case in inputs}
        return [episode for episode in self.episodes if episode.case in keys]


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

    def _best(self, work: Any, times: int = 20) -> float:
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


def gpu_jobs(settings: Settings) -> list[Job]:
    """Return decoding and update on the device.

    Raises:
        ConfigError: If the device is not there.
    """
    if torch.device(settings.device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda needs a CUDA device, and torch sees none; use --device cpu")
    engine = cache(lambda: Engine(settings))  # made by the first job, not before
    return [
        Job("decoding", lambda: _decoding(engine(), settings, True)),
        Job("decoding without the adapter", lambda: _decoding(engine(), settings, False)),
        Job("update", lambda: _updating(engine(), settings)),
    ]


def _decoding(engine: Engine, settings: Settings, adapter: bool) -> Iterable[Line]:
    if adapter:
        return [_decode(engine, settings, "LoRA 16 switched on")]
    with engine.policy.adapted.disable_adapter():
        return [_decode(engine, settings, "LoRA 16 switched off")]


def _decode(engine: Engine, settings: Settings, name: str) -> Line:
    sizes, policy = engine.sizes, engine.policy.train(False)

    def write(tokens: int, repeat: int) -> list[Episode]:
        episodes = rollout(
            policy,
            engine.cases,
            draws=sizes.draws,
            address=(repeat,),
            max_looks=0,
            max_turn_tokens=tokens,
        )
        engine.wait()
        return episodes

    times, results = interleaved(
        {"short": partial(write, sizes.short), "long": partial(write, sizes.long)}, settings.repeats
    )
    step = (median(times["long"]) - median(times["short"])) / (sizes.long - sizes.short)
    rows = sizes.questions * sizes.draws
    context = len(results["short"][0]) - sizes.short + (sizes.short + sizes.long) / 2
    bandwidth = engine.bandwidth()
    weights = _decoded_bytes(engine, name)
    key_values = 2 * rows * context * engine.text.num_hidden_layers * engine.text.num_key_value_heads
    key_values *= engine.head_size * engine.dtype.itemsize
    floor = (weights + key_values) / bandwidth
    return Line(
        "gpu",
        f"{settings.size}, {engine.dtype}, decode step of {rows} rows over the floor, {name}",
        step / floor,
        "x",
        ("<=", OVER_FLOOR) if settings.size == "3b" else None,
        [_logprob_check(engine, results["long"])],
        times,
        {
            "step_seconds": step,
            "floor_seconds": floor,
            "weight_bytes": weights,
            "key_value_bytes": key_values,
            "copy_bytes_per_second": bandwidth,
            "mean_context": context,
        },
    )


def _decoded_bytes(engine: Engine, name: str) -> int:
    """Return the bytes of weights that a decode step must read: every layer and the head."""
    model = engine.policy.core.model.language_model
    layers = sum(
        p.numel() * p.element_size()
        for key, p in model.named_parameters()
        if "embed_tokens" not in key and ("lora_" not in key or name.endswith("on"))
    )
    head = engine.policy.core.lm_head.weight
    return layers + head.numel() * head.element_size()


def _logprob_check(engine: Engine, episodes: Sequence[Episode]) -> Bound:
    """Compare the behaviour log-probabilities of each question's first draw with an uncached forward."""
    errors = []
    for episode in episodes[:: engine.sizes.draws]:
        expected = uncached_logprobs(
            engine.policy, engine.vision, episode, forbidden_tokens(engine.policy), engine.sizes.long
        )
        errors.append((expected - episode.behaviour_logprobs[-engine.sizes.long :]).abs())
    if engine.dtype == torch.float32:
        limit = 1e-5 if engine.device.type == "cpu" else 1e-4
        return Bound("log-prob error, largest", float(torch.stack(errors).max()), "<=", limit)
    return Bound("log-prob error, mean", float(torch.stack(errors).mean()), "<=", 0.05)


def _updating(engine: Engine, settings: Settings) -> Iterable[Line]:
    sizes, policy = engine.sizes, engine.policy
    episodes = [episode for case in engine.cases for episode in _episodes(engine, case)]
    trained = [p for p in policy.parameters() if p.requires_grad]
    trainer = DualStreamGRPOTrainer(
        policy,
        torch.optim.AdamW(trained, lr=1e-5),
        engine.cases,  # type: ignore[arg-type]  # a list is a data set
        Prepared(episodes),
        lambda episode, case: replace(episode, reward=float(episode.draw % 2)),
        epoch_length=settings.repeats + 1,
        questions=sizes.questions,
    )
    starts, times, norms = [], [], []

    def begin() -> None:
        engine.wait()
        starts.append(time.perf_counter())

    def end() -> None:
        engine.wait()
        times.append(time.perf_counter() - starts[-1])
        norms.append(trainer.state.output[0]["gradient_norm"])

    trainer.add_event_handler(Events.ITERATION_STARTED, begin)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, end)
    if engine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(engine.device)
    trainer.run()
    peak = torch.cuda.max_memory_allocated(engine.device) if engine.device.type == "cuda" else 0
    gigabytes = peak / 2**30 if peak else memory_peak() / 1024
    flops, rate = _model_flops(engine, episodes), engine.matrix_rate()
    count = f"{sizes.questions} x ({sizes.draws} + {sizes.experts}) episodes of {sizes.episode:,} tokens"
    moved = [Bound("gradient norm", min(norms), ">=", 1e-9)]
    large = settings.size == "3b"
    yield Line(
        "gpu",
        f"{settings.size}, {engine.dtype}, update of {count}, LoRA 16: model FLOPs over the matrix rate",
        flops / median(times[1:]) / rate,
        "of 1",
        (">=", UTILISATION) if large else None,
        moved,
        {"update": times[1:]},
        {"model_flops": flops, "matrix_flops_per_second": rate, "tokens": sum(map(len, episodes))},
    )
    yield Line(
        "gpu",
        f"{settings.size}, {engine.dtype}, update of {count}: peak "
        + ("of allocated device memory" if peak else "of resident memory"),
        gigabytes,
        "GiB",
        ("<=", GIGABYTES) if large else None,
        moved,
    )


def _episodes(engine: Engine, case: Case) -> list[Episode]:
    """Return random episodes of both streams whose behaviour was uniform."""
    sizes, policy = engine.sizes, engine.policy
    prompt = policy.prompt(case)
    length = sizes.episode - len(prompt.token_ids)
    words = len(policy.conversation.tokenizer)
    never = set(forbidden_tokens(policy))
    allowed = torch.tensor([token for token in range(words) if token not in never])
    found = []
    for number in range(sizes.draws + sizes.experts):
        generator = torch.Generator().manual_seed(number)
        episode = episode_of(
            prompt, allowed[torch.randint(len(allowed), (length,), generator=generator)], case.key
        )
        expert = number >= sizes.draws
        found.append(
            replace(
                episode,
                draw=number,
                stream="expert" if expert else "policy",
                behaviour_logprobs=torch.where(
                    episode.response_mask, 0.0 if expert else -math.log(len(allowed)), 0.0
                ),
            )
        )
    return found


def _model_flops(engine: Engine, episodes: Sequence[Episode]) -> float:
    """Return the FLOPs that forward and backward of an update need; the module says what is counted."""
    core = engine.policy.core
    language, tower = core.model.language_model, core.model.visual
    frozen, trained = engine.parameters(language, False), engine.parameters(language, True)
    tokens = sum(map(len, episodes))
    responses = sum(int(episode.response_mask.sum()) for episode in episodes)
    attention = 6 * sum(len(episode) ** 2 for episode in episodes)
    attention *= engine.text.num_hidden_layers * engine.text.num_attention_heads * engine.head_size
    patches = sum(
        case.scene.overview().pixels.size // 3 // core.config.vision_config.patch_size**2
        for case in engine.cases
    )
    return (
        (4 * frozen + 6 * trained) * tokens
        + 4 * core.lm_head.weight.numel() * responses
        + attention
        + 2 * engine.parameters(tower, False) * patches
    )


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
