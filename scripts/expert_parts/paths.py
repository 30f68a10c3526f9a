"""Do the paths over an expert find the lesion that a question is about?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from expert_parts.boxes import percent
from medeyes_monai.data.phantom import LOOK_FAMILIES, PhantomReader, PhantomVQA
from medeyes_monai.data.phantom_image import BENIGN, KINDS
from medeyes_monai.experts import Expert, MemoExpert, RandomBoxExpert
from medeyes_monai.geometry import Box
from medeyes_monai.navigator import Navigator
from medeyes_monai.rewards import answers_match
from medeyes_monai.sampler import PathSampler
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Trajectory

LEGIBLE = 128
"""Longest side of a look that shows a kind: with 64 x 64 pixels, half the resolution. Unit: pixels."""


def needed(case: Case) -> list[Box]:
    """Return the lesions that a question of PhantomVQA is about; none where there is none to be found."""
    lesions = [f for f in case.scene.findings if f.subtle and not f.label.endswith(BENIGN)]
    asked = [kind for kind in KINDS if kind in case.question] or KINDS
    return [f.box for f in lesions if f.label.split()[-1] in asked]


def finds(path: Trajectory, lesions: Sequence[Box], longest: int | None = None) -> bool:
    """Tell whether a look of a path holds the centre of one of the lesions.

    Args:
        path: The path.
        lesions: What is to be found.
        longest: Longest side of a look that counts; None for any.
    """
    looks = [box for box in path.boxes if longest is None or max(box.extent) <= longest]
    return any(look.contains(lesion.centre) for look in looks for lesion in lesions)


@dataclass
class Tally:
    """What was counted over the paths of an expert."""

    items: int = 0
    needing: int = 0  # items whose question is about a lesion that is there
    paths: int = 0  # drawn for those
    paths_that_find: int = 0
    paths_that_show: int = 0
    items_found: int = 0
    kept: int = 0
    kept_right: int = 0
    items_with_a_path: int = 0
    drawn: int = 0
    looks: int = 0

    def figures(self) -> dict[str, float | int | None]:
        """Return shares, in percent."""
        return {
            "items": self.items,
            "items that need a lesion": self.needing,
            "paths that find it": percent(self.paths_that_find, self.paths),
            f"the same with looks up to {LEGIBLE} px": percent(self.paths_that_show, self.paths),
            "items of which a path finds it": percent(self.items_found, self.needing),
            "paths kept": percent(self.kept, self.drawn),
            "kept paths answered right": percent(self.kept_right, self.kept),
            "items with a kept path": percent(self.items_with_a_path, self.items),
            "looks of a path": round(self.looks / max(1, self.drawn), 2),
        }


def measure_paths(name: str, sampler: PathSampler, cases: Sequence[Case]) -> dict[str, Any]:
    """Draw the paths of each question and count what they find."""
    tally = Tally()
    for case in tqdm(cases, desc=name, unit="question"):
        _count(tally, sampler, case)
    return tally.figures()


def _count(tally: Tally, sampler: PathSampler, case: Case) -> None:
    drawn, lesions = sampler.draw(case), needed(case)
    kept = [path.trajectory for path in drawn if path.fate == "kept"]
    tally.items += 1
    tally.drawn += len(drawn)
    tally.looks += sum(len(path.trajectory.fixations) for path in drawn)
    tally.kept += len(kept)
    tally.kept_right += sum(path.answer is not None and answers_match(path.answer, case) for path in kept)
    tally.items_with_a_path += bool(kept)
    if lesions:
        found = [finds(path.trajectory, lesions) for path in drawn]
        tally.needing += 1
        tally.paths += len(drawn)
        tally.paths_that_find += sum(found)
        tally.paths_that_show += sum(finds(path.trajectory, lesions, LEGIBLE) for path in drawn)
        tally.items_found += any(found)


def samplers(experts: dict[str, Expert], seed: int) -> dict[str, PathSampler]:
    """Return a sampler for each expert that answers, and one for random boxes, which have no answer."""
    reader = PhantomReader()
    made = {
        name: PathSampler(Navigator(MemoExpert(expert), reader=reader), answers_match, seed=seed)
        for name, expert in experts.items()
    }
    control = Navigator(MemoExpert(RandomBoxExpert(seed=seed)))
    return {**made, "random boxes": PathSampler(control, prune=False, on_no_answer="reference", seed=seed)}


def phantom_cases(number: int) -> list[Case]:
    """Return questions of the val split that need looking, each family as often."""
    cases = PhantomVQA("val", size=number, families=LOOK_FAMILIES)
    return [cases[index] for index in range(number)]


def drill_calibration(
    expert: Expert, cases: Sequence[Case], describe: Callable[[Case], Sequence[tuple[Box, str]]]
) -> dict[str, Any]:
    """Compare the confidence of drills without a question in mind with how often their words are right."""
    told = []
    for case in cases:
        for box, label in describe(case):
            verdict = expert.drill(case.scene, box, case.question)
            told.append((verdict.confidence, verdict.finding == label))
    mean = sum(confidence for confidence, _ in told) / len(told)
    return {
        "drills": len(told),
        "named right": percent(sum(right for _, right in told), len(told)),
        "mean confidence": round(100 * mean, 1),
    }
