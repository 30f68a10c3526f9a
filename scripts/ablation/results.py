"""What a run found, as one record; and records as one file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ablation.rows import Row
from ablation.runs import Run
from medeyes_monai.errors import ConfigError
from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.reports.curves import read_records

__all__ = ["RECORDS", "as_line", "collect", "machine", "read_lines", "updates_to", "write_lines"]

RECORDS = "results.jsonl"
COLUMNS = {
    "start": "warm start",
    "test": "trained",
    "blanked": "trained, looks blanked",
    "ood": "out of distribution",
}
"""Evaluations of a run, by the name of their column in its ``results.json``."""
SHARE_OF_FINAL = 0.9
"""Learning is over where this share of an accuracy is reached."""
_ROUNDING = 1e-9
PACKAGES = ("torch", "transformers", "monai", "numpy", "medeyes-monai")


def collect(run: Run, seconds: float, threads: int) -> dict[str, Any]:
    """Gather what a run has left in its folder.

    Args:
        run: A run whose process has ended well.
        seconds: Time of its last process; of a run that was interrupted, not the whole.
        threads: Threads of its process.

    Raises:
        ConfigError: If a file that it should have left is missing or not readable.
    """
    try:
        results = json.loads((run.folder / "results.json").read_text("utf-8"))
        evaluations = {name: results[column] for name, column in COLUMNS.items()}
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{run.folder / 'results.json'} does not hold {', '.join(COLUMNS.values())}"
        ) from error
    families = run.identity["config"]["gaze_families"]
    steps = read_records(run.folder / "metrics.jsonl")
    each = int(run.identity["config"]["epoch_length"])
    curve = [
        [int(line["epoch"]) * each, _mean_accuracy(line, families)]
        for line in read_records(run.folder / "validation.jsonl")
    ]
    looking = {name: _looking(evaluation["families"], families) for name, evaluation in evaluations.items()}
    return {
        "accuracy": {name: hits / count for name, (hits, count) in looking.items()},
        "questions": {name: count for name, (_, count) in looking.items()},
        "evaluations": evaluations,
        "validation": curve,
        "updates_to_90": updates_to(curve, SHARE_OF_FINAL * curve[-1][1]),
        "updates": int(steps[-1]["step"]),
        "seconds": seconds,
        "seconds_training": sum(line["seconds/gather"] + line["seconds/update"] for line in steps),
        "machine": machine(threads),
    }


def updates_to(curve: Sequence[Sequence[float]], level: float) -> int | None:
    """Return the first update, 0 for none, at which a validated accuracy reached a level; None if it did not.

    Args:
        curve: Pairs of update and accuracy.
        level: The accuracy.

    Example:
        >>> updates_to([[0, 0.5], [5, 0.8], [10, 0.7]], 0.75), updates_to([[0, 0.5]], 0.6)
        (5, None)
    """
    return next((int(update) for update, accuracy in curve if accuracy >= level - _ROUNDING), None)


def machine(threads: int) -> dict[str, Any]:
    """Return on what, and with which versions, a run was done."""
    import torch

    return {
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def as_line(record: Mapping[str, Any], row: Row, run: Run) -> dict[str, Any]:
    """Return the record of a run with what the row is that it stands for."""
    return {
        "row": row.name,
        "block": row.block,
        "label": row.label,
        "reference": row.reference,
        "warm_start": row.start,
        "seed": run.seed,
        "sha256": run.sha256,
        "run": run.row.name,
        **record,
    }


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write records, one JSON object in each line, all or nothing."""
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read records of :func:`write_lines`.

    Raises:
        ConfigError: If the file is missing, or a line is not a record.
    """
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; run some rows first, or name their folder with --output")
    lines = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            lines.append(dict(json.loads(line)))
            lines[-1]["row"], lines[-1]["accuracy"]["test"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}, line {number}: not a whole record; delete it, and run the same rows again without "
                "--table-only: it is written anew from the runs, none of which is repeated"
            ) from error
    return lines


def _looking(families: Mapping[str, Any], asked: Sequence[str] | None) -> tuple[int, int]:
    """Return right answers and questions of the families that need looking."""
    some = [share for name, share in families.items() if asked is None or name in asked]
    return sum(share["hits"] for share in some), sum(share["count"] for share in some)


def _mean_accuracy(line: Mapping[str, float], asked: Sequence[str] | None) -> float:
    """Return the mean accuracy over the families that need looking."""
    names = {name.partition("/")[2]: value for name, value in line.items() if name.startswith("accuracy/")}
    some = [value for name, value in names.items() if asked is None or name in asked]
    return sum(some) / len(some)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _commit() -> str | None:
    """Return the version of the source, with a plus if it was changed since; None outside of a clone."""
    here = Path(__file__).parent
    try:
        head, changed = (
            subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True).stdout  # noqa: S603, S607
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.strip() + ("+" if changed else "")
