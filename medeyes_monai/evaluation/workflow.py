"""What an evaluation leaves behind: figures, tables, plots, and a page with episodes, wrong answers first."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from medeyes_monai.errors import ConfigError
from medeyes_monai.evaluation.evaluator import RecordingEvaluator
from medeyes_monai.evaluation.measures import Measured, measure
from medeyes_monai.evaluation.plots import plots_png
from medeyes_monai.evaluation.records import Record
from medeyes_monai.evaluation.tables import markdown_of, tables_of
from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.metrics import Share, majority_accuracy
from medeyes_monai.metrics.scoring import preset
from medeyes_monai.reports import write_report
from medeyes_monai.reports.filters import outcome_of
from medeyes_monai.scenes import Case
from medeyes_monai.training.handlers import ProgressHandler
from medeyes_monai.trajectory import Episode

__all__ = ["under_conditions", "write_evaluation"]


def under_conditions(
    evaluator: RecordingEvaluator, names: Sequence[str], directory: str | Path
) -> dict[str, RecordingEvaluator]:
    """Return evaluators that ask the same questions under conditions, by name, each with a file of its own.

    Args:
        evaluator: Who asks them as they are; it runs first.
        names: Conditions, see :func:`~medeyes_monai.scenes.under_condition`.
        directory: Where ``predictions-<name>.jsonl`` is written.

    Raises:
        ConfigError: If there is no such condition.
    """
    return {
        name: RecordingEvaluator(
            evaluator.respondent,
            evaluator.dataset,
            Path(directory) / f"predictions-{name}.jsonl",
            batch=evaluator.batch,
            seed=evaluator.seed,
            split=evaluator.split,
            preset=evaluator.preset,
            condition=name,
            early=evaluator.early,
            unchanged=evaluator,
            handlers=[ProgressHandler(name, {"score": "mean score"})],
        )
        for name in dict.fromkeys(names)
    }


def write_evaluation(
    directory: str | Path,
    *,
    evaluator: RecordingEvaluator,
    conditions: Mapping[str, RecordingEvaluator] | None = None,
    also: Sequence[str] = (),
    training: Any = None,
    gaze_families: Collection[str] | None = None,
    look_alikes: Collection[str] = (),
    looks: int = 4,
    risk: float = 0.1,
    title: str = "MedEyes, evaluated",
    show: int = 60,
) -> Measured:
    """Measure a run, print its tables and write everything into a folder.

    Writes ``metrics.json``, ``table.md``, ``plots.png`` and ``report/index.html``, beside the predictions.

    Args:
        directory: The folder; it is made.
        evaluator: Evaluator that has run.
        conditions: Evaluators under conditions that have run, by name.
        also: Further scoring protocols, beside the evaluator's.
        training: Data set whose most frequent answers are the majority baseline; None for none. Where it has
            ``items``, its images are not read.
        gaze_families: Families whose looks are compared with what is marked; None for all.
        look_alikes: Words of the labels of findings that only look like what is sought.
        looks: Largest k of ``hit@k``.
        risk: Largest share of wrong answers among those that are given.
        title: Headline of the page.
        show: Most episodes that are drawn: a third of them right, a third without an answer, where there are
            so many; the surest first.

    Raises:
        ConfigError: If there is nothing to measure, or the protocol does not fit the questions.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    records = evaluator.records
    found = measure(
        records,
        preset=evaluator.preset,
        also=also,
        conditions={name: other.records for name, other in (conditions or {}).items()},
        gaze_families=gaze_families,
        look_alikes=look_alikes,
        looks=looks,
        risk=risk,
        majority=None if training is None else _majority(training, records, evaluator.preset),
    )
    notes = (*_words(evaluator, found), *found.notes)
    tables, plots = tables_of(found), plots_png(found)
    run = {"title": title, "skipped": evaluator.skipped, "run": evaluator.identity}
    _write_json(folder / "metrics.json", run | found.to_dict())
    write_atomic(folder / "table.md", markdown_of(tables, notes).encode())
    write_atomic(folder / "plots.png", plots)
    shown = _shown(records, found, show)
    page = write_report(
        folder / "report",
        title=title,
        tables=tables,
        plots={"Figures of this run": plots},
        notes=notes,
        episodes=[_with_pixels(record, episode, evaluator.dataset) for record, episode in shown],
        filters=True,
        facts=[_facts(record) for record, _ in shown],
    )
    print(f"\n{markdown_of(tables, notes)}\nreport: {page}")
    return found


def _majority(training: Any, records: Sequence[Record], name: str) -> dict[str, Share]:
    known = getattr(training, "items", None)
    cases = [training[n] for n in range(len(training))] if known is None else known
    judge = preset(name).judge
    return majority_accuracy(
        cases, [record.case for record in records], lambda answer, case: judge(answer, case).score == 1
    )


def _words(evaluator: RecordingEvaluator, found: Measured) -> list[str]:
    who, data = evaluator.identity["respondent"], evaluator.identity["data"]
    split = f", split {data['split']}" if data["split"] else ""
    said = [
        f"{found.counts['questions']} questions of {data['class']}{split}; asked by the protocol "
        f"{who['protocol']}, with at most {who['max_looks']} looks; scored by {found.chosen.preset}."
    ]
    if evaluator.skipped:
        said.append(f"Items left out because they could not be read: {evaluator.skipped}.")
    return said


def _shown(records: Sequence[Record], found: Measured, number: int) -> list[tuple[Record, Episode]]:
    """Return what is drawn, with scored episodes: wrong, unanswered and right ones, the surest first."""
    scores = dict(zip(found.chosen.cases, found.chosen.score, strict=True))
    scored = [
        (record, replace(record.episode, reward_parts={"accuracy": float(scores[record.case.key])}))
        for record in records
    ]
    surest = sorted(scored, key=lambda pair: -(pair[0].confidence or 0.0))
    kinds = {
        kind: [pair for pair in surest if outcome_of(pair[1]) == kind]
        for kind in ("wrong", "unanswered", "right")
    }
    third = number // 3
    rest = [*kinds["unanswered"][third:], *kinds["right"][third:]]
    most = number - sum(len(kinds[kind][:third]) for kind in ("unanswered", "right"))
    chosen = [*kinds["wrong"][:most], *kinds["unanswered"][:third], *kinds["right"][:third]]
    chosen += rest[: number - len(chosen)]
    return chosen


def _facts(record: Record) -> dict[str, str]:
    return {} if record.confidence is None else {"confidence": f"{record.confidence:.3f}"}


def _with_pixels(record: Record, episode: Episode, dataset: Dataset[Case]) -> tuple[Episode, Case]:
    case = dataset[record.item]
    if case.key != record.case.key:
        raise ConfigError(
            f"item {record.item} of the data set is {case.key!r}, in the predictions it is "
            f"{record.case.key!r}; has the data set changed?"
        )
    views = [case.scene.overview(), *(case.scene.look(box) for box in episode.trajectory.boxes)]
    return replace(episode, pictures=tuple(view.pixels for view in views)), case


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text.encode("utf-8", errors="replace"))
