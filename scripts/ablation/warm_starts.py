"""Policies to start from: given by their place, or made with a number of supervised steps."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ablation.processes import Task
from medeyes_monai.errors import ConfigError

__all__ = ["WarmStart", "read_warm_starts", "tasks_for"]

_SCRIPT = Path(__file__).parents[1] / "build_tiny_policy.py"


@dataclass(frozen=True, slots=True)
class WarmStart:
    """A policy to start from.

    Args:
        name: What rows are called after it.
        path: Its folder.
        steps: Supervised steps to make it with; None where it is given.
    """

    name: str
    path: Path
    steps: int | None


def read_warm_starts(text: str | None, output: Path) -> dict[str, WarmStart]:
    """Read ``name=path,name=steps``.

    Args:
        text: The list; None or empty for none.
        output: Folder of all results; what is made goes into ``warm_starts`` there.

    Raises:
        ConfigError: If an entry cannot be read, or a given folder does not exist.
    """
    found: dict[str, WarmStart] = {}
    for entry in (text or "").split(",") if text else []:
        name, equals, value = entry.strip().partition("=")
        if not equals or not name.isidentifier() or not value or name in found:
            raise ConfigError(f"--warm-starts is name=path or name=steps, each name once, got {entry!r}")
        if value.isdecimal():
            found[name] = WarmStart(name, output / "warm_starts" / f"{name}-{value}", int(value))
        elif Path(value).is_dir():
            found[name] = WarmStart(name, Path(value), None)
        else:
            raise ConfigError(
                f"--warm-starts: {value} is no folder; give a policy's folder or a number of steps"
            )
    return found


def tasks_for(warm_starts: Iterable[WarmStart]) -> list[Task]:
    """Return the tasks that make those that do not exist yet; what is made appears complete or not at all."""
    return [_task(start) for start in warm_starts if start.steps is not None and not start.path.exists()]


def _task(start: WarmStart) -> Task:
    work = start.path.with_name(f".{start.path.name}")
    made = work / "policy"

    def begin() -> None:
        shutil.rmtree(made, ignore_errors=True)

    def finish(seconds: float) -> None:
        made.rename(start.path)

    command = [sys.executable, str(_SCRIPT), "--output", str(made), "--protocol-steps", str(start.steps)]
    return Task(f"warm start {start.name}", command, work, begin, finish)
