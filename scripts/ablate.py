"""Runs rows of the ablation with several seeds, and makes a table and plots of what they found.

    python scripts/ablate.py --list
    python scripts/ablate.py --block components,doubts --seeds 0,1,2 --jobs 2
    python scripts/ablate.py --rows full,no_grn --seeds 0
    python scripts/ablate.py --block warm_starts --seeds 0,1,2 --warm-starts weak=300,middle=700,strong=1500
    python scripts/ablate.py --table-only

A row is a file of ``configs/ablation``; adding a row is adding a file (``_base.yaml`` says what it may hold).
Each row and seed is one process of ``python -m medeyes_monai train`` in ``<output>/runs/<row>/seed-<n>``;
what it says goes to ``log.txt`` there. A run that has finished is never repeated, one that was interrupted
goes on, and rows that come to the same configuration share one run. ``<output>`` gets ``results.jsonl`` with
a record for each row and seed, ``table.md``, and plots.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablation.plan import Plan
from ablation.plots import draw
from ablation.processes import run_all
from ablation.results import RECORDS, read_lines
from ablation.rows import Catalogue, Row, read_rows
from ablation.runs import Bench
from ablation.tables import markdown
from ablation.warm_starts import read_warm_starts, tasks_for

from medeyes_monai.errors import ConfigError
from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.io.configs import read_setting

EXIT_FAILED, EXIT_REFUSED, EXIT_STOPPED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for.

    Returns:
        0; 1 if a run failed; 2 if nothing was run, because something is wrong; 130 if it was stopped.
    """
    asked = _parser().parse_args(arguments)
    try:
        return _run(asked)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return EXIT_STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", default="", help="rows, with commas between; a file's name means all of its"
    )
    parser.add_argument("--block", default="", help="blocks of rows, with commas between")
    parser.add_argument("--seeds", default="0,1,2", help="seeds, with commas between")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"), help="folder of the results")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, help="threads of each run; all CPUs shared if not given")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an id, for every row"
    )
    parser.add_argument(
        "--warm-starts", metavar="NAME=PATH|STEPS,...", help="policies of the rows that ask for them"
    )
    parser.add_argument(
        "--table-only", action="store_true", help="table and plots of the records that are there"
    )
    parser.add_argument("--list", action="store_true", help="say which rows there are")
    parser.add_argument("--configs", type=Path, default=Path("configs/ablation"), help="folder of the rows")
    parser.add_argument("--bundle", type=Path, default=Path("bundle"), help="folder of the bundle")
    return parser


def _run(asked: argparse.Namespace) -> int:
    if asked.table_only:
        _show(asked.output, read_lines(asked.output / RECORDS))
        return 0
    warm_starts = read_warm_starts(asked.warm_starts, asked.output)
    catalogue = read_rows(asked.configs, {name: start.path for name, start in warm_starts.items()})
    if asked.list:
        _list(catalogue)
        return 0
    seeds, threads = _seeds(asked.seeds), _threads(asked)
    rows = _selected(catalogue, asked)
    needed = [warm_starts[name] for name in dict.fromkeys(row.start for row in rows) if name is not None]
    failures = run_all(tasks_for(needed), jobs=asked.jobs, threads=threads)
    if not failures:
        settings = dict(read_setting(text) for text in asked.set)
        plan = Plan(Bench(asked.bundle, asked.output, settings), catalogue, threads)
        tasks = plan.tasks(rows, seeds)
        asked.output.mkdir(parents=True, exist_ok=True)
        try:
            failures = run_all(tasks, jobs=asked.jobs, threads=threads)
        finally:
            lines = plan.write_lines()
        _show(asked.output, lines)
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return EXIT_FAILED if failures else 0


def _selected(catalogue: Catalogue, asked: argparse.Namespace) -> list[Row]:
    rows, blocks = _words(asked.rows), _words(asked.block)
    if not rows and not blocks:
        raise ConfigError(
            f"give --rows, or --block, one of {', '.join(catalogue.blocks)}; --list names all rows"
        )
    return catalogue.select(rows, blocks)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _seeds(text: str) -> list[int]:
    words = _words(text)
    if not words or not all(word.isdecimal() for word in words):
        raise ConfigError(f"--seeds are whole numbers with commas between, got {text!r}")
    return sorted({int(word) for word in words})


def _threads(asked: argparse.Namespace) -> int:
    """Return the threads of a run: what is asked for, or a fair share of the CPUs."""
    if asked.jobs < 1 or (asked.threads is not None and asked.threads < 1):
        raise ConfigError("--jobs and --threads must be at least 1")
    return int(asked.threads or max(1, (os.cpu_count() or 1) // asked.jobs))


def _list(catalogue: Catalogue) -> None:
    for block in catalogue.blocks:
        print(block)
        for row in catalogue.rows.values():
            if row.block == block:
                print(f"  {row.name:34} {row.label}")
        for name in (name for name, of in catalogue.need_warm_starts.items() if of == block):
            print(f"  {name:34} with --warm-starts")


def _show(output: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write table and plots, and print the table."""
    if not lines:
        raise ConfigError(f"{output} holds no finished run yet")
    table = markdown(lines)
    write_atomic(output / "table.md", table.encode())
    written = draw(lines, output)
    print(f"\n{table}\nwritten to {output}: {RECORDS}, table.md, {', '.join(path.name for path in written)}")


if __name__ == "__main__":
    sys.exit(main())
