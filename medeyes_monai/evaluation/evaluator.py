"""The evaluator that writes down every answer, goes on after a stop, and asks under conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import Evaluator
from monai.utils import CommonKeys
from torch.utils.data import DataLoader, Dataset

from medeyes_monai.errors import ConfigError
from medeyes_monai.evaluation.identity import data_identity
from medeyes_monai.evaluation.journal import Journal
from medeyes_monai.evaluation.records import Answered, Record, record_of
from medeyes_monai.evaluation.respondents import Respondent
from medeyes_monai.metrics.faithfulness import BLANKED, MIRRORED
from medeyes_monai.metrics.scoring import OWN, preset
from medeyes_monai.scenes import CONDITIONS, NEEDS_LOOKS, Case, under_condition

__all__ = ["RecordingEvaluator"]

Asked = tuple[int, Case]
"""An item of the data set with its number."""


class RecordingEvaluator(Evaluator):
    """Asks every question of a data set once and appends what is done to a file.

    A run that was stopped, even by ``kill -9``, goes on with the questions that are not in the file. Only the
    pixels of one batch are in memory. ``engine.state.output`` holds answer (``CommonKeys.PRED``) and score of
    each question of a batch, and the mean score of this run so far.

    Args:
        respondent: Who is asked.
        dataset: The questions.
        path: The file, such as ``predictions.jsonl``.
        preset: Protocol by which answers are scored while it runs, and each question is checked.
        batch: Questions in an iteration.
        seed: Seed of random places.
        split: Name of the split that is asked, for the record.
        condition: One of :data:`~medeyes_monai.scenes.CONDITIONS`, or None for the questions as they are.
        unchanged: Under a condition, the evaluator that asked the questions as they are. Under all but
            ``mirrored``, only those are asked again at which there was a look.
        early: Whether questions are answered early too, after each look, where the respondent can; of the
            conditions only under ``blanked``, which tells what looks would add that show nothing.
        handlers: Ignite or MONAI handlers.

    Raises:
        ConfigError: If there is no such condition or protocol, or a condition comes without ``unchanged``.
    """

    def __init__(
        self,
        respondent: Respondent,
        dataset: Dataset[Case],
        path: str | Path,
        *,
        preset: str = OWN,
        batch: int = 64,
        seed: int = 0,
        split: str | None = None,
        condition: str | None = None,
        unchanged: RecordingEvaluator | None = None,
        early: bool = True,
        handlers: Sequence[Any] | None = None,
    ) -> None:
        """Check the settings; no file is touched yet."""
        if condition is not None and (condition not in CONDITIONS or unchanged is None):
            raise ConfigError(
                f"a condition is one of {', '.join(CONDITIONS)} and needs the unchanged run, "
                f"got {condition!r}"
            )
        if batch < 1:
            raise ConfigError(f"batch must be at least 1, got {batch}")
        super().__init__(
            device=torch.device("cpu"),  # of the batches, which hold no tensors
            val_data_loader=DataLoader(dataset, batch_size=batch, collate_fn=list),
            val_handlers=handlers,
            decollate=False,
        )
        self.respondent, self.dataset, self.path = respondent, dataset, Path(path)
        self.preset, self.judge = preset, _judge_of(preset)
        self.batch, self.seed, self.split = batch, seed, split
        self.condition, self.unchanged, self.early = (
            condition,
            unchanged,
            early and condition in (None, BLANKED),
        )
        self._journal: Journal | None = None
        self._keys: set[str] = set()
        self._scores: list[float] = []

    @property
    def records(self) -> list[Record]:
        """What was answered so far, by item.

        Raises:
            ConfigError: If nothing was run.
        """
        if self._journal is None:
            raise ConfigError("nothing was asked yet; run the evaluator first")
        return [self._journal.records[item] for item in sorted(self._journal.records)]

    @property
    def skipped(self) -> int:
        """Number of items that could not be read and were left out."""
        return 0 if self._journal is None else len(self._journal.skipped)

    @property
    def identity(self) -> dict[str, Any]:
        """What the run depends on."""
        return {
            "respondent": dict(self.respondent.identity),
            "data": {"split": self.split} | data_identity(self.dataset),
            "condition": self.condition,
            "seed": self.seed,
        }

    def run(self, global_epoch: int = 1) -> None:
        """Ask every question that is not in the file yet.

        Raises:
            ConfigError: If the file is of another run or damaged, or a question cannot be scored.
        """
        self._journal = Journal(self.path, self.identity)
        self._keys = {record.case.key for record in self._journal.records.values()}
        self._scores = []
        missing = sorted(self._wanted() - self._journal.done)
        items = _Items(self.dataset, missing, self._changed)
        self.data_loader = DataLoader(items, batch_size=self.batch, collate_fn=list)
        self.state.epoch_length = len(self.data_loader)
        if missing:
            super().run(global_epoch)

    def _wanted(self) -> set[int]:
        """Return the numbers of the items that are asked."""
        if self.unchanged is None or self.condition == MIRRORED:
            return set(range(len(self.dataset)))  # type: ignore[arg-type]
        return {record.item for record in self.unchanged.records if record.episode.trajectory.boxes}

    def _changed(self, item: int, case: Case) -> Case:
        """Return a question as it is shown."""
        if self.condition is None or self.unchanged is None:
            return case
        looks = {}
        if self.condition in NEEDS_LOOKS:
            before = {record.item: record.episode.trajectory.boxes for record in self.unchanged.records}
            looks = {case.key: before[item]}
        others = [self._another(item, case)] if self.condition == "other_image" else []
        return under_condition(self.condition, [case, *others], looks, self.seed)[0]

    def _another(self, item: int, case: Case) -> Case:
        """Return the next question about another image, so that who is asked beside whom does not matter."""
        number = len(self.dataset)  # type: ignore[arg-type]
        for step in range(1, number):
            other = self.dataset[(item + step) % number]
            if other.scene.key != case.scene.key and len(other.scene.shape) == len(case.scene.shape):
                return other
        return case  # there is none, which the condition refuses

    def _iteration(self, engine: Engine, batchdata: list[Asked]) -> list[dict[str, Any]]:
        journal = self._journal
        if journal is None:
            raise ConfigError("nothing is open to write to; call run")
        fresh: list[Asked] = []
        skipped: dict[int, str] = {}
        for item, case in batchdata:
            if case.key in self._keys:  # an unreadable item that was skipped repeats another question
                skipped[item] = case.key
                continue
            self._keys.add(case.key)
            fresh.append((item, case))
        for item, case in fresh:
            self._check(item, case)
        answered = self.respondent.answer([case for _, case in fresh]) if fresh else []
        early = self._early([case for _, case in fresh], answered)
        records = [
            record_of(item, case, said, chances)
            for (item, case), said, chances in zip(fresh, answered, early, strict=True)
        ]
        journal.append(records, skipped)
        return [self._output(record) for record in records] or [{}]

    def _early(self, cases: list[Case], answered: Sequence[Answered]) -> Sequence[tuple[float, ...]]:
        if not self.early or not cases:
            return [() for _ in cases]
        return self.respondent.answer_early(cases, answered)

    def _output(self, record: Record) -> dict[str, Any]:
        answer = record.episode.trajectory.answer
        self._scores.append(0.0 if answer is None else self.judge(answer, record.case).score)
        mean = math.fsum(self._scores) / len(self._scores)
        return {CommonKeys.PRED: answer, "score": self._scores[-1], "mean score": mean}

    def _check(self, item: int, case: Case) -> None:
        """Refuse a question that could not be scored before anybody is asked."""
        if case.answer is None:
            raise ConfigError(
                f"item {item} ({case.key}) has no reference answer, which an evaluation needs; leave such "
                "items out, or ask them by the verb infer"
            )
        try:
            self.judge(case.answer, case)
        except ConfigError as error:
            raise ConfigError(f"item {item}: {error}") from error


class _Items(Dataset[Asked]):
    """Some items of a data set with their numbers, as they are shown."""

    def __init__(self, dataset: Dataset[Case], numbers: Sequence[int], change: Any) -> None:
        self.dataset, self.numbers, self.change = dataset, list(numbers), change

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Asked:
        number = self.numbers[index]
        return number, self.change(number, self.dataset[number])


def _judge_of(name: str) -> Any:
    return preset(name).judge
