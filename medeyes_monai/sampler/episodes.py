"""An expert's path in the form of an episode: the text, tokens and crops that a rollout would have had."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medeyes_monai.errors import ProtocolError
from medeyes_monai.policy import Policy, written_steps
from medeyes_monai.protocol import render_answer
from medeyes_monai.scenes import Case
from medeyes_monai.tools import Tool
from medeyes_monai.trajectory import Episode, Picture, Trajectory

__all__ = ["write_episode"]


def write_episode(
    trajectory: Trajectory, case: Case, policy: Policy, draw: int = 0, tools: Sequence[Tool] = ()
) -> Episode:
    """Write an expert's path as the episode that the policy would have produced (method, section 3).

    Text, tokens and crops are those of a rollout: boxes are rounded to the frame in which the policy speaks,
    and the crops are taken at the coordinates that were written.

    Args:
        trajectory: A complete path, boxes in voxels of the scene.
        case: The question.
        policy: Whose frame, tokens and pictures are used.
        draw: Number of the path within its question.
        tools: Tools of the path's calls that change how later looks are shown.

    Returns:
        An episode of the ``expert`` stream: response mask True on each turn's tokens and its end,
        behaviour log-probabilities 0, trajectory as written, in voxels of the scene.

    Raises:
        ProtocolError: If the path has no answer, or a text that the protocol cannot hold.
    """
    if trajectory.answer is None:
        raise ProtocolError(f"{case.key}: a path without an answer is not an episode; drop it or give it one")
    written, steps = written_steps(trajectory, case, policy, tools)
    answer = render_answer(trajectory.reasoning, trajectory.answer)
    prompt = policy.prompt(case)
    tokens, mask = list(prompt.token_ids), [False] * len(prompt.token_ids)
    pictures: list[Picture] = list(prompt.pictures)
    for step in steps:
        tokens += (*step.said, *step.feedback.token_ids)
        mask += [True] * len(step.said) + [False] * len(step.feedback.token_ids)
        pictures += step.feedback.pictures
    said = (*policy.encode(answer), policy.end_of_turn)
    tokens += said
    mask += [True] * len(said)
    return Episode(
        case=case.key,
        stream="expert",
        draw=draw,
        token_ids=torch.tensor(tokens, dtype=torch.int64),
        response_mask=torch.tensor(mask, dtype=torch.bool),
        behaviour_logprobs=torch.zeros(len(tokens)),
        pictures=tuple(pictures),
        turns=(*(step.text for step in steps), answer),
        trajectory=written,
    )
