"""What a run leaves behind: a table, figures, and a page with episodes to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.metrics import Evaluation, Share, compare
from medeyes_monai.policy import HuggingFacePolicy, Policy
from medeyes_monai.reports.attention import attention_of
from medeyes_monai.reports.card import write_card
from medeyes_monai.reports.curves import curves_png, read_records
from medeyes_monai.reports.gaze import gaze_path_figure
from medeyes_monai.reports.page import write_report
from medeyes_monai.reports.warnings import warning_texts, without_warnings
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["Evaluated", "write_summary"]


class Evaluated(Protocol):
    """An evaluator that has run."""

    episodes: list[Episode]
    cases: list[Case]

    @property
    def evaluation(self) -> Evaluation:
        """Summary of the episodes."""


def write_summary(
    directory: str | Path,
    *,
    evaluators: Mapping[str, Evaluated],
    title: str,
    log: str | Path | None = None,
    notes: Sequence[str] = (),
    baseline: Mapping[str, Share] | None = None,
    show: str | None = None,
    episodes: int = 12,
    policy: Policy | None = None,
    saved: str | Path | None = None,
) -> None:
    """Print the evaluations side by side and write them into a folder.

    Writes ``table.md``, ``results.json``, ``gaze_path.png``, ``report/index.html`` and, where there is a log,
    ``curves.png``.

    Args:
        directory: The folder; it is made.
        evaluators: Evaluators that have run, by the name of their column.
        title: Headline of the page.
        log: ``metrics.jsonl`` of the training.
        notes: Paragraphs under the headline.
        baseline: Shares by family of an answer without an image, such as the majority answer.
        show: Column whose episodes are drawn; None for the last.
        episodes: Number of episodes that are drawn: families take turns, in the order of the questions.
        policy: The policy that made them, whose attention is drawn if its family allows it; None draws none.
        saved: Directory in which that policy was saved, which gets a model card; None for none.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    evaluations = {name: evaluator.evaluation for name, evaluator in evaluators.items()}
    table = compare(evaluations, baseline)
    results = {name: evaluation.to_dict() for name, evaluation in evaluations.items()}
    write_atomic(folder / "table.md", (table.markdown() + "\n").encode())
    if saved is not None and isinstance(policy, HuggingFacePolicy):
        write_card(saved, policy, table.markdown())
    write_atomic(folder / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    curves, warnings = None, []
    if log is not None and Path(log).is_file():
        records = read_records(Path(log))
        warnings = warning_texts(records)
        curves = curves_png(without_warnings(records))
        write_atomic(folder / "curves.png", curves)
    shown = evaluators[show if show is not None else list(evaluators)[-1]]
    gaze_path_figure(*_longest_path(shown), folder / "gaze_path.png")
    varied = _varied(shown, episodes)
    attention = attention_of(policy, [episode for episode, _ in varied])
    page = write_report(
        folder / "report",
        title=title,
        tables={"Before and after" if log else "Results": table},
        curves=curves,
        notes=notes,
        episodes=varied,
        warnings=warnings,
        attention=attention,
    )
    print(f"\n{table.markdown()}\n")
    print("".join(f"{text}\n\n" for text in warnings) + f"report: {page}")


def _longest_path(evaluator: Evaluated) -> tuple[Episode, Case]:
    """Return the best rewarded episode with its case; of several, the first with the most looks."""
    by_key = {case.key: case for case in evaluator.cases}
    best = max(evaluator.episodes, key=lambda e: (e.reward, len(e.trajectory.fixations)))
    return best, by_key[best.case]


def _varied(evaluator: Evaluated, number: int) -> list[tuple[Episode, Case]]:
    """Return some episodes with their cases, the families taking turns."""
    by_key = {case.key: case for case in evaluator.cases}
    families: dict[str, list[tuple[Episode, Case]]] = {}
    for episode in evaluator.episodes:
        case = by_key[episode.case]
        families.setdefault(case.family, []).append((episode, case))
    longest = max((len(some) for some in families.values()), default=0)
    turns = [some[n] for n in range(longest) for some in families.values() if n < len(some)]
    return turns[:number]
