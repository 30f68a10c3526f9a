"""One whole GRPO step, single turn, against TRL's ``GRPOTrainer`` (extra ``bench``).

Both trainers start from the same tiny Qwen2.5-VL checkpoint, ask the same prompt about the same pictures,
write the same number of tokens in each of G draws (TRL may not end a turn early; in ours no token ends one),
reward them by the same rule, and take one AdamW step with the same settings on the same parameters. A step is
timed from its beginning to its end inside each trainer's own loop: rollout, rewards, loss, gradient, update.
TRL's trainer drives: when one of its steps has ended, its callback runs one step of ours, so that the two
alternate in one process. Peak memory is measured with each trainer alone in a fresh process; TRL's does not
import ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
import torch
from ignite.engine import Events

from bench.process import in_fresh_process, memory_now, memory_peak
from bench.results import Bound, Job, Line
from bench.setting import EndlessPolicy, Settings, episode_of, forbidden_tokens, noise_case
from medeyes_monai.errors import ConfigError
from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.scenes import Case
from medeyes_monai.training.loss import dual_stream_loss, episode_weights
from medeyes_monai.training.trainer import DualStreamGRPOTrainer
from medeyes_monai.trajectory import Episode

DRAWS, TOKENS, SIDE = 8, 64, 112
TIME_TARGET, MEMORY_TARGET = 0.6, 0.8
COSINE = 0.99
MEMORY_STEPS = 4


def step_jobs(settings: Settings) -> list[Job]:
    """Return time and memory of a step, with the whole model trained and with the vision tower frozen.

    Raises:
        ConfigError: If TRL is not installed.
    """
    missing = [name for name in ("trl", "datasets") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the part 'step' compares with TRL, but {' and '.join(missing)} cannot be imported: install the "
            "extra with pip install 'medeyes-monai[bench]', or leave the part out of --only"
        )
    frozen = (False,) if settings.quick else (False, True)
    return [
        *[Job(f"step, {_what(freeze)}", partial(_time, settings, freeze)) for freeze in frozen],
        *[Job(f"memory of a step, {_what(freeze)}", partial(_memory, settings, freeze)) for freeze in frozen],
    ]


def _what(freeze: bool) -> str:
    return "vision tower frozen" if freeze else "all parameters trained"


def _work(settings: Settings, freeze: bool, steps: int) -> dict[str, Any]:
    """Write the pictures and return the arguments of a ``StepWork``."""
    checkpoint = settings.checkpoint("qwen2_5_vl")
    policy = EndlessPolicy(checkpoint)
    cases = [noise_case(SIDE, policy.patch, number) for number in range(steps)]
    pictures = settings.work / f"pictures-{steps}.npy"
    np.save(pictures, np.stack([case.scene.overview().pixels for case in cases]))
    return {
        "checkpoint": str(checkpoint),
        "pictures": str(pictures),
        "prompt": policy.instruction.replace("{question}", cases[0].question),
        "suppressed": forbidden_tokens(policy),
        "freeze": freeze,
        "draws": DRAWS,
        "tokens": 16 if settings.quick else TOKENS,
    }


def _time(settings: Settings, freeze: bool) -> Iterable[Line]:
    from bench.trl_side import StepWork, Watch, trl_trainer

    work = StepWork(**_work(settings, freeze, settings.repeats + 1))
    ours = OurSteps(**asdict(work))
    watch = Watch(ours.step)
    trl_trainer(work, watch).train()
    times = {"ours": ours.seconds[1:], "trl": watch.seconds[1:]}
    yield Line(
        "step",
        f"time of a GRPO step over TRL's, {DRAWS} draws, {work.tokens} tokens, {SIDE} px, {_what(freeze)}",
        median(times["ours"]) / median(times["trl"]),
        "x",
        ("<=", TIME_TARGET),
        [
            *_agreement(work.checkpoint, freeze, watch.batch, watch.gradients),
            Bound("tokens of a step of ours", ours.tokens, ">=", DRAWS * work.tokens),
            Bound("tokens of a step of TRL's", watch.tokens, ">=", DRAWS * work.tokens),
        ],
        times,
    )


def _memory(settings: Settings, freeze: bool) -> Iterable[Line]:
    work = _work(settings, freeze, MEMORY_STEPS)
    ours, others = in_fresh_process("step-ours", work), in_fresh_process("step-trl", work)
    detail = {"ours": ours, "trl": others}
    steps = Bound("steps done", min(ours["steps"], others["steps"]), ">=", MEMORY_STEPS)
    yield Line(
        "step",
        f"peak resident memory over TRL's, {_what(freeze)}",
        ours["peak_mib"] / others["peak_mib"],
        "x",
        ("<=", MEMORY_TARGET),
        [steps],
        detail=detail,
    )
    yield Line(
        "step",
        f"resident memory gained after imports and loading over TRL's, {_what(freeze)}",
        ours["growth_mib"] / max(others["growth_mib"], 1.0),
        "x",
        None,
        [steps],
        detail=detail,
    )


class OurSteps:
    """Our trainer, one step at a time; the arguments are those of a ``StepWork``."""

    def __init__(
        self, checkpoint: str, freeze: bool, draws: int, tokens: int, rate: float, clip: float, **_: Any
    ) -> None:
        """Load the policy."""
        self.policy = EndlessPolicy(checkpoint, freeze_vision=freeze)
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0, fused=True)
        self.inferer = EpisodeInferer(draws, max_looks=0, max_turn_tokens=tokens, greedy=False)
        self.clip = clip
        self.seconds: list[float] = []
        self.tokens = 0
        self.started = 0.0

    def step(self) -> None:
        """Do the next step and time it."""
        number = len(self.seconds)
        trainer = DualStreamGRPOTrainer(
            self.policy,
            self.optimizer,
            [noise_case(SIDE, self.policy.patch, number)],  # type: ignore[arg-type]  # a list is a data set
            self.inferer,
            self._reward,
            questions=1,
            epoch_length=1,
            max_gradient_norm=self.clip,
            seed=number,
        )
        trainer.add_event_handler(Events.ITERATION_STARTED, self._begin)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._end)
        trainer.run()

    def _begin(self) -> None:
        self.tokens, self.started = 0, time.perf_counter()

    def _end(self) -> None:
        self.seconds.append(time.perf_counter() - self.started)

    def _reward(self, episode: Episode, case: Case) -> Episode:
        written = episode.token_ids[episode.response_mask].tolist()
        self.tokens += len(written)
        return replace(episode, reward=sum(token % 2 == 0 for token in written) / len(written))


def _agreement(
    checkpoint: str, freeze: bool, batch: Mapping[str, Any], gradients: Mapping[str, torch.Tensor]
) -> list[Bound]:
    """Compare TRL's first prompt and gradient with ours on the completions and advantages that it had."""
    policy = EndlessPolicy(checkpoint, freeze_vision=freeze)
    prompt = policy.prompt(noise_case(SIDE, policy.patch))
    asked = [row[mask.bool()].tolist() for row, mask in _rows(batch, "prompt")]
    written = [row[mask.bool()] for row, mask in _rows(batch, "completion")]
    scores = policy.train(True).score([episode_of(prompt, row) for row in written])
    expert = torch.zeros(len(written), dtype=torch.bool)
    loss, _ = dual_stream_loss(
        scores.logprobs,
        scores.logprobs.detach(),
        batch["advantages"],
        scores.response_mask,
        expert,
        episode_weights(scores.response_mask.sum(-1), expert),
    )
    loss.backward()
    named = policy.named_parameters()
    mine = {name.removeprefix("core."): p.grad for name, p in named if p.grad is not None}
    both = sorted(mine.keys() & gradients.keys())
    cosine = torch.cosine_similarity(
        torch.cat([mine[name].flatten() for name in both]),
        torch.cat([gradients[name].flatten() for name in both]),
        dim=0,
    )
    equal = [row == list(prompt.token_ids) for row in asked]
    return [
        Bound("share of equal prompts", float(np.mean(equal)), ">=", 1.0),
        Bound("parameters that only one trains", len(mine.keys() ^ gradients.keys()), "<=", 0),
        Bound("cosine of the gradients on equal completions", float(cosine), ">=", COSINE),
    ]


def _rows(batch: Mapping[str, Any], name: str) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    return zip(batch[f"{name}_ids"], batch[f"{name}_mask"], strict=True)


def ours_child(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Do some steps with our trainer alone; return peaks."""
    ours = OurSteps(**{"rate": 1e-4, "clip": 1.0} | dict(arguments))
    loaded = memory_now()
    for _ in range(MEMORY_STEPS):
        ours.step()
    peak = memory_peak()
    return {"peak_mib": peak, "loaded_mib": loaded, "growth_mib": peak - loaded, "steps": len(ours.seconds)}
