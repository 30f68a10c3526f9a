"""Runs commands side by side, shows how far each is, and leaves none behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from medeyes_monai.errors import ConfigError

__all__ = ["Task", "last_line", "run_all"]

POLL_SECONDS = 0.2
GRACE_SECONDS = 20.0
"""Time that a process has to end after it was asked to."""
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Task:
    """A command.

    Args:
        name: Shown beside its progress.
        command: Program and arguments.
        folder: Where its lock and its log are; made if it is missing.
        begin: Called before it starts, under the lock.
        finish: Called with the seconds that it took, after it has ended well.
    """

    name: str
    command: Sequence[str]
    folder: Path
    begin: Callable[[], None]
    finish: Callable[[float], None]


@dataclass(slots=True, eq=False)
class _Child:
    task: Task
    process: subprocess.Popen[bytes]
    lock: IO[bytes]
    started: float
    failed: str | None = field(default=None)


def run_all(tasks: Sequence[Task], *, jobs: int, threads: int) -> dict[str, str]:
    """Run tasks, some at a time, each in a process of its own; Ctrl-C ends them all.

    A task that fails does not stop the others. A child holds its folder's lock as long as it lives, so that
    a second program, or this one after it was killed, does not write into the same folder.

    Args:
        tasks: What to run, in this order.
        jobs: How many at a time.
        threads: Threads of each process.

    Returns:
        Why each task failed that did, by its name: the last line of its log, or that another process is at
        work in its folder.

    Raises:
        KeyboardInterrupt: On Ctrl-C or SIGTERM, when all children have ended.
    """
    failures: dict[str, str] = {}
    waiting, active = deque(tasks), list[_Child]()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    lines = _Lines(len(tasks), min(jobs, len(tasks)))
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                task = waiting.popleft()
                try:
                    active.append(_start(task, threads))
                except ConfigError as error:
                    failures[task.name] = str(error)
                    lines.advance(task.name, str(error))
            for child in [child for child in active if child.process.poll() is not None]:
                active.remove(child)
                if (failure := _collect(child)) is not None:
                    failures[child.task.name] = failure
                lines.advance(child.task.name, failure)
            lines.show([child.task for child in active])
            time.sleep(POLL_SECONDS)
    finally:
        _stop(active)
        lines.close()
        signal.signal(signal.SIGTERM, before)
    return failures


def last_line(log: Path) -> str:
    """Return the last line that is not empty, also of a progress bar, which overwrites its own."""
    if not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = stream.read().decode("utf-8", "replace")
    return next((line.strip() for line in reversed(text.replace("\r", "\n").split("\n")) if line.strip()), "")


def _log(task: Task) -> Path:
    return task.folder / "log.txt"


def _start(task: Task, threads: int) -> _Child:
    task.folder.mkdir(parents=True, exist_ok=True)
    lock = (task.folder / "lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise ConfigError(
            f"another process is at work in {task.folder}; wait for it, or end it first"
        ) from error
    task.begin()
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    with _log(task).open("ab") as log:
        process = subprocess.Popen(  # noqa: S603
            task.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | counts | {"TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,  # Ctrl-C reaches it through _stop alone
            pass_fds=(lock.fileno(),),
        )
    return _Child(task, process, lock, time.perf_counter())


def _collect(child: _Child) -> str | None:
    """Finish a task whose process has ended; return why it failed, or None."""
    try:
        if child.process.returncode:
            return last_line(_log(child.task)) or f"ended with {child.process.returncode}"
        child.task.finish(time.perf_counter() - child.started)
    except ConfigError as error:
        return str(error)
    finally:
        child.lock.close()
    return None


def _stop(children: Sequence[_Child]) -> None:
    """End processes and all that they started: ask, wait, then insist, at once on a second Ctrl-C."""
    for child in children:
        _send(child, signal.SIGINT)
    try:
        limit = time.monotonic() + GRACE_SECONDS
        for child in children:
            child.process.wait(max(0.0, limit - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    finally:
        for child in children:
            _send(child, signal.SIGKILL)
            child.process.wait()
            child.lock.close()


def _send(child: _Child, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.killpg(child.process.pid, number)


class _Lines:
    """A bar over all tasks, and below it a line for each that runs; on a terminal only."""

    def __init__(self, total: int, rows: int) -> None:
        self._bar = tqdm(total=total, unit="run", desc="runs", disable=None)
        self._rows: list[Any] = [
            tqdm(bar_format="{desc}", position=1 + n, leave=False, disable=None) for n in range(rows)
        ]

    def show(self, tasks: Sequence[Task]) -> None:
        """Show how far tasks are."""
        width = shutil.get_terminal_size().columns - 1
        for n, row in enumerate(self._rows):
            text = f"{tasks[n].name}: {last_line(_log(tasks[n]))}" if n < len(tasks) else ""
            row.set_description_str(text[:width])

    def advance(self, name: str, failure: str | None) -> None:
        """Say that a task has ended."""
        self._bar.update()
        tqdm.write(f"{name}: {'done' if failure is None else 'FAILED: ' + failure}")

    def close(self) -> None:
        """Leave the terminal tidy."""
        for row in (*self._rows, self._bar):
            row.close()
