"""Made to answer early: how probable the reference answer is after none, one, two of a policy's own looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from medeyes_monai.metrics import answer_confidence
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.sampler import write_episode
from medeyes_monai.scenes import Case
from medeyes_monai.tools import Tool
from medeyes_monai.trajectory import Episode, Trajectory

__all__ = ["cut_path", "early_answers"]


def cut_path(path: Trajectory, looks: int, answer: str) -> Trajectory:
    """Return the beginning of a path, made to answer where it would have looked on.

    What is thought before the answer is what was thought before the look that is cut off, so that nothing is
    said that was seen later.

    Args:
        path: A complete path.
        looks: Looks that are kept, with the calls of tools that follow the last of them.
        answer: The answer.

    Example:
        >>> from medeyes_monai.geometry import Box
        >>> from medeyes_monai.trajectory import Fixation
        >>> whole = Trajectory((Fixation("something left", Box((0, 0), (8, 8))),), "it is solid", "solid")
        >>> cut_path(whole, 0, "solid")
        Trajectory(fixations=(), reasoning='something left', answer='solid', calls=())
    """
    kept = path.fixations[:looks]
    thought = path.fixations[looks].reasoning if looks < len(path.fixations) else path.reasoning
    return Trajectory(kept, thought, answer, tuple(call for call in path.calls if call.after <= looks))


def early_answers(
    policy: HuggingFacePolicy,
    cases: Sequence[Case],
    episodes: Sequence[Episode],
    *,
    tools: Sequence[Tool] = (),
    batch: int = 64,
) -> list[tuple[float, ...]]:
    """Return the probability of each reference answer after 0, 1, … n of the looks that were taken.

    The words of the answer are not drawn: after the policy's own first looks it is made to answer with the
    reference, and the probability of those tokens is taken, given all before. (Known as early answering where
    reasoning is cut instead of looks, Lanham et al. 2023.)

    Args:
        policy: Who took the looks.
        cases: The questions, with a reference answer and with pixels.
        episodes: What was done, one for each question.
        tools: Tools of the paths' calls that change how later looks are shown.
        batch: Episodes that are scored side by side.

    Returns:
        Of each question n + 1 probabilities; none for an episode without an answer.
    """
    owners: list[int] = []
    forced: list[Episode] = []
    for owner, (case, episode) in enumerate(zip(cases, episodes, strict=True)):
        some = _forced(policy, case, episode.trajectory, tools)
        owners += [owner] * len(some)
        forced += some
    found: list[list[float]] = [[] for _ in cases]
    for start in range(0, len(forced), batch):
        for owner, episode in zip(
            owners[start:], _scored(policy, forced[start : start + batch]), strict=False
        ):
            found[owner].append(answer_confidence(episode, policy.decode))
    return [tuple(chances) for chances in found]


def _forced(policy: HuggingFacePolicy, case: Case, path: Trajectory, tools: Sequence[Tool]) -> list[Episode]:
    if path.answer is None or not case.answer:
        return []
    cut = [cut_path(path, looks, case.answer) for looks in range(len(path.fixations) + 1)]
    return [write_episode(one, case, policy, tools=tools) for one in cut]


def _scored(policy: HuggingFacePolicy, episodes: Sequence[Episode]) -> list[Episode]:
    with torch.inference_mode():
        chances = policy.score(episodes).logprobs.cpu()
    return [
        replace(episode, behaviour_logprobs=row[: len(episode)])
        for episode, row in zip(episodes, chances, strict=True)
    ]
