"""Compares finished runs on the same questions, from their files alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medeyes_monai.errors import ConfigError
from medeyes_monai.evaluation.journal import read_predictions
from medeyes_monai.evaluation.records import cases_and_episodes
from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.metrics import Scores, Table, compare_runs, score, score_table
from medeyes_monai.metrics.scoring import OWN

__all__ = ["compare_predictions"]


def compare_predictions(
    runs: Sequence[str | Path],
    *,
    preset: str = OWN,
    shared: bool = False,
    output: str | Path | None = None,
) -> Table:
    """Score runs by one protocol and compare each with the first, paired question by question.

    Differences have a paired bootstrap interval, and McNemar's exact test where answers are right or wrong.

    Args:
        runs: Folders of evaluations, or files of predictions.
        preset: The protocol.
        shared: Compare on the questions that all runs have; else runs on other questions are refused.
        output: Folder into which ``comparison.md`` and ``comparison.json`` are written; None writes nothing.

    Raises:
        ConfigError: If there are fewer than two runs, one cannot be read, or they cannot be compared.
    """
    if len(runs) < 2:
        raise ConfigError(f"a comparison needs at least two runs, got {len(runs)}")
    scores = {name: _scores(run, preset) for name, run in zip(_names(runs), runs, strict=True)}
    if shared:
        common = set.intersection(*(set(run.cases) for run in scores.values()))
        scores = {name: run.restrict(common) for name, run in scores.items()}
    table = score_table(scores)
    if output is not None:
        _write(Path(output), scores, table)
    return table


def _scores(run: str | Path, preset: str) -> Scores:
    _, records, _ = read_predictions(run)
    if not records:
        raise ConfigError(f"{run} holds no answers yet; let the evaluation run first")
    episodes, cases = cases_and_episodes(records)
    return score(episodes, cases, preset)


def _names(runs: Sequence[str | Path]) -> list[str]:
    """Return short names of runs that tell them apart."""
    names = [Path(run).stem if Path(run).is_file() else Path(run).resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [f"{n}: {name}" for n, name in enumerate(names, start=1)]
    return names


def _write(folder: Path, scores: dict[str, Scores], table: Table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    compared: dict[str, Any] = {name: pair.to_dict() for name, pair in compare_runs(scores).items()}
    content = {
        "first": next(iter(scores)),
        "scores": {name: run.to_dict() for name, run in scores.items()},
        "others_less_the_first": compared,
    }
    write_atomic(folder / "comparison.md", (table.markdown() + "\n").encode())
    write_atomic(folder / "comparison.json", (json.dumps(content, indent=1) + "\n").encode())
