"""Made to answer early: how probable the reference answer is after none, one, two of a policy's own looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from medeyes_monai.metrics import answer_confidence
from medeyes_monai.metrics.confidence import turn_spans
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.protocol import render_answer
from medeyes_monai.scenes import Case
from medeyes_monai.training.microbatches import MICRO_TOKENS, micro_batches
from medeyes_monai.trajectory import Episode, Trajectory

__all__ = ["answered_early", "early_answers"]


def answered_early(policy: HuggingFacePolicy, episode: Episode, looks: int, answer: str) -> Episode:
    """Return the beginning of an episode, made to answer where it would have looked on.

    Tokens and pictures up to there are its own. What is thought before the answer is what it thought before
    the look that is cut off, so that nothing is said that was seen later.

    Args:
        policy: Who encodes the answer.
        episode: A complete episode that the policy drew, with its pictures.
        looks: Looks that are kept, with the calls of tools that follow the last of them; at most as many as
            there are.
        answer: The answer.
    """
    path = episode.trajectory
    whole = looks == len(path.fixations)
    calls = tuple(call for call in path.calls if call.after <= looks)
    turn = looks + len(calls)
    thought = path.reasoning if whole else path.fixations[looks].reasoning
    said = [*policy.encode(text := render_answer(thought, answer)), policy.end_of_turn]
    start = turn_spans(episode)[turn][0]
    tokens = torch.cat([episode.token_ids[:start], torch.tensor(said, dtype=torch.int64)])
    return replace(
        episode,
        token_ids=tokens,
        response_mask=torch.arange(len(tokens)) >= start,
        behaviour_logprobs=torch.zeros(len(tokens)),
        pictures=episode.pictures[: looks + 1],
        turns=(*episode.turns[:turn], text),
        trajectory=Trajectory(path.fixations[:looks], thought, answer, calls),
    )


def early_answers(
    policy: HuggingFacePolicy,
    cases: Sequence[Case],
    episodes: Sequence[Episode],
    *,
    micro_tokens: int = MICRO_TOKENS,
) -> list[tuple[float, ...]]:
    """Return the probability of each reference answer after 0, 1, … n of the looks that were taken.

    The words of the answer are not drawn: after the policy's own first looks it is made to answer with the
    reference, and the probability of those tokens is taken, given all before. (Known as early answering where
    reasoning is cut instead of looks, Lanham et al. 2023.) It costs a pass without cache for each look and
    one more.

    Args:
        policy: Who took the looks.
        cases: The questions, with a reference answer.
        episodes: What was done, one for each question, with pictures.
        micro_tokens: Largest number of tokens in one pass, padding included.

    Returns:
        Of each question n + 1 probabilities; none for an episode without an answer.
    """
    owners: list[int] = []
    forced: list[Episode] = []
    for owner, (case, episode) in enumerate(zip(cases, episodes, strict=True)):
        if episode.trajectory.answer is None or not case.answer:
            continue
        for looks in range(len(episode.trajectory.fixations) + 1):
            owners.append(owner)
            forced.append(answered_early(policy, episode, looks, case.answer))
    chances = [0.0] * len(forced)
    for rows in micro_batches([len(episode) for episode in forced], micro_tokens):
        for row, chance in zip(rows, _chances(policy, [forced[row] for row in rows]), strict=True):
            chances[row] = chance
    found: list[list[float]] = [[] for _ in cases]
    for owner, chance in zip(owners, chances, strict=True):
        found[owner].append(chance)
    return [tuple(row) for row in found]


def _chances(policy: HuggingFacePolicy, episodes: Sequence[Episode]) -> list[float]:
    with torch.inference_mode():
        scores = policy.score(episodes).logprobs.cpu()
    scored = [
        replace(episode, behaviour_logprobs=row[: len(episode)])
        for episode, row in zip(episodes, scores, strict=True)
    ]
    return [answer_confidence(episode, policy.decode) for episode in scored]
