"""Which runs rows and seeds need, which of them are done, and what all of them together found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablation.processes import Task
from ablation.results import RECORDS, as_line, collect, read_lines, write_lines
from ablation.rows import Catalogue, Row
from ablation.runs import RESULT, Bench, Run, digest_of, write_sealed
from medeyes_monai.errors import ConfigError

__all__ = ["Plan"]


class Plan:
    """All rows of a catalogue on one output folder.

    Rows that come to one configuration, such as the full method and a sweep's value that is the default,
    share the runs of the first of them.

    Args:
        bench: What all runs share.
        catalogue: The rows.
        threads: Threads of each process, for the record.
    """

    def __init__(self, bench: Bench, catalogue: Catalogue, threads: int) -> None:
        """Find out which rows are one."""
        self.bench, self.catalogue, self.threads = bench, catalogue, threads
        self._identities: dict[str, Mapping[str, Any]] = {}
        self._owners: dict[str, Row] = {}
        firsts: dict[str, Row] = {}
        for name, row in catalogue.rows.items():
            self._identities[name] = bench.identity(row)
            self._owners[name] = firsts.setdefault(digest_of(self._identities[name]), row)

    def run_of(self, row: Row, seed: int) -> Run:
        """Return the run that measures a row with a seed."""
        owner = self._owners[row.name]
        return Run(self.bench, owner, seed, self._identities[owner.name])

    def tasks(self, rows: Sequence[Row], seeds: Sequence[int]) -> list[Task]:
        """Return what is left to do, seeds of a row side by side; nothing is changed.

        Raises:
            ConfigError: If a row cannot be run or a folder cannot be used; all that is wrong is said at once.
        """
        for row in rows:
            row.check(self.bench.train, self.bench.settings)
        runs = {run.name: run for row in rows for seed in seeds for run in [self.run_of(row, seed)]}
        left, problems = [], []
        for run in runs.values():
            try:
                if run.state() != "finished":
                    left.append(run)
            except ConfigError as error:
                problems.append(str(error))
        if problems:
            raise ConfigError("\n".join(problems))
        return [self._task(run) for run in left]

    def lines(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Return a line for each row and seed that is finished, and notes on runs that were left out.

        Rows of warm starts that are not named now keep the lines that they have.
        """
        path = self.bench.output / RECORDS
        before = read_lines(path) if path.is_file() else []
        lines, notes = [], []
        for row in self.catalogue.rows.values():
            for seed in self._seeds(row):
                run = self.run_of(row, seed)
                try:
                    if run.state() == "finished":
                        lines.append(as_line(run.result(), row, run))
                except ConfigError as error:
                    notes.append(str(error))
        return [*lines, *(line for line in before if line["row"] not in self.catalogue.rows)], notes

    def write_lines(self) -> list[dict[str, Any]]:
        """Write :meth:`lines`, print the notes, and return the lines."""
        lines, notes = self.lines()
        write_lines(self.bench.output / RECORDS, lines)
        for note in dict.fromkeys(notes):
            print(f"left out: {note}")
        return lines

    def _seeds(self, row: Row) -> list[int]:
        folders = (self.bench.output / "runs" / self._owners[row.name].name).glob("seed-*")
        seeds = (folder.name.removeprefix("seed-") for folder in folders)
        return sorted(int(seed) for seed in seeds if seed.isdecimal())

    def _task(self, run: Run) -> Task:
        def finish(seconds: float) -> None:
            write_sealed(run.folder / RESULT, collect(run, seconds, self.threads))

        return Task(run.name, run.command(), run.folder, run.begin, finish)
