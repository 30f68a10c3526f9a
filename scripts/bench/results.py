"""What a benchmark finds: lines with their raw times, targets and checks, written after each one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from medeyes_monai.io.atomic import write_atomic

Sense = Literal["<=", ">="]
NOT_JUDGED = "Not judged: the targets are set for the sizes and the repeats that are the default."


@dataclass(frozen=True)
class Bound:
    """A number and the limit that it has to keep.

    Args:
        name: What was measured.
        value: The number.
        sense: On which side of the limit it has to lie.
        limit: The limit.
    """

    name: str
    value: float
    sense: Sense
    limit: float

    @property
    def kept(self) -> bool:
        """Whether the limit is kept; a number that is none keeps no limit."""
        return self.value <= self.limit if self.sense == "<=" else self.value >= self.limit

    def as_json(self) -> dict[str, Any]:
        """Return the bound for the JSON file."""
        return {
            "name": self.name,
            "value": finite(self.value),
            "limit": f"{self.sense} {self.limit:g}",
            "passed": self.kept,
        }


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Args:
        part: Which part of the benchmark it belongs to.
        name: What was measured, in words.
        value: The figure.
        unit: Unit of the figure.
        target: Limit of the figure, if there is one.
        checks: What shows that the measured work was right.
        seconds: Time of every repeat, by contestant. Unit: seconds.
        detail: Whatever else was found.
    """

    part: str
    name: str
    value: float
    unit: str
    target: tuple[Sense, float] | None = None
    checks: Sequence[Bound] = ()
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bound(self) -> Bound | None:
        """The figure against its target."""
        return None if self.target is None else Bound(self.name, self.value, *self.target)

    def as_json(self) -> dict[str, Any]:
        """Return the line for the JSON file."""
        return {
            "part": self.part,
            "name": self.name,
            "value": finite(self.value),
            "unit": self.unit,
            "target": None if self.bound is None else self.bound.as_json(),
            "checks": [check.as_json() for check in self.checks],
            "median_seconds": {name: median(times) for name, times in self.seconds.items()},
            "seconds": {name: list(times) for name, times in self.seconds.items()},
            "detail": dict(self.detail),
        }


@dataclass(frozen=True)
class Job:
    """A measurement that gives one line or several.

    Args:
        name: What the progress bar says.
        run: Measures.
    """

    name: str
    run: Callable[[], Iterable[Line]]


class Report:
    """The three files of a benchmark; JSON and table are rewritten after every line.

    Args:
        folder: Where they are written; made if absent.
        head: Versions, machine and arguments.
        judged: Whether sizes are those that the targets were set for.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any], judged: bool) -> None:
        """Make the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.head, self.judged = folder, dict(head), judged
        self.lines: list[Line] = []

    def add(self, line: Line) -> None:
        """Add a line and write what there is."""
        self.lines.append(line)
        content = self.head | {
            "targets_judged": self.judged,
            "lines": [each.as_json() for each in self.lines],
        }
        write_atomic(self.folder / "bench.json", (json.dumps(content, indent=1) + "\n").encode())
        write_atomic(self.folder / "bench.md", self.table().encode())

    def table(self) -> str:
        """Return the lines as a Markdown table."""
        head = [
            "| measured | figure | target | verdict | check |",
            "| --- | ---: | ---: | --- | --- |",
        ]
        rows = [
            f"| {line.part}: {line.name} | {number(line.value)} {line.unit} | {_target(line)} | "
            f"{self._verdict(line)} | {'; '.join(map(_check, line.checks))} |"
            for line in self.lines
        ]
        note = "" if self.judged else f"{NOT_JUDGED}\n\n"
        facts = ", ".join(f"{name} {value}" for name, value in self.head["environment"].items())
        return "\n".join([*head, *rows]) + f"\n\n{note}Measured on: {facts}.\n"

    def _verdict(self, line: Line) -> str:
        if not all(check.kept for check in line.checks):
            return "FAIL (check)"
        if line.bound is None or not self.judged:
            return "not judged"
        return "pass" if line.bound.kept else "FAIL"


def number(value: float) -> str:
    """Write a number with three digits that count."""
    if not math.isfinite(value):
        return "none"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def finite(value: float) -> float | None:
    """Return the number, or None where JSON has no word for it."""
    return float(value) if math.isfinite(value) else None


def _target(line: Line) -> str:
    return "" if line.target is None else f"{line.target[0]} {line.target[1]:g}"


def _check(check: Bound) -> str:
    verdict = "" if check.kept else " FAIL"
    return f"{check.name} {check.value:.2g} ({check.sense} {check.limit:g}){verdict}"
