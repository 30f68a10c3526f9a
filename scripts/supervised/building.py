"""The stages in their order: reading, perception, whole episodes, and hasty ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy import HuggingFacePolicy
from supervised.course import Course
from supervised.fitting import teach_episodes
from supervised.lessons import Lesson
from supervised.paths import HASTE
from supervised.perception import teach_perception
from supervised.reading import teach_reading, told_episode

__all__ = ["OVERVIEWS", "add_stages", "begin_with", "check_folders", "teach"]

OVERVIEWS = 32
"""Overviews in a step of perception."""
WORDS = ("embed_tokens.weight", "lm_head.weight")
"""Ends the names of weights that belong to the words of a tokenizer."""


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
    parser.add_argument("--start", type=Path, default=start, help="folder of a policy that is begun with")
    parser.add_argument("--perception-steps", type=int, default=perception)
    parser.add_argument("--reading-steps", type=int, default=reading)
    parser.add_argument("--protocol-steps", type=int, default=protocol)
    parser.add_argument("--hasty-steps", type=int, default=hasty)
    parser.add_argument("--batch", type=int, default=batch, help="episodes in a protocol step")
    parser.add_argument(
        "--haste", type=float, default=HASTE, help="how often a scan of the last stage stops after one look"
    )


def check_folders(asked: argparse.Namespace) -> None:
    """Refuse to write over the policy that is begun with.

    Raises:
        ConfigError: If output and start are one folder.
    """
    if asked.start is not None and asked.start.resolve() == asked.output.resolve():
        raise ConfigError(f"--output and --start are both {asked.start}; give another --output")


def begin_with(policy: HuggingFacePolicy, start: Path | None) -> None:
    """Copy the weights of another policy of the same size, and the embeddings of tokens that both have.

    Args:
        policy: The policy that is to be taught.
        start: Folder of the other; None leaves everything as it is.

    Raises:
        ConfigError: If the other has weights of other shapes.
    """
    if start is None:
        return
    known = HuggingFacePolicy(start)
    ours, theirs = (
        {name: value for name, value in one.core.state_dict().items() if not name.endswith(WORDS)}
        for one in (policy, known)
    )
    shapes = [{name: tuple(value.shape) for name, value in some.items()} for some in (ours, theirs)]
    if shapes[0] != shapes[1]:
        odd = sorted(name for name in {**ours, **theirs} if shapes[0].get(name) != shapes[1].get(name))
        raise ConfigError(
            f"{start} has other weights than the policy that is built: {len(odd)} differ in name or shape, "
            f"the first is {odd[0]}; begin with a policy that these programs have built"
        )
    policy.core.load_state_dict(theirs, strict=False)
    words, known_words = (one.conversation.tokenizer.get_vocab() for one in (policy, known))
    shared = [word for word in words if word in known_words]
    table, known_table = (one.core.get_input_embeddings().weight.detach() for one in (policy, known))
    table[[words[word] for word in shared]] = known_table[[known_words[word] for word in shared]]


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
    teach_reading(
        policy,
        partial(told_episode, policy, course),
        steps=asked.reading_steps,
        batch=2 * asked.batch,
        seed=asked.seed + 3,
    )
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
