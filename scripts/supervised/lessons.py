"""What is learned from one image: episodes of patient and of hasty scans, and what looks show."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.scenes import Case, Finding
from medeyes_monai.seeding import numpy_generator
from medeyes_monai.trajectory import Episode, Picture
from supervised.course import Course
from supervised.paths import HASTE, PATIENT, random_stop_path, shown, stops, taught_episode

__all__ = ["Lesson", "Lessons", "all_lessons"]

T = TypeVar("T")


@dataclass(frozen=True)
class Lesson:
    """Supervised episodes about one image, of patient and of hasty scans, and what is in it.

    Args:
        episodes: Of patient scans.
        hasty: Of hasty scans.
        looks: Pictures of looks, each with the finding that it shows.
        findings: What only a look tells.
    """

    episodes: list[Episode]
    hasty: list[Episode]
    looks: list[tuple[Picture, str]]
    findings: list[Finding]


class Lessons(Dataset[Lesson]):
    """A lesson for each case.

    Args:
        course: What is taught.
        policy: Who writes the episodes.
        cases: The questions, one about each image.
        seed: Of stops and places.
        paths: Scans of an image, patient and hasty each.
        looks: Looks at each finding of an image beside those of patient scans.
        haste: How often a hasty scan stops after one look.
    """

    def __init__(
        self,
        course: Course,
        policy: HuggingFacePolicy,
        cases: Dataset[Case],
        seed: int,
        paths: int,
        looks: int = 0,
        haste: float = HASTE,
    ) -> None:
        """Remember what is taught."""
        self.course, self.policy, self.cases = course, policy, cases
        self.seed, self.paths, self.looks = seed, paths, looks
        self.stops = (PATIENT, stops(haste))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.cases)

    def __getitem__(self, index: int) -> Lesson:
        """Write the episodes about one image."""
        case = self.cases[index]
        episodes, hasty = (self._episodes(case, stop_after) for stop_after in self.stops)
        looks = [pair for episode in episodes for pair in shown(episode)]
        findings = [finding for finding in case.scene.findings if finding.subtle]
        return Lesson(episodes, hasty, looks + self._more_looks(case, findings), findings)

    def _episodes(self, case: Case, stop_after: Sequence[float]) -> list[Episode]:
        drawn = [
            (draw, random_stop_path(self.course, case, draw, self.seed, stop_after))
            for draw in range(self.paths)
        ]
        return [taught_episode(path, case, self.policy, draw) for draw, path in drawn]

    def _more_looks(self, case: Case, findings: Sequence[Finding]) -> list[tuple[Picture, str]]:
        rng = numpy_generator("looks", self.seed, case.key)
        return [
            (case.scene.look(self.course.region(finding, case.scene, rng)).pixels, finding.label)
            for finding in findings
            for _ in range(self.looks)
        ]


def all_lessons(lessons: Dataset[T], workers: int) -> list[T]:
    """Return every lesson of any kind, written by some processes."""
    loader = DataLoader(lessons, batch_size=None, num_workers=workers)
    # copied, because what a worker sends holds a file descriptor for each tensor
    return [copy.deepcopy(lesson) for lesson in tqdm(loader, desc="images")]
