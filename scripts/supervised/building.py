"""The stages in their order: reading, perception, whole episodes, and hasty ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from medeyes_monai.policy import HuggingFacePolicy
from supervised.course import Course
from supervised.fitting import teach_episodes
from supervised.lessons import Lesson
from supervised.perception import teach_perception
from supervised.reading import teach_reading

__all__ = ["OVERVIEWS", "add_stages", "teach"]

OVERVIEWS = 32
"""Overviews in a step of perception."""


def add_stages(
    parser: argparse.ArgumentParser, *, perception: int, reading: int, protocol: int, hasty: int, batch: int
) -> None:
    """Add the options of the stages, with these defaults."""
    parser.add_argument("--output", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--perception-steps", type=int, default=perception)
    parser.add_argument("--reading-steps", type=int, default=reading)
    parser.add_argument("--protocol-steps", type=int, default=protocol)
    parser.add_argument("--hasty-steps", type=int, default=hasty)
    parser.add_argument("--batch", type=int, default=batch, help="episodes in a protocol step")


def teach(
    policy: HuggingFacePolicy, course: Course, lessons: Sequence[Lesson], asked: argparse.Namespace
) -> None:
    """Teach a policy stage by stage, and write it down after each in which it learns to see or to write.

    Args:
        policy: The policy, with a tower that is trained.
        course: What is taught.
        lessons: Episodes and looks.
        asked: Options of :func:`add_stages`, and a seed.
    """
    teach_reading(policy, course, steps=asked.reading_steps, batch=2 * asked.batch, seed=asked.seed + 3)
    teach_perception(
        policy, course, lessons, steps=asked.perception_steps, overviews=OVERVIEWS, seed=asked.seed
    )
    policy.save(asked.output)
    patient = [episode for lesson in lessons for episode in lesson.episodes]
    hasty = [episode for lesson in lessons for episode in lesson.hasty]
    for episodes, steps, rate, seed, name in (
        (patient, asked.protocol_steps, 1e-3, asked.seed + 1, "protocol"),
        (hasty, asked.hasty_steps, 3e-4, asked.seed + 2, "haste"),
    ):
        teach_episodes(policy, episodes, steps=steps, batch=asked.batch, rate=rate, seed=seed, name=name)
        policy.save(asked.output)
