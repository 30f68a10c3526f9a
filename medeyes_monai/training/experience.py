"""Gathers the experience of one step: the policy's own episodes and the expert's, scored and measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from monai.inferers import Inferer

from medeyes_monai.geometry import Box
from medeyes_monai.policy import Policy
from medeyes_monai.protocol import DEFECTS
from medeyes_monai.sampler import PathSource, describe_paths, write_episode
from medeyes_monai.scenes import Case
from medeyes_monai.training.lost_items import LostItems
from medeyes_monai.trajectory import Episode, Stream

logger = logging.getLogger(__name__)

__all__ = ["Experience", "describe_episodes", "gather"]

Reward = Callable[[Episode, Case], Episode]
"""Fills in an episode's reward."""
DEFECT = "policy/defect/"
"""Begins the name of the share of own episodes with a kind of defect."""
REPEATED = 0.5
"""IoU from which one look repeats another."""


@dataclass(frozen=True, slots=True, eq=False)
class Experience:
    """The scored episodes of a step, all questions and both streams (N episodes).

    Args:
        episodes: The episodes.
        question: Number of each episode's question. Shape ``[N]``, int64.
        is_expert: Stream of each. Shape ``[N]``, bool.
        rewards: Reward of each. Shape ``[N]``, float32.
        numbers: What to log about the paths that were drawn for the expert's stream.
    """

    episodes: tuple[Episode, ...]
    question: torch.Tensor
    is_expert: torch.Tensor
    rewards: torch.Tensor
    numbers: Mapping[str, float] = field(default_factory=dict)


def gather(
    policy: Policy,
    cases: Sequence[Case],
    *,
    inferer: Inferer,
    reward: Reward,
    sampler: PathSource | None,
    seed: int,
    step: int,
    resample: int = 0,
    lost: LostItems | None = None,
) -> Experience:
    """Draw policy episodes for some questions, write the expert's paths beside them, and score both.

    Args:
        policy: The policy, whose episodes are drawn by address ``(seed, step)``.
        cases: The questions of the step.
        inferer: Draws the policy's episodes.
        reward: Scores an episode.
        sampler: Draws expert paths; None for the policy's stream alone.
        seed: Seed of the run.
        step: Number of the step.
        resample: How often a question whose policy episodes all have one reward is drawn anew.
        lost: Counts the questions at which the expert failed.

    Raises:
        ExpertError: If the expert failed at too many questions.
    """
    drawn = [reward(episode, case) for episode, case in _draw(policy, cases, inferer, (seed, step))]
    for attempt in range(resample):
        uniform = [case for case in cases if len({e.reward for e in drawn if e.case == case.key}) < 2]
        if not uniform:
            break
        keys = {case.key for case in uniform}
        again = _draw(policy, uniform, inferer, (seed, step, "resample", attempt))
        drawn = [e for e in drawn if e.case not in keys] + [reward(e, case) for e, case in again]
    numbers: dict[str, float] = {}
    if sampler is not None:
        written, numbers = _expert_episodes(policy, cases, sampler, step, lost or LostItems())
        drawn += [reward(episode, case) for episode, case in written]
    number = {case.key: n for n, case in enumerate(cases)}
    return Experience(
        episodes=tuple(drawn),
        question=torch.tensor([number[episode.case] for episode in drawn]),
        is_expert=torch.tensor([episode.stream == "expert" for episode in drawn]),
        rewards=torch.tensor([episode.reward for episode in drawn]),
        numbers=numbers,
    )


def _expert_episodes(
    policy: Policy, cases: Sequence[Case], sampler: PathSource, step: int, lost: LostItems
) -> tuple[list[tuple[Episode, Case]], dict[str, float]]:
    """Write the kept paths of each question as episodes; return them and what to log about the paths."""
    written, asked = [], []
    for case in cases:
        asked.append(lost.ask(sampler, case, step))
        kept = [path.trajectory for path in asked[-1] if path.fate == "kept"]
        for draw, path in enumerate(kept):
            episode = write_episode(path, case, policy, draw)
            if len(episode) <= policy.max_tokens:
                written.append((episode, case))
            else:
                logger.warning(
                    f"{case.key}: an expert's path of {len(episode)} tokens is left out; "
                    f"the policy has room for {policy.max_tokens}"
                )
    numbers = describe_paths(asked) | {"lost_share": lost.share}
    return written, {f"expert/{name}": value for name, value in numbers.items()}


def _draw(
    policy: Policy, cases: Sequence[Case], inferer: Inferer, address: tuple[int | str, ...]
) -> list[tuple[Episode, Case]]:
    by_key = {case.key: case for case in cases}
    return [(episode, by_key[episode.case]) for episode in inferer(cases, policy, address=address)]


def describe_episodes(episodes: Sequence[Episode], cases: Mapping[str, Case]) -> dict[str, float]:
    """Return what to log about the episodes of a step, for each stream that has some.

    Names are ``policy/…`` and ``expert/…``: ``reward``, ``reward/<part>``, ``looks``, ``tokens_per_episode``,
    ``tokens_per_turn``, ``longest_turn`` (tokens) and, over episodes that looked at a scene with subtle
    findings, ``gaze_iou`` (the best overlap of a look with one). ``policy/format_rate`` is the share of own
    episodes without a defect, ``policy/defect/<kind>`` the share of those with each kind.
    ``policy/expert_overlap`` is the share of the policy's looks that repeat one of an expert's at
    the same question (an IoU of :data:`REPEATED` or more), over questions at which both looked.
    """
    numbers: dict[str, float] = {}
    streams: tuple[Stream, ...] = ("policy", "expert")
    for stream in streams:
        some = [episode for episode in episodes if episode.stream == stream]
        if not some:
            continue
        numbers[f"{stream}/episodes"] = float(len(some))
        numbers[f"{stream}/reward"] = fmean(episode.reward for episode in some)
        for part in some[0].reward_parts:
            numbers[f"{stream}/reward/{part}"] = fmean(episode.reward_parts[part] for episode in some)
        numbers[f"{stream}/looks"] = fmean(len(episode.trajectory.fixations) for episode in some)
        numbers[f"{stream}/tokens_per_episode"] = fmean(int(episode.response_mask.sum()) for episode in some)
        if turns := [tokens for episode in some for tokens in episode.turn_tokens]:
            numbers[f"{stream}/tokens_per_turn"] = fmean(turns)
            numbers[f"{stream}/longest_turn"] = float(max(turns))
        overlaps = [
            iou for episode in some if (iou := _best_overlap(episode, cases[episode.case])) is not None
        ]
        if overlaps:
            numbers[f"{stream}/gaze_iou"] = fmean(overlaps)
    defects = [episode.defect for episode in episodes if episode.stream == "policy"]
    if defects:
        numbers["policy/format_rate"] = defects.count(None) / len(defects)
        numbers |= {DEFECT + kind: defects.count(kind) / len(defects) for kind in DEFECTS}
    repeated = _repeated_looks(episodes)
    return numbers | ({"policy/expert_overlap": fmean(repeated)} if repeated else {})


def _repeated_looks(episodes: Sequence[Episode]) -> list[bool]:
    """Tell of each look of the policy whether it repeats an expert's, where an expert looked at all."""
    shown: dict[str, list[Box]] = {}
    for episode in episodes:
        if episode.stream == "expert":
            shown.setdefault(episode.case, []).extend(episode.trajectory.boxes)
    return [
        any(box.iou(other) >= REPEATED for other in shown[episode.case])
        for episode in episodes
        if episode.stream == "policy" and shown.get(episode.case)
        for box in episode.trajectory.boxes
    ]


def _best_overlap(episode: Episode, case: Case) -> float | None:
    """Return the best IoU of a look with a subtle finding; None where there is no pair of them."""
    targets = [finding.box for finding in case.scene.findings if finding.subtle]
    overlaps = [box.iou(target) for box in episode.trajectory.boxes for target in targets]
    return max(overlaps, default=None)
