"""Tells what limits a policy on the embedded benchmark: does it find lesions, name them, count them?

Four shares, in percent with 95 % intervals, over questions that need looking:

- *finds*: lesions and look-alikes whose middle lies in one of the policy's own looks;
- *names*: lesions and look-alikes whose kind it says when a scan that is not its own has looked at them;
- *counts*: questions at which its first words state the right number of candidates;
- *answers*: questions that it answers right.

    python scripts/diagnose_policy.py runs/tiny/policy bundle/models/tiny_policy
    python scripts/diagnose_policy.py runs/volume/policy --volumes
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from math import nan
from pathlib import Path

from supervised import pictures, volumes
from supervised.course import Course
from supervised.paths import random_stop_path
from torch.utils.data import Dataset
from tqdm import tqdm

from medeyes_monai.data.phantom import PhantomVQA
from medeyes_monai.data.phantom3d import PhantomVQA3D
from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.metrics import Estimate, Table, estimates, marked_findings
from medeyes_monai.metrics.scoring import answers_match
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.protocol import parse_turn
from medeyes_monai.rollout import rollout
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode, Trajectory

MEASURES = ("finds", "names", "counts", "answers")
STATED = re.compile(r"(\d+) candidates?\b")
ALL_LOOKS = (0.0, 0.0, 0.0, 1.0)
"""A scan that stops after four looks, which no question has more candidates than."""
BATCH = 32


def found(episode: Episode, case: Case) -> list[bool]:
    """Tell for each candidate whether an own look holds its middle."""
    boxes = episode.trajectory.boxes
    return [any(box.contains(marked.centre) for box in boxes) for marked in marked_findings(case)]


def named(policy: HuggingFacePolicy, course: Course, cases: Sequence[Case]) -> list[list[bool]]:
    """Show a policy every candidate, one after another, and tell whether it says the right kind."""
    asked, begun, kinds = [], [], []
    for number, case in enumerate(cases):
        path = random_stop_path(course, case, 0, 0, ALL_LOOKS)
        thoughts = [*(look.reasoning for look in path.fixations[1:]), path.reasoning]
        for looks, thought in enumerate(thoughts[: len(path.fixations)], start=1):
            asked.append(number)
            begun.append(Trajectory(path.fixations[:looks]))
            kinds.append(kind_of(thought))
    episodes = rollout(
        policy, [cases[n] for n in asked], draws=1, greedy=True, begun=begun, stop=lambda: True
    )
    right: list[list[bool]] = [[] for _ in cases]
    for number, episode, path, kind in zip(asked, episodes, begun, kinds, strict=True):
        right[number].append(kind_of(parse_turn(episode.turns[len(path.fixations)]).reasoning) == kind)
    return right


def counted(episode: Episode, case: Case) -> bool:
    """Tell whether the first thought states how many candidates there are."""
    path = episode.trajectory
    stated = STATED.match(path.fixations[0].reasoning if path.fixations else path.reasoning)
    return stated is not None and int(stated[1]) == len(marked_findings(case))


def diagnose(policy: HuggingFacePolicy, course: Course, data: Dataset[Case]) -> dict[str, Estimate]:
    """Return the four shares of a policy with their intervals, by resampling images."""
    rows = []
    policy.train(False)
    for start in tqdm(range(0, len(data), BATCH), desc="batches"):  # type: ignore[arg-type]
        cases = [data[n] for n in range(start, min(start + BATCH, len(data)))]  # type: ignore[arg-type]
        done = zip(cases, EpisodeInferer()(cases, policy), named(policy, course, cases), strict=True)
        for case, episode, kinds in done:
            answer = episode.trajectory.answer
            right = answer is not None and answers_match(answer, case)
            few = [(mark, kind, nan, nan) for mark, kind in zip(found(episode, case), kinds, strict=True)]
            rows += [(case.scene.key, row) for row in (*few, (nan, nan, counted(episode, case), right))]
    means = estimates([row for _, row in rows], [image for image, _ in rows])
    return dict(zip(MEASURES, means, strict=True))


def kind_of(thought: str) -> str:
    """Return the kind in a thought such as "left large solid; open", or nothing."""
    return next(iter(thought.partition(";")[0].split()[-1:]), "")


def main() -> None:
    """Diagnose the policies that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("policies", nargs="+", type=Path, help="folders of policies")
    parser.add_argument("--volumes", action="store_true", help="PhantomVQA-3D in place of PhantomVQA")
    parser.add_argument("--splits", default="test,ood", help="splits, with commas between")
    parser.add_argument("--size", type=int, default=200, help="questions of a split")
    asked = parser.parse_args()
    course = volumes.COURSE if asked.volumes else pictures.COURSE
    kind = PhantomVQA3D if asked.volumes else PhantomVQA
    rows = []
    for folder in asked.policies:
        policy = HuggingFacePolicy(folder)
        for split in asked.splits.split(","):
            shares = diagnose(policy, course, kind(split, size=asked.size, families=course.look_families))
            rows.append((str(folder), split, *(shares[name].percent() for name in MEASURES)))
    print(f"\n{Table(('policy', 'split', *MEASURES), tuple(rows)).markdown()}")


if __name__ == "__main__":
    main()
