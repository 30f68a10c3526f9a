"""Teaches a language model what findings, told in words, say about a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from medeyes_monai.experts import Reading
from medeyes_monai.navigator import conclusion
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.trajectory import Episode, Trajectory
from supervised.course import Course, told
from supervised.fitting import fit, said_loss

__all__ = ["in_text", "teach_reading", "told_episode"]


def told_episode(policy: HuggingFacePolicy, course: Course, rng: np.random.Generator) -> Episode:
    """Write an episode without pictures: findings are told, what they say about a question is taught."""
    question, asked = course.question(rng)
    pool = [*asked, *course.vocabulary[-1]]  # so that what is asked for is often there
    tokens = [*policy.conversation.prompt(policy.instruction.replace("{question}", question), ())]
    mask, seen = [False] * len(tokens), []
    reading = Reading(None, decisive=False)
    for _ in range(int(rng.integers(1, 5))):
        seen.append(told(course, pool, rng))
        reading = course.reader.read(question, seen, ())
        thought = policy.encode(f"<reasoning>{conclusion(seen[-1], reading)}")
        known = len(policy.encode(f"<reasoning>{seen[-1]}"))
        tokens += thought
        mask += [n >= known for n in range(len(thought))]
    end = [*policy.encode(f"</reasoning><answer>{reading.answer}</answer>"), policy.end_of_turn]
    return in_text(tokens + end, mask + [reading.answer is not None] * len(end))


def in_text(tokens: Sequence[int], taught: Sequence[bool]) -> Episode:
    """Return an episode of words alone, and which of its tokens are taught."""
    return Episode(
        case="told",
        stream="expert",
        draw=0,
        token_ids=torch.tensor(tokens),
        response_mask=torch.tensor(taught),
        behaviour_logprobs=torch.zeros(len(tokens)),
        pictures=(),
        turns=(),
        trajectory=Trajectory(),
    )


def teach_reading(
    policy: HuggingFacePolicy,
    draw: Callable[[np.random.Generator], Episode],
    *,
    steps: int,
    batch: int,
    seed: int,
    name: str = "reading",
) -> None:
    """Teach the language model with episodes of words alone, each drawn anew."""
    rng = np.random.default_rng(seed)

    def loss() -> torch.Tensor:
        return said_loss(policy, [draw(rng) for _ in range(batch)])

    fit([{"params": list(policy.core.model.language_model.parameters()), "lr": 1e-3}], loss, steps, name)
