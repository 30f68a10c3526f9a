"""An expert's path in the form of an episode: the text, tokens and crops that a rollout would have had."""

from __future__ import annotations

import torch

from medeyes_monai.errors import ProtocolError
from medeyes_monai.policy import Policy
from medeyes_monai.protocol import render_answer, render_fixation
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode, Picture, Trajectory

__all__ = ["write_episode"]


def write_episode(trajectory: Trajectory, case: Case, policy: Policy, draw: int = 0) -> Episode:
    """Write an expert's path as the episode that the policy would have produced (method, section 3).

    Text, tokens and crops are those of a rollout: boxes are rounded to the frame in which the policy speaks,
    and the crops are taken at the coordinates that were written.

    Args:
        trajectory: A complete path, boxes in voxels of the scene.
        case: The question.
        policy: Whose frame, tokens and pictures are used.
        draw: Number of the path within its question.

    Returns:
        An episode of the ``expert`` stream: response mask True on each turn's tokens and its end,
        behaviour log-probabilities 0, trajectory as written, in voxels of the scene.

    Raises:
        ProtocolError: If the path has no answer, or a text that the protocol cannot hold.
    """
    if trajectory.answer is None:
        raise ProtocolError(f"{case.key}: a path without an answer is not an episode; drop it or give it one")
    scene, frame = case.scene, policy.frame(case.scene)
    spoken = trajectory.scale(scene.shape, frame)
    written = spoken.scale(frame, scene.shape)
    turns = [render_fixation(look) for look in spoken.fixations]
    turns.append(render_answer(trajectory.reasoning, trajectory.answer))
    brought = [policy.feedback(scene.look(box)) for box in written.boxes]

    prompt = policy.prompt(case)
    tokens, mask = list(prompt.token_ids), [False] * len(prompt.token_ids)
    pictures: list[Picture] = list(prompt.pictures)
    for number, turn in enumerate(turns):
        said = (*policy.encode(turn), policy.end_of_turn)
        tokens += said
        mask += [True] * len(said)
        if number < len(brought):
            tokens += brought[number].token_ids
            mask += [False] * len(brought[number].token_ids)
            pictures += brought[number].pictures
    return Episode(
        case=case.key,
        stream="expert",
        draw=draw,
        token_ids=torch.tensor(tokens, dtype=torch.int64),
        response_mask=torch.tensor(mask, dtype=torch.bool),
        behaviour_logprobs=torch.zeros(len(tokens)),
        pictures=tuple(pictures),
        turns=tuple(turns),
        trajectory=written,
    )
