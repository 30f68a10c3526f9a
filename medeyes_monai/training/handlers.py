"""What a training shows while it runs: a progress bar, a line of numbers for each step and evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from medeyes_monai.io.atomic import write_atomic

__all__ = ["EvaluationLog", "ProgressHandler", "StepLog", "numbers_of"]


def numbers_of(output: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the finite numbers of a trainer's output, an ``output_transform`` for handlers that log.

    Example:
        >>> numbers_of([{"loss": 0.5, "gradient_norm": float("nan"), "image": None}])
        {'loss': 0.5}
    """
    return {k: v for k, v in output[0].items() if isinstance(v, float) and math.isfinite(v)}


class StepLog:
    """Writes every finite number of a trainer's output as one JSON line for each step.

    A run that is resumed drops the lines of steps that it will do again.

    Args:
        path: The file; its folder is made.
    """

    def __init__(self, path: str | Path) -> None:
        """Remember the file."""
        self.path = Path(path)

    def attach(self, engine: Engine) -> None:
        """Write after each iteration of an engine whose output is one dictionary in a list."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _begin(self, engine: Engine) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept: list[str] = []
        if engine.state.iteration and self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            complete = [line for line in lines if line.endswith("}")]  # the last may be cut off
            kept = [line for line in complete if json.loads(line)["step"] <= engine.state.iteration]
        write_atomic(self.path, "".join(f"{line}\n" for line in kept).encode())

    def _write(self, engine: Engine) -> None:
        numbers = numbers_of(engine.state.output)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": engine.state.iteration, **numbers}) + "\n")


class EvaluationLog:
    """Writes the metrics of an evaluator as one JSON line for each epoch of the training, in their order.

    An epoch that is evaluated again, after a resume, replaces its line. Attach it to the evaluator, whose
    epoch is that of the trainer where MONAI's ``ValidationHandler`` runs it.

    Args:
        path: The file; its folder is made.
        epoch: Written in place of the evaluator's epoch: 0 for an evaluation before training.
    """

    def __init__(self, path: str | Path, epoch: int | None = None) -> None:
        """Remember the file."""
        self.path, self.epoch = Path(path), epoch

    def attach(self, engine: Engine) -> None:
        """Write when the evaluator has asked everything."""
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        records = {record["epoch"]: record for record in map(json.loads, text.splitlines())}
        epoch = engine.state.epoch if self.epoch is None else self.epoch
        numbers = {name: value for name, value in engine.state.metrics.items() if not math.isnan(value)}
        records[epoch] = {"epoch": epoch, **numbers}
        lines = [json.dumps(records[number]) + "\n" for number in sorted(records)]
        write_atomic(self.path, "".join(lines).encode())


class ProgressHandler:
    """A progress bar over all iterations of an engine.

    Args:
        description: Word in front of the bar.
        show: Numbers of the output to show beside it, by their shown name.
    """

    def __init__(self, description: str = "train", show: dict[str, str] | None = None) -> None:
        """Remember what to show."""
        self.description = description
        self.show = dict(show or {})
        self._bar: Any = None

    def attach(self, engine: Engine) -> None:
        """Follow an engine from its start to its end."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.TERMINATE, self._close)

    def _open(self, engine: Engine) -> None:
        total = engine.state.max_epochs * engine.state.epoch_length
        self._bar = tqdm(total=total, initial=engine.state.iteration, desc=self.description)

    def _advance(self, engine: Engine) -> None:
        output = engine.state.output[0]
        self._bar.set_postfix(
            {name: f"{output[key]:.2f}" for name, key in self.show.items() if key in output}
        )
        self._bar.update()

    def _close(self, _: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
