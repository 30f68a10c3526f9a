"""Tells what limits a policy on the embedded benchmark: does it find lesions, name them, count them?

Four shares, in percent with 95 % intervals, over questions that need looking:

- *finds*: lesions and look-alikes whose middle lies in one of the policy's own looks;
- *names*: of those, shown to it one after another by a scan that is not its own, the kinds that it reads off;
- *counts*: questions at which its first words state the right number of candidates;
- *answers*: questions that it answers right.

    python scripts/diagnose_policy.py runs/tiny/policy bundle/models/tiny_policy
    python scripts/diagnose_policy.py runs/volume/policy --volumes
"""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Sequence
from pathlib import Path

from supervised.course import Course
from supervised.paths import random_stop_path
from torch.utils.data import Dataset
from tqdm import tqdm

from medeyes_monai.data.phantom import LOOK_FAMILIES, PhantomVQA
from medeyes_monai.data.phantom3d import PhantomVQA3D
from medeyes_monai.data.phantom3d_words import LOOK_FAMILIES_3D
from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.metrics import Share, Table
from medeyes_monai.metrics.scoring import answers_match
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.rollout import rollout
from medeyes_monai.scenes import Case, Finding
from medeyes_monai.trajectory import Episode, Trajectory

MEASURES = ("finds", "names", "counts", "answers")
STATED = re.compile(r"<reasoning>(\d+) candidates?\b")
ALL_LOOKS = (0.0, 0.0, 0.0, 1.0)
"""A scan that stops after four looks, which no question has more candidates than."""
BATCH = 32


def candidates(case: Case) -> list[Finding]:
    """Return what only a look tells: lesions and their look-alikes."""
    return [finding for finding in case.scene.findings if finding.subtle]


def found(episode: Episode, case: Case) -> list[bool]:
    """Tell for each candidate whether an own look holds its middle."""
    boxes = episode.trajectory.boxes
    return [any(box.contains(finding.box.centre) for box in boxes) for finding in candidates(case)]


def named(policy: HuggingFacePolicy, course: Course, cases: Sequence[Case]) -> list[bool]:
    """Show a policy every candidate, one after another, and tell whether it says the right kind."""
    asked, begun, kinds = [], [], []
    for case in cases:
        path = random_stop_path(course, case, 0, 0, ALL_LOOKS)
        thoughts = [*(look.reasoning for look in path.fixations[1:]), path.reasoning]
        for looks, thought in enumerate(thoughts[: len(path.fixations)], start=1):
            asked.append(case)
            begun.append(Trajectory(path.fixations[:looks]))
            kinds.append(_kind(thought))
    episodes = rollout(policy, asked, draws=1, greedy=True, begun=begun, stop=lambda: True)
    said = [ep.turns[len(path.fixations)] for ep, path in zip(episodes, begun, strict=True)]
    return [
        _kind(turn.removeprefix("<reasoning>").partition("<")[0]) == kind
        for turn, kind in zip(said, kinds, strict=True)
    ]


def counted(episode: Episode, case: Case) -> bool:
    """Tell whether the first words state how many candidates there are."""
    stated = STATED.match(episode.turns[0])
    return stated is not None and int(stated[1]) == len(candidates(case))


def diagnose(policy: HuggingFacePolicy, course: Course, data: Dataset[Case]) -> dict[str, Share]:
    """Return the four shares of a policy."""
    flags: dict[str, list[bool]] = {name: [] for name in MEASURES}
    policy.train(False)
    for start in tqdm(range(0, len(data), BATCH), desc="batches"):  # type: ignore[arg-type]
        cases = [data[n] for n in range(start, min(start + BATCH, len(data)))]  # type: ignore[arg-type]
        flags["names"] += named(policy, course, cases)
        for case, episode in zip(cases, EpisodeInferer()(cases, policy), strict=True):
            answer = episode.trajectory.answer
            flags["finds"] += found(episode, case)
            flags["counts"].append(counted(episode, case))
            flags["answers"].append(answer is not None and answers_match(answer, case))
    return {name: Share.of(some) for name, some in flags.items()}


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
    course = importlib.import_module("build_volume_policy" if asked.volumes else "build_tiny_policy").COURSE
    kind, families = (PhantomVQA3D, LOOK_FAMILIES_3D) if asked.volumes else (PhantomVQA, LOOK_FAMILIES)
    rows = []
    for folder in asked.policies:
        policy = HuggingFacePolicy(folder)
        for split in asked.splits.split(","):
            shares = diagnose(policy, course, kind(split, size=asked.size, families=families))
            rows.append((str(folder), split, *(shares[name].percent() for name in MEASURES)))
    print(f"\n{Table(('policy', 'split', *MEASURES), tuple(rows)).markdown()}")


def _kind(thought: str) -> str:
    """Return the kind in a thought such as "left large solid; open", or nothing."""
    return next(iter(thought.partition(";")[0].split()[-1:]), "")


if __name__ == "__main__":
    main()
