"""Rollouts of a policy of 135 M parameters with an adapter: bfloat16 weights against float32.

The language model has the shape of SmolLM2-135M and random weights; the adapter is of rank 16 on each of its
linear maps, in float32. Besides the time, it measures how far the log-probabilities of fresh episodes are
from those of the pass that scores them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.results import Bound, Job, Line
from bench.rollouts import Bench, Work
from bench.setting import Settings, interleaved
from medeyes_monai.policy.loading import DType
from medeyes_monai.trajectory import Episode

FASTER = 1.5
"""Target of the time in float32 over that with bfloat16 weights."""
MEAN_LOG_RATIO, LARGEST_LOG_RATIO = 0.02, 1e-4
"""Limits of the absolute log ratio: its mean in bfloat16, its largest value in float32."""
ADAPTER = {
    "r": 16,
    "lora_alpha": 32,
    "target_modules": r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
}
DELTA = 0.003
"""Standard deviation of the adapter's second factors: it changes the weights by 1 or 2 %."""
SHAPE = {
    "vocab_size": 49_280, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
}  # fmt: skip
QUICK = SHAPE | {
    "vocab_size": 4_096, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
}  # fmt: skip


@dataclass
class Contestant:
    """One way to hold the weights.

    Args:
        bench: Rolls out.
        autocast: Whether passes are under bfloat16 autocast.
        cpu: CPU time of each rollout. Unit: seconds.
    """

    bench: Bench
    autocast: bool
    cpu: list[float] = field(default_factory=list)

    def context(self) -> Any:
        """Return the context of a pass."""
        return torch.autocast("cpu", torch.bfloat16) if self.autocast else nullcontext()

    def roll_out(self, cases: Sequence[Any], work: Work, repeat: int) -> list[Episode]:
        """Write the episodes of a repeat."""
        started = time.process_time()
        with self.context():
            episodes = self.bench.ours(cases, work, repeat)
        self.cpu.append(time.process_time() - started)
        return episodes

    @torch.no_grad()
    def log_ratios(self, episodes: Sequence[Episode]) -> torch.Tensor:
        """Return the log ratio of each token that was drawn freely: scored over drawn."""
        policy = self.bench.policy
        found = []
        with self.context():
            for episode in episodes:
                free = episode.response_mask & (episode.token_ids != policy.end_of_turn)
                found.append((policy.score([episode]).logprobs[0] - episode.behaviour_logprobs)[free])
        return torch.cat(found)


def precision_jobs(settings: Settings) -> list[Job]:
    """Return the comparison."""
    return [Job("rollout in bfloat16", partial(_compare, settings))]


def _compare(settings: Settings) -> Iterable[Line]:
    checkpoint = _checkpoint(settings)
    kinds: dict[str, tuple[DType, bool]] = {
        "bfloat16": ("bfloat16", False),
        "float32": ("float32", False),
        "bfloat16 under autocast": ("bfloat16", True),
        "float32 under autocast": ("float32", True),
    }
    contestants = {
        name: Contestant(_bench(checkpoint, dtype, settings.compiled), autocast)
        for name, (dtype, autocast) in kinds.items()
    }
    work = Work(56 if settings.quick else 224, draws=2 if settings.quick else 8, tokens=settings.tokens)
    cases = contestants["float32"].bench.cases(work, settings.repeats)
    runs: dict[str, Callable[[int], list[Episode]]] = {
        name: partial(one.roll_out, cases, work) for name, one in contestants.items()
    }
    times, episodes = interleaved(runs, settings.repeats)
    ratios = {name: one.log_ratios(episodes[name]) for name, one in contestants.items()}
    checks = [
        Bound("mean |log ratio| in bfloat16", float(ratios["bfloat16"].abs().mean()), "<=", MEAN_LOG_RATIO),
        Bound(
            "largest |log ratio| in float32", float(ratios["float32"].abs().max()), "<=", LARGEST_LOG_RATIO
        ),
    ]
    for name, one in contestants.items():
        cpu, some = one.cpu[1:], ratios[name]
        yield Line(
            "precision",
            f"rollout with an adapter, {work.draws} draws, {work.turns} turns: time in float32 over {name}",
            median(times["float32"]) / median(times[name]),
            "x",
            (">=", FASTER) if name == "bfloat16" else None,
            checks if name == "bfloat16" else (),
            {name: times[name], "float32": times["float32"]},
            {
                "cpu_seconds": cpu,
                "cpu_time_in_float32_over_it": median(contestants["float32"].cpu[1:]) / median(cpu),
                "spread": [min(times[name]), median(times[name]), max(times[name])],
                "tokens_per_second": work.written / median(times[name]),
                "mean_abs_log_ratio": float(some.abs().mean()),
                "largest_ratio": float(some.abs().max().exp()),
                "tokens_compared": len(some),
            },
        )


def _bench(checkpoint: Path, dtype: DType, compiled: bool) -> Bench:
    """Return a policy with an adapter that acts; only the bench ends a turn."""
    bench = Bench(checkpoint, compiled, dtype=dtype, lora=ADAPTER)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in bench.policy.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, DELTA, generator=generator)
    bench.policy._forbidden[bench.policy.end_of_turn] = True
    return bench


def _checkpoint(settings: Settings) -> Path:
    from transformers import AutoConfig, AutoModelForImageTextToText

    folder = settings.work / "precision"
    source = settings.checkpoint("qwen2_5_vl")
    shutil.copytree(source, folder)
    config = AutoConfig.from_pretrained(source)
    text: Any = config.get_text_config()
    for name, value in (QUICK if settings.quick else SHAPE).items():
        setattr(text, name, value)
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    half = text.head_dim // 2
    text.rope_parameters = text.rope_parameters | {"mrope_section": [half // 4, half * 3 // 8, half * 3 // 8]}
    config.vision_config.out_hidden_size = text.hidden_size
    text.initializer_range = text.hidden_size**-0.5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return folder
