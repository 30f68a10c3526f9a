"""The stages in their order: reading, perception, whole episodes, and hasty ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from medeyes_monai.policy import HuggingFacePolicy
from supervised.course import Course
from supervised.fitting import teach_episodes
from supervised.lessons import Lesson
from supervised.paths import HASTE
from supervised.perception import teach_perception
from supervised.reading import teach_reading

__all__ = ["OVERVIEWS", "add_stages", "begin_with", "teach"]

OVERVIEWS = 32
"""Overviews in a step of perception."""


def add_stages(
    parser: argparse.ArgumentParser,
    *,
    perception: int,
    reading: int,
    protocol: int,
    hasty: int,
    batch: int,
    start: Path | None = None,
) -> None:
    """Add the options of the stages, with these defaults."""
    parser.add_argument("--output", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--start", type=Path, default=start, help="the policy that is begun with")
    parser.add_argument("--perception-steps", type=int, default=perception)
    parser.add_argument("--reading-steps", type=int, default=reading)
    parser.add_argument("--protocol-steps", type=int, default=protocol)
    parser.add_argument("--hasty-steps", type=int, default=hasty)
    parser.add_argument("--batch", type=int, default=batch, help="episodes in a protocol step")
    parser.add_argument(
        "--haste", type=float, default=HASTE, help="how often a scan of the last stage stops after one look"
    )


def begin_with(policy: HuggingFacePolicy, start: Path | None) -> None:
    """Copy the weights of another policy of the same size, and the embeddings of tokens that both have.

    Args:
        policy: The policy that is to be taught.
        start: Folder of the other; None leaves everything as it is.
    """
    if start is None:
        return
    known = HuggingFacePolicy(start)
    theirs, ours = known.conversation.tokenizer.get_vocab(), policy.conversation.tokenizer.get_vocab()
    table = policy.core.get_input_embeddings().weight.detach()
    shared = [token for token in ours if token in theirs]
    rows = known.core.get_input_embeddings().weight.detach()[[theirs[token] for token in shared]]
    table[[ours[token] for token in shared]] = rows
    state = known.core.state_dict()
    kept = {
        name: value for name, value in state.items() if "embed_tokens" not in name and "lm_head" not in name
    }
    policy.core.load_state_dict(kept, strict=False)


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
