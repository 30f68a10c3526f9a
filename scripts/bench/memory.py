"""Peak memory of the pass that scores tokens, with a large vocabulary; each size in a fresh process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.process import in_fresh_process, memory_now, memory_peak
from bench.results import Bound, Job, Line
from bench.setting import (
    WEIGHT_SPREAD,
    Settings,
    Vision,
    episode_of,
    forbidden_tokens,
    noise_case,
    uncached_logprobs,
)
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.trajectory import Episode

VOCABULARY, TOKENS, EPISODES = 152_000, 1024, (2, 4, 8, 16)
GIGABYTES = 1.2
"""Target at 16 episodes. Unit: GiB of resident memory."""
FLAT = 1.25
"""Most that the peak at the largest number of episodes may be of that at the smallest."""
LOGPROB_LIMIT = 1e-5
CHECKED = 16
"""Tokens of the first episode whose log-probability is compared with a full softmax."""


def memory_jobs(settings: Settings) -> list[Job]:
    """Return one job for each number of episodes, and how flat the peak is over them."""
    episodes = (2,) if settings.quick else EPISODES
    found: dict[int, dict[str, Any]] = {}
    jobs = [
        Job(f"memory of {number} episodes", partial(_measure, settings, number, found)) for number in episodes
    ]
    return [*jobs, Job("memory over episodes", partial(_flatness, found))]


def _measure(settings: Settings, episodes: int, found: dict[int, dict[str, Any]]) -> Iterable[Line]:
    vocabulary, tokens = (8000, 64) if settings.quick else (VOCABULARY, TOKENS)
    checkpoint = str(_checkpoint(settings, vocabulary))
    found[episodes] = one = in_fresh_process(
        "score", {"checkpoint": checkpoint, "episodes": episodes, "tokens": tokens}
    )
    yield Line(
        "memory",
        f"peak of scoring with gradient, {vocabulary:,} words, {episodes} x {tokens:,} tokens",
        one["peak_mib"] / 1024,
        "GiB",
        ("<=", GIGABYTES) if episodes == EPISODES[-1] else None,
        _checks([one]),
        {"score and backward": [one["seconds"]]},
        one | {"axis": "episodes", "at": episodes},
    )


def _flatness(found: Mapping[int, Mapping[str, Any]]) -> Iterable[Line]:
    fewest, most = min(found), max(found)
    for name, key, target in (("peak", "peak_mib", FLAT), ("growth after loading", "growth_mib", None)):
        yield Line(
            "memory",
            f"{name} at {most} episodes over {fewest}",
            found[most][key] / found[fewest][key],
            "x",
            None if target is None else ("<=", target),
            _checks(list(found.values())),
            detail={str(number): one[key] for number, one in found.items()},
        )


def _checks(found: Sequence[Mapping[str, Any]]) -> list[Bound]:
    return [
        Bound("log-prob error", max(one["error"] for one in found), "<=", LOGPROB_LIMIT),
        Bound("gradient norm", min(one["gradient_norm"] for one in found), ">=", 1e-6),
    ]


def _checkpoint(settings: Settings, vocabulary: int) -> Path:
    """Return a checkpoint with a tiny hidden state and a large vocabulary, made when first asked for."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    folder = settings.work / f"vocabulary-{vocabulary}"
    if folder.exists():
        return folder
    source = settings.checkpoint("qwen2_5_vl")
    shutil.copytree(source, folder)
    config = AutoConfig.from_pretrained(source)
    text: Any = config.get_text_config()
    text.vocab_size, text.hidden_size, text.intermediate_size, text.num_hidden_layers = vocabulary, 64, 128, 2
    text.num_attention_heads, text.num_key_value_heads, text.layer_types = 2, 1, text.layer_types[:2]
    text.initializer_range = WEIGHT_SPREAD
    config.vision_config.out_hidden_size = 64
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return folder


def score_child(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Score some episodes and go back through it; return peaks, time and errors."""
    checkpoint = Path(arguments["checkpoint"])
    policy = HuggingFacePolicy(checkpoint)
    episodes = _episodes(policy, arguments["episodes"], arguments["tokens"])
    before = memory_now()
    started = time.perf_counter()
    policy.train(True)
    scores = policy.score(episodes)
    (-scores.logprobs.sum() / scores.response_mask.sum()).backward()
    seconds = time.perf_counter() - started
    peak = memory_peak()
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    expected = uncached_logprobs(
        policy.train(False), Vision(checkpoint), episodes[0], forbidden_tokens(policy), CHECKED
    )
    length = len(episodes[0])
    return {
        "peak_mib": peak,
        "growth_mib": peak - before,
        "seconds": seconds,
        "gradient_norm": float(torch.stack([gradient.norm() for gradient in gradients]).norm()),
        "error": float((scores.logprobs[0, length - CHECKED : length].detach() - expected).abs().max()),
    }


def _episodes(policy: HuggingFacePolicy, number: int, tokens: int) -> list[Episode]:
    prompt = policy.prompt(noise_case(56, policy.patch))
    words = torch.tensor(policy.encode("0 1 2 3 4 5 6 7 8 9 the quick brown fox jumps over a lazy dog"))
    drawn = torch.randint(len(words), (number, tokens), generator=torch.Generator().manual_seed(0))
    return [episode_of(prompt, words[row]) for row in drawn]
