"""The trainer of dual-stream GRPO, a MONAI trainer like any other."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from ignite.engine import Engine, Events
from monai.engines import Trainer
from monai.inferers import Inferer
from monai.utils import CommonKeys
from torch.utils.data import DataLoader, Dataset

from medeyes_monai.errors import CheckpointError, ConfigError, NumericsError
from medeyes_monai.policy import Policy
from medeyes_monai.policy.finite import first_names, non_finite
from medeyes_monai.policy.precision import check_trained_types
from medeyes_monai.sampler import PathSource
from medeyes_monai.scenes import Case
from medeyes_monai.training.advantages import AdvantageMode, RunningStatistics, advantages
from medeyes_monai.training.batches import StepBatchSampler
from medeyes_monai.training.checkpoint import CheckpointFolder, TrainingState
from medeyes_monai.training.experience import Experience, Reward, describe_episodes, gather
from medeyes_monai.training.lost_items import MAX_LOST_SHARE, LostItems
from medeyes_monai.training.microbatches import MICRO_TOKENS
from medeyes_monai.training.objective import DualStreamObjective, accumulate_gradients, check_reference
from medeyes_monai.training.schedule import Schedule

logger = logging.getLogger(__name__)

__all__ = ["DualStreamGRPOTrainer"]

_SKIPPED = "skipped_in_a_row"
_MUST_BE_FINITE = ("loss_sum", "policy/gradient_norm", "expert/gradient_norm")
"""Numbers of a gradient that are finite only if all of it is."""


class DualStreamGRPOTrainer(Trainer):
    """Trains a policy on its own episodes and on an expert's (method, section 5).

    One iteration is one update: questions, episodes of both streams, rewards, advantages, gradient. After
    each, ``engine.state.output`` is one dictionary in a list, with ``loss`` and every diagnostic by name, so
    MONAI's Stats, TensorBoard and MLflow handlers attach through ``from_engine`` as they do to any trainer.
    Everything random is drawn by address, so a run that was interrupted goes on from its last checkpoint as
    if it had not been. ``engine.state.episodes`` holds the episodes of the latest update and
    ``engine.state.batch`` its questions.

    A gradient step whose loss or gradient is not finite is skipped: the weights and the optimizer stay as
    they are. ``skipped_updates`` counts these steps. Too many in a row end the run; so do weights that are
    not finite.

    Args:
        policy: The policy.
        optimizer: Optimizer of the policy's trained parameters.
        dataset: Questions with reference answers.
        inferer: Draws the policy's episodes, G_on of each question.
        reward: Scores an episode.
        sampler: Draws the expert's paths, G_off of each question; None trains on the policy's stream alone.
        max_epochs: Number of epochs.
        epoch_length: Updates in an epoch.
        questions: Questions of an update.
        objective: Choices of the loss.
        advantage_mode: Against what an episode is measured.
        positive_experts_only: Set negative advantages of experts to 0.
        resample: How often a question without variance in the policy's rewards is drawn anew.
        max_lost_share: Share of the latest questions (up to 100, at least 20) at which the expert may fail;
            such a question has no expert stream, a larger share ends the run.
        micro_tokens: Largest number of tokens in one pass, padding included; does not change the gradient.
        updates: Gradient steps on each experience.
        max_gradient_norm: The gradient is scaled down to this norm.
        max_skipped: Gradient steps in a row that may be skipped because they are not finite.
        schedule: Share of the optimizer's learning rate over the run; None for all of it throughout.
        seed: Seed of questions and draws.
        reference: Frozen policy for the KL term; None takes the policy with its adapter off.
        checkpoints: Where states are written; None for nowhere.
        resume: Go on from the newest state there.
        accelerator: Device placement, precision and gradient scaling of accelerate; None for the policy's
            device in full precision.
        handlers: Ignite or MONAI handlers.

    Raises:
        ConfigError: If an argument does not fit.
        CheckpointError: If the state to resume from is damaged or belongs to another policy.
        ExpertError: In a run, if the expert fails at too many questions.
        NumericsError: In a run, if too many gradient steps in a row are skipped, or the weights are no longer
            finite (or were not to begin with); the checkpoints so far stay.
    """

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        dataset: Dataset[Case],
        inferer: Inferer,
        reward: Reward,
        sampler: PathSource | None = None,
        *,
        max_epochs: int = 1,
        epoch_length: int = 10,
        questions: int = 16,
        objective: DualStreamObjective | None = None,
        advantage_mode: AdvantageMode = "stream",
        positive_experts_only: bool = False,
        resample: int = 0,
        max_lost_share: float = MAX_LOST_SHARE,
        micro_tokens: int = MICRO_TOKENS,
        updates: int = 1,
        max_gradient_norm: float = 1.0,
        max_skipped: int = 5,
        schedule: Schedule | None = None,
        seed: int = 0,
        reference: Policy | None = None,
        checkpoints: CheckpointFolder | None = None,
        resume: bool = False,
        accelerator: Accelerator | None = None,
        handlers: Sequence[Any] | None = None,
    ) -> None:
        """Check the arguments and attach the handlers."""
        self.objective = objective or DualStreamObjective()
        check_reference(policy, self.objective, reference)
        check_trained_types(policy)
        _check_weights(dict(policy.named_parameters()), "before training")
        if min(epoch_length, max_epochs, micro_tokens, updates) < 1 or max_gradient_norm <= 0:
            raise ConfigError(
                "max_epochs, epoch_length, micro_tokens, updates and max_gradient_norm must be above 0, got "
                f"{max_epochs}, {epoch_length}, {micro_tokens}, {updates} and {max_gradient_norm}"
            )
        if max_skipped < 0:
            raise ConfigError(f"max_skipped must be at least 0 gradient steps, got {max_skipped}")
        self.accelerator = accelerator or Accelerator(cpu=_device_of(policy).type == "cpu")
        if self.accelerator.num_processes > 1:
            raise ConfigError("the trainer runs in one process; start it without a launcher")
        self.batches = StepBatchSampler(len(dataset), questions, seed)  # type: ignore[arg-type]  # sized
        super().__init__(
            device=_device_of(policy),
            max_epochs=max_epochs,
            data_loader=DataLoader(dataset, batch_sampler=self.batches, collate_fn=list),
            epoch_length=epoch_length,
            handlers=handlers,
            decollate=False,
        )
        self.policy, self.reference, self.inferer = policy, reference, inferer
        self.optimizer = self.accelerator.prepare(optimizer)
        self.reward, self.sampler, self.seed = reward, sampler, seed
        self.advantage_mode, self.positive_experts_only = advantage_mode, positive_experts_only
        self.resample, self.micro_tokens, self.updates = resample, micro_tokens, updates
        self.max_gradient_norm, self.max_skipped = max_gradient_norm, max_skipped
        self.schedule = schedule or Schedule()
        self.running, self.lost = RunningStatistics(), LostItems(max_lost_share)
        self.checkpoints, self.resume = checkpoints, resume
        self._saved, self._skipped_in_a_row = -1, 0
        self._full_rates = [float(group["lr"]) for group in optimizer.param_groups]
        if checkpoints is not None:
            self.add_event_handler(Events.ITERATION_COMPLETED(every=checkpoints.every), self._save)
            self.add_event_handler(Events.COMPLETED, self._save)

    def run(self) -> None:
        """Train to the last epoch; with ``resume``, from the newest checkpoint on.

        Without it, the states of an earlier run in the same folder are dropped.
        """
        if self.resume and self.checkpoints is not None and (state := self.checkpoints.latest()):
            self.restore(state)
            if state.step >= self._all_updates:
                self.logger.info(f"nothing left to train: step {state.step} is the last one")
                return
        elif self.checkpoints is not None:
            self.checkpoints.clear()
        super().run()

    def restore(self, state: TrainingState) -> None:
        """Go back to a training state.

        Raises:
            CheckpointError: If its parameters are not those of this policy, or its seed, questions of a step
                or size of the data are not those of this run.
        """
        mine = _trained(self.policy)
        if state.policy.keys() != mine.keys() or any(
            state.policy[k].shape != v.shape for k, v in mine.items()
        ):
            raise CheckpointError(
                f"the checkpoint of step {state.step} belongs to another policy: its trained parameters "
                "differ; resume with the policy it was made with, or use another output folder"
            )
        asked = {name: state.numbers.get(name) for name in self._identity}
        if asked != self._identity:
            raise CheckpointError(
                f"the checkpoint of step {state.step} belongs to another run: it had {asked}, this one has "
                f"{self._identity}; resume with its values, or use another output folder"
            )
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(state.policy[name])
        self.optimizer.load_state_dict(dict(state.optimizer))
        numbers = {name: number for name, number in state.numbers.items() if name not in self._identity}
        self._skipped_in_a_row = int(numbers.pop(_SKIPPED, 0))
        self.running = self.running.restored(numbers)
        self.batches.first_step = state.step
        self.load_state_dict(
            {
                "iteration": state.step,
                "max_epochs": self.state.max_epochs,
                "epoch_length": self.state.epoch_length,
            }
        )

    def _iteration(self, engine: Engine, batchdata: list[Case]) -> list[dict[str, Any]]:
        """Do one update."""
        step = engine.state.iteration - 1
        batchdata = list({case.key: case for case in batchdata}.values())  # a skipped item repeats another
        started = time.perf_counter()
        self._set_rate(step)
        self.policy.train(False)
        with self.accelerator.autocast():  # drawn in the precision in which it is scored
            experience = gather(
                self.policy,
                batchdata,
                inferer=self.inferer,
                reward=self.reward,
                sampler=self.sampler,
                seed=self.seed,
                step=step,
                resample=self.resample,
                lost=self.lost,
            )
        gathered = time.perf_counter()
        engine.state.episodes = experience.episodes
        output = dict(experience.numbers)
        output |= describe_episodes(experience.episodes, {case.key: case for case in batchdata})
        output |= self._update(experience)
        output[CommonKeys.LOSS] = output.pop("loss_sum")
        output["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        output["seconds/gather"] = gathered - started
        output["seconds/update"] = time.perf_counter() - gathered
        return [output]

    def _update(self, experience: Experience) -> dict[str, float]:
        measured = advantages(
            experience.rewards,
            experience.question,
            experience.is_expert,
            self.advantage_mode,
            running=self.running,
            positive_experts_only=self.positive_experts_only,
        )
        self.running = measured.running or self.running
        numbers: dict[str, float] = {}
        skipped = 0
        objective = self.objective.at(self.state.iteration - 1, self._all_updates)
        self.policy.train(True)
        for _ in range(self.updates):
            self.optimizer.zero_grad()
            numbers = accumulate_gradients(
                self.policy,
                experience,
                measured.values,
                objective,
                micro_tokens=self.micro_tokens,
                backward=self.accelerator.backward,
                autocast=self.accelerator.autocast,
                reference=self.reference,
            )
            if all(math.isfinite(numbers[name]) for name in _MUST_BE_FINITE):
                numbers["gradient_norm"] = self._step()
            else:
                numbers["gradient_norm"] = math.nan
                self._skip(numbers)
                skipped += 1
        if self.objective.kl_weight:
            numbers["kl_weight"] = objective.kl_weight
        return numbers | {"skipped_updates": float(skipped)} | measured.diagnostics

    def _step(self) -> float:
        """Step along the gradient and return its norm."""
        trained = list(_trained(self.policy).values())
        norm = float(self.accelerator.clip_grad_norm_(trained, self.max_gradient_norm))
        self.optimizer.step()
        self._skipped_in_a_row = 0
        _check_weights(_trained(self.policy), f"after update {self.state.iteration}")
        return norm

    def _skip(self, numbers: Mapping[str, float]) -> None:
        """Drop a gradient that is not finite.

        Raises:
            NumericsError: If too many in a row were.
        """
        expert = ("expert/gradient_norm", "expert/objective_sum")
        stream = "policy" if all(math.isfinite(numbers.get(name, 0.0)) for name in expert) else "expert"
        gradients = {name: parameter.grad for name, parameter in _trained(self.policy).items()}
        names = first_names(non_finite(gradients)) or "the loss alone"
        if self.accelerator.scaler is not None:  # float16: the loss is scaled less from now on
            self.accelerator.scaler.unscale_(self.optimizer.optimizer)
            self.accelerator.scaler.update()
        self.optimizer.zero_grad()
        self._skipped_in_a_row += 1
        seen = (
            f"update {self.state.iteration}: loss or gradient is not finite, first in the {stream} stream "
            f"({names})"
        )
        if self._skipped_in_a_row > self.max_skipped:
            raise NumericsError(
                f"{seen}; {self.max_skipped} gradient steps in a row may be skipped (max_skipped): lower the "
                "learning rate or look for the cause there, and go on from the last checkpoint with --resume"
            )
        logger.warning(
            f"{seen}; the gradient step is skipped, {self._skipped_in_a_row} in a row of {self.max_skipped}"
        )

    @property
    def _all_updates(self) -> int:
        return int(self.state.max_epochs * self.state.epoch_length)

    def _set_rate(self, step: int) -> None:
        share = self.schedule.factor(step, self._all_updates)
        for group, rate in zip(self.optimizer.param_groups, self._full_rates, strict=True):
            group["lr"] = rate * share

    @property
    def _identity(self) -> dict[str, float]:
        """What fixes the sequence of questions and draws."""
        return {"seed": self.seed, "questions": self.batches.batch, "data": self.batches.size}

    def _save(self) -> None:
        if self.checkpoints is not None and self.state.iteration != self._saved:
            self._saved = self.state.iteration
            optimizer = self.optimizer.state_dict()
            numbers = self.running.state_dict() | self._identity | {_SKIPPED: float(self._skipped_in_a_row)}
            self.checkpoints.save(
                TrainingState(self.state.iteration, _trained(self.policy), optimizer, numbers)
            )


def _check_weights(weights: Mapping[str, torch.nn.Parameter], when: str) -> None:
    if bad := non_finite(weights):
        raise NumericsError(
            f"{when} {len(bad)} of {len(weights)} weights hold NaN or infinity ({first_names(bad)}); "
            "go back to a policy or a checkpoint whose weights are finite, and lower the learning rate"
        )


def _trained(policy: Policy) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}


def _device_of(policy: Policy) -> torch.device:
    return next(iter(policy.parameters())).device
