"""Systematic scans that stop at a random moment, as episodes whose answer is taught only if it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import Candidate
from medeyes_monai.navigator import conclusion
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.sampler import write_episode
from medeyes_monai.scenes import Case
from medeyes_monai.seeding import numpy_generator
from medeyes_monai.trajectory import Episode, Fixation, Picture, Trajectory
from supervised.course import Course

__all__ = ["GUESS", "HASTE", "PATIENT", "random_stop_path", "shown", "stops", "taught_episode"]

GUESS = "unknown"
"""Stands for an answer that what was seen does not give; it is never taught."""
SYSTEMATIC = 0.85
"""Share of the scans that keep the course's order; the others go in any order."""
PATIENT = (0.25, 0.25, 0.25, 0.25)
"""How often a scan stops after 1, 2, 3 and 4 looks while the policy learns to read what it found."""
HASTE = 0.75
"""How often a hasty scan, of which the last stage consists, stops after one look."""
LESS_HASTY = (0.52, 0.32, 0.16)
"""Of the hasty scans that go on, how often one stops after 2, 3 and 4 looks."""
GLANCING = (0.8, 0.1, 0.1)
"""How often a scan has 0, 1 and 2 looks where a glance is enough."""


def stops(haste: float) -> tuple[float, ...]:
    """Return how often a hasty scan stops after 1, 2, 3 and 4 looks.

    Args:
        haste: How often after 1, from 0 to 1.

    Raises:
        ConfigError: If that is no share.
    """
    if not 0 <= haste <= 1:
        raise ConfigError(f"haste is a share from 0 to 1, got {haste}")
    return (haste, *((1 - haste) * share for share in LESS_HASTY))


def random_stop_path(
    course: Course, case: Case, draw: int, seed: int, stop_after: Sequence[float]
) -> Trajectory:
    """Return a systematic scan that stops at a random moment and answers from what was seen, if it can."""
    rng = numpy_generator("warm", seed, case.key, draw)
    spots = [finding for finding in case.scene.findings if finding.subtle]
    candidates = [Candidate(f.box, 1.0, "candidate" if f.subtle else f.label) for f in case.scene.findings]
    order = sorted(spots, key=course.order)
    if rng.random() > SYSTEMATIC:
        order = [spots[i] for i in rng.permutation(len(spots))]
    if case.family in course.look_families:
        looks = int(rng.choice(4, p=stop_after)) + 1
    else:
        looks = int(rng.choice(3, p=GLANCING))
    thought, fixations, seen = f"{len(spots)} candidates", [], []
    reading = course.reader.read(case.question, seen, candidates)
    for finding in order[:looks]:
        fixations.append(Fixation(thought, course.region(finding, case.scene, rng)))
        seen.append(finding.label)
        reading = course.reader.read(case.question, seen, candidates)
        thought = conclusion(finding.label, reading)
    return Trajectory(tuple(fixations), thought, GUESS if reading.answer is None else reading.answer)


def taught_episode(path: Trajectory, case: Case, policy: HuggingFacePolicy, draw: int) -> Episode:
    """Write an episode whose last turn is trained on only if what was seen gives the answer."""
    episode = write_episode(path, case, policy, draw)
    if path.answer != GUESS:
        return episode
    mask = episode.response_mask.clone()
    mask[-len(policy.encode(GUESS)) - len(policy.encode("</answer>")) - 1 :] = False
    return replace(episode, response_mask=mask)


def shown(episode: Episode) -> list[tuple[Picture, str]]:
    """Return the looks of an episode, each with the finding that the next thought says it shows."""
    path = episode.trajectory
    thoughts = [*(look.reasoning for look in path.fixations[1:]), path.reasoning]
    return [
        (picture, thought.partition(";")[0])
        for picture, thought in zip(episode.pictures[1:], thoughts, strict=False)
    ]
