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
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from statistics import median
from typing import Any

import torch
from ignite.engine import Events
from monai.inferers import Inferer

from bench.gpu_engine import Engine
from bench.process import memory_peak
from bench.results import Bound, Job, Line
from bench.setting import (
    Settings,
    episode_of,
    forbidden_tokens,
    interleaved,
    uncached_logprobs,
)
from medeyes_monai.errors import ConfigError
from medeyes_monai.rollout import rollout
from medeyes_monai.scenes import Case
from medeyes_monai.training.trainer import DualStreamGRPOTrainer
from medeyes_monai.trajectory import Episode

OVER_FLOOR, UTILISATION, GIGABYTES = 2.0, 0.4, 80.0


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
    with nullcontext() if adapter else engine.policy.adapted.disable_adapter():
        return [_decode(engine, settings, adapter)]


def _decode(engine: Engine, settings: Settings, adapter: bool) -> Line:
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
    weights = _decoded_bytes(engine, adapter)
    key_values = 2 * rows * context * engine.text.num_hidden_layers * engine.text.num_key_value_heads
    key_values *= engine.head_size * engine.dtype.itemsize
    floor = (weights + key_values) / bandwidth
    return Line(
        "gpu",
        f"{settings.size}, {engine.dtype}, decode step of {rows} rows over the floor, LoRA 16 "
        + ("switched on" if adapter else "switched off"),
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


def _decoded_bytes(engine: Engine, adapter: bool) -> int:
    """Return the bytes of weights that a decode step must read: every layer and the head."""
    model = engine.policy.core.model.language_model
    layers = sum(
        p.numel() * p.element_size()
        for key, p in model.named_parameters()
        if "embed_tokens" not in key and (adapter or "lora_" not in key)
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
