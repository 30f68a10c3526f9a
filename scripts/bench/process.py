"""Memory of this process, and functions run in a fresh one. Imports nothing large: it is measured, too."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MEBIBYTE = 2**20


def memory_now() -> float:
    """Return the memory that this process holds now. Unit: MiB."""
    return _status("VmRSS")


def memory_peak() -> float:
    """Return the most memory that this process has held. Unit: MiB.

    On Linux this is the kernel's mark for this program alone; ``ru_maxrss`` also remembers the parent's size.
    """
    if not Path("/proc/self/status").exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (MEBIBYTE if sys.platform == "darwin" else 1024)
    return _status("VmHWM")


def _status(name: str) -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        return memory_peak()
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def in_fresh_process(
    child: str, arguments: Mapping[str, Any], program: str = "bench_engine.py"
) -> dict[str, Any]:
    """Run a child function of a benchmark's program in a process of its own and return what it found.

    Raises:
        RuntimeError: If it fails, with the end of what it wrote.
    """
    script = Path(__file__).parents[1] / program
    done = subprocess.run(  # noqa: S603
        [sys.executable, str(script), "--child", child, json.dumps(arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
    )
    if done.returncode:
        raise RuntimeError(f"the process for {child} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
