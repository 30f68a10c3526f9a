"""What all monitors have in common: when they look, what they write, and when they warn."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ignite.engine import Engine, Events

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.signatures import MEASURE, SIGNATURES, WARNING

__all__ = ["Monitor", "Values", "Verdict", "WindowMonitor"]

Values = npt.NDArray[np.float64]
"""A number's values over a window of updates, oldest first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a monitor makes of a step.

    Args:
        measure: The number that it goes by.
        failing: Whether the failure shows.
        seen: What was seen, in words.
    """

    measure: float
    failing: bool
    seen: str


class Monitor(ABC):
    """Watches for one failure signature.

    Args:
        name: A name of :data:`~medeyes_monai.metrics.signatures.SIGNATURES`.
        interval: Updates from one look at the training to the next.

    Raises:
        ConfigError: If the interval is below 1.
    """

    def __init__(self, name: str, interval: int = 1) -> None:
        """Remember what to watch for."""
        if interval < 1:
            raise ConfigError(f"{name}: the interval must be at least 1 update, got {interval}")
        self.signature, self.interval = SIGNATURES[name], interval
        self.failing = False
        self._logger = logging.getLogger(__name__)

    def attach(self, engine: Engine) -> None:
        """Follow an engine whose output is one dictionary in a list."""
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self)

    def __call__(self, engine: Engine) -> None:
        """Judge a step, and add what is known to its output."""
        output = engine.state.output[0]
        verdict = self.judge(output)
        if verdict is None:
            return
        name = self.signature.name
        output[MEASURE + name], output[WARNING + name] = float(verdict.measure), float(verdict.failing)
        if verdict.failing and not self.failing:
            self._logger.warning(
                f"update {engine.state.iteration}: {self.signature.title}: {verdict.seen}. "
                f"To try: {self.signature.advice}."
            )
        self.failing = verdict.failing

    @abstractmethod
    def judge(self, output: dict[str, Any]) -> Verdict | None:
        """Return what a step shows; None as long as too little is known."""

    def begin(self, engine: Engine) -> None:
        """Forget what was seen; a run begins, or goes on after it was resumed."""
        self.failing = False


class WindowMonitor(Monitor):
    """Watches some numbers over a window of updates; updates that lack one of them do not count.

    Args:
        name: Name of the signature.
        keys: Names of the numbers in the output.
        window: Number of updates.

    Raises:
        ConfigError: If the window is below 2 updates.
    """

    def __init__(self, name: str, keys: Sequence[str], window: int) -> None:
        """Begin with an empty window."""
        super().__init__(name)
        if window < 2:
            raise ConfigError(f"{name}: a window has at least 2 updates, got {window}")
        self.keys, self.window = tuple(keys), window
        self._rows: deque[list[float]] = deque(maxlen=window)

    def judge(self, output: dict[str, Any]) -> Verdict | None:
        """Return what the window shows, once it is full."""
        if not all(key in output for key in self.keys):
            return None
        self._rows.append([float(output[key]) for key in self.keys])
        return self.judge_window(*np.array(self._rows).T) if len(self._rows) == self.window else None

    @abstractmethod
    def judge_window(self, *values: Values) -> Verdict:
        """Return what a full window shows.

        Args:
            values: The last ``window`` values of each key, oldest first.
        """

    def begin(self, engine: Engine) -> None:
        """Empty the window."""
        super().begin(engine)
        self._rows.clear()
