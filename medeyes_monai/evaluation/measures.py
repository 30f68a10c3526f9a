"""Everything that is measured of a run, from its records alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from medeyes_monai.errors import ConfigError
from medeyes_monai.evaluation.abstention import Abstention, abstention
from medeyes_monai.evaluation.records import Record, cases_and_episodes
from medeyes_monai.metrics import (
    Calibration,
    Change,
    Grounding,
    GroundingMetric,
    Laterality,
    LookGain,
    LookStep,
    Progression,
    ProgressionMetric,
    Scores,
    Share,
    answer_change,
    calibration,
    laterality,
    look_curve,
    look_gains,
    marked_findings,
    score,
)
from medeyes_monai.metrics.faithfulness import BLANKED, MIRRORED
from medeyes_monai.metrics.scoring import OWN

__all__ = ["Measured", "measure"]


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of a run.

    Args:
        counts: Questions, images, answers, and why there is none.
        scores: By the name of the protocol, the one that was chosen first.
        refused: Why another protocol does not fit these questions, by its name.
        families: Share of right answers by the chosen protocol, by family.
        majority: The same of always giving the answer that was most frequent in training; or None.
        grounding: Looks against what is marked; None where nothing is.
        sought: The same without what only looks like it; None where that is not told.
        progression: How looks go on.
        curve: Score by the number of looks that are allowed.
        gains: What each look adds to the probability of the reference answer; empty where it is not known.
        grey_gains: The same where looks show grey.
        calibration: Confidence against being right; None where confidence is not known.
        abstention: What is left when unsure answers are withheld; None as well.
        changes: What becomes of the answers under conditions, by name.
        laterality: What becomes of answers that name a side in the mirror; None where that was not asked.
        notes: What could not be measured, and why.
    """

    counts: Mapping[str, Any]
    scores: Mapping[str, Scores]
    refused: Mapping[str, str]
    families: Mapping[str, Share]
    majority: Mapping[str, Share] | None
    grounding: Grounding | None
    sought: Grounding | None
    progression: Progression
    curve: tuple[LookStep, ...]
    gains: tuple[LookGain, ...]
    grey_gains: tuple[LookGain, ...]
    calibration: Calibration | None
    abstention: Abstention | None
    changes: Mapping[str, Change]
    laterality: Laterality | None
    notes: tuple[str, ...]

    @property
    def chosen(self) -> Scores:
        """Scores by the protocol that was chosen."""
        return next(iter(self.scores.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain values that JSON can hold."""
        steps = [
            {"looks": step.looks, "score": step.score.to_dict(), "answered": step.answered}
            for step in self.curve
        ]
        sides = self.laterality
        return {
            "preset": self.chosen.preset,
            "counts": dict(self.counts),
            "scores": {name: scores.to_dict() for name, scores in self.scores.items()},
            "refused": dict(self.refused),
            "families": _shares(self.families),
            "majority": None if self.majority is None else _shares(self.majority),
            "grounding": None if self.grounding is None else self.grounding.to_dict(),
            "sought": None if self.sought is None else self.sought.to_dict(),
            "progression": self.progression.to_dict()
            | {
                "by_looks": steps,
                "gains": [gain.to_dict() for gain in self.gains],
                "gains_blanked": [gain.to_dict() for gain in self.grey_gains],
            },
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "abstention": None if self.abstention is None else self.abstention.to_dict(),
            "faithfulness": {name: change.to_dict() for name, change in self.changes.items()},
            "laterality": None
            if sides is None
            else _shares({"followed": sides.followed, "stuck": sides.stuck}),
            "notes": list(self.notes),
        }


def measure(
    records: Sequence[Record],
    *,
    preset: str = OWN,
    also: Sequence[str] = (),
    conditions: Mapping[str, Sequence[Record]] | None = None,
    gaze_families: Collection[str] | None = None,
    look_alikes: Collection[str] = (),
    looks: int = 4,
    risk: float = 0.1,
    majority: Mapping[str, Share] | None = None,
) -> Measured:
    """Measure a run.

    Args:
        records: Its answered questions, each once.
        preset: The protocol that is chosen.
        also: Further protocols; one that does not fit the questions is left out and said.
        conditions: Records of the same questions under conditions, by name.
        gaze_families: Families whose looks are compared with what is marked; None for all.
        look_alikes: Words of the labels of findings that only look like what is sought.
        looks: Largest k of ``hit@k``.
        risk: Largest share of wrong answers among those that are given, for abstention.
        majority: Shares by family of the majority answer.

    Raises:
        ConfigError: If there are no records, or the chosen protocol does not fit.
    """
    if not records:
        raise ConfigError("there are no answered questions to measure; is the data set empty?")
    scores, refused = _scores(records, preset, also)
    chosen = scores[preset]
    notes = [f"{name}: {reason}" for name, reason in refused.items()]
    changes, sides = _changes(records, chosen, conditions or {}, notes)
    sure = _calibration(records, chosen, notes)
    return Measured(
        counts=_counts(records),
        scores=scores,
        refused=refused,
        families=_families(records, chosen),
        majority=majority,
        grounding=_grounding(records, looks, gaze_families, notes),
        sought=_grounding(records, looks, gaze_families, notes, look_alikes) if look_alikes else None,
        progression=_progression(records),
        curve=look_curve(_cut_runs(chosen)),
        gains=_gains(records, notes),
        grey_gains=_gains((conditions or {}).get(BLANKED, ()), []),
        calibration=sure,
        abstention=None if sure is None else abstention(sure, _images(records), risk),
        changes=changes,
        laterality=sides,
        notes=tuple(notes),
    )


def _scores(
    records: Sequence[Record], preset: str, also: Sequence[str]
) -> tuple[dict[str, Scores], dict[str, str]]:
    episodes, cases = cases_and_episodes(records)
    scores, refused = {preset: score(episodes, cases, preset)}, {}
    for name in dict.fromkeys(also):
        if name == preset:
            continue
        try:
            scores[name] = score(episodes, cases, name)
        except ConfigError as error:
            refused[name] = str(error)
    return scores, refused


def _counts(records: Sequence[Record]) -> dict[str, Any]:
    defects = Counter(record.episode.defect for record in records if record.episode.defect)
    answers = [record.episode.trajectory.answer for record in records]
    looks = [len(record.episode.trajectory.boxes) for record in records]
    return {
        "questions": len(records),
        "images": len(set(_images(records))),
        "answered": sum(answer is not None for answer in answers),
        "looked": sum(number > 0 for number in looks),
        "looks": float(np.mean(looks)),
        "seconds": round(math.fsum(record.seconds for record in records), 3),
        "defects": dict(sorted(defects.items())),
    }


def _families(records: Sequence[Record], chosen: Scores) -> dict[str, Share]:
    right = dict(zip(chosen.cases, chosen.score == 1, strict=True))
    names = sorted({record.case.family for record in records})
    return {
        name: Share.of(right[record.case.key] for record in records if record.case.family == name)
        for name in names
    }


def _grounding(
    records: Sequence[Record],
    looks: int,
    families: Collection[str] | None,
    notes: list[str],
    look_alikes: Collection[str] = (),
) -> Grounding | None:
    metric = GroundingMetric(partial(marked_findings, look_alikes=look_alikes), looks, families=families)
    metric(*cases_and_episodes(records))
    found = metric.aggregate()
    if not found.count:
        but = f" but {', '.join(look_alikes)}" if look_alikes else ""
        notes.append(f"grounding: the data mark nothing in these images{but}")
    return found if found.count else None


def _progression(records: Sequence[Record]) -> Progression:
    metric = ProgressionMetric()
    metric(*cases_and_episodes(records))
    return metric.aggregate()


def _gains(records: Sequence[Record], notes: list[str]) -> tuple[LookGain, ...]:
    known = [record for record in records if record.early]
    if known and len(known) < len(records):
        notes.append(
            f"what each look adds: {len(records) - len(known)} of {len(records)} questions were not answered "
            "early, because they have no answer or were asked without it"
        )
    return look_gains([record.early for record in known], _images(known))


def _cut_runs(chosen: Scores) -> dict[int, Scores]:
    """Return what would have been scored with fewer looks: a path that wants more gives no answer.

    The likeliest words are taken, so that a path with fewer looks allowed is the beginning of the same path.
    """
    return {k: _cut(chosen, k) for k in range(int(chosen.looks.max()) + 1)}


def _cut(scores: Scores, looks: int) -> Scores:
    kept = scores.looks <= looks
    answers = tuple(answer if keep else None for answer, keep in zip(scores.answers, kept, strict=True))
    return replace(scores, answers=answers, score=np.where(kept, scores.score, 0.0))


def _calibration(records: Sequence[Record], chosen: Scores, notes: list[str]) -> Calibration | None:
    sure = [record.confidence for record in records if record.confidence is not None]
    if len(sure) < len(records):
        unknown = len(records) - len(sure)
        notes.append(f"calibration: the probability of {unknown} of {len(records)} answers is not known")
        return None
    right = dict(zip(chosen.cases, chosen.score == 1, strict=True))
    return calibration(sure, [right[record.case.key] for record in records])


def _changes(
    records: Sequence[Record], chosen: Scores, conditions: Mapping[str, Sequence[Record]], notes: list[str]
) -> tuple[dict[str, Change], Laterality | None]:
    changes: dict[str, Change] = {}
    sides = None
    for name, asked in conditions.items():
        if not asked:
            notes.append(f"{name}: there was no look at any question, so that nothing would change")
            continue
        changed = score(*cases_and_episodes(asked), chosen.preset)
        changes[name] = answer_change(name, chosen.restrict(changed.cases), changed)
        if name == MIRRORED:
            sides = laterality(chosen.restrict(changed.cases), changed)
    return changes, sides


def _images(records: Sequence[Record]) -> list[str]:
    return [record.case.scene.key for record in records]


def _shares(shares: Mapping[str, Share]) -> dict[str, Any]:
    return {name: share.to_dict() for name, share in shares.items()}
