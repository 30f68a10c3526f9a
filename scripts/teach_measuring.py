"""Teaches a policy for volumes to tell how large a lesion is, once with the tool Measure and once without.

Both are taught the same scans of the same volumes for as many steps: look at one candidate after another
until the kind that is asked about is found. Then one measures it and repeats what the tool says, the other
says the size at once. Both are tested on the same volumes; an answer counts if it is within a tenth of the
truth.

    python scripts/teach_measuring.py --output runs/measuring

The output folder gets both policies, ``results.json`` and ``table.md``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from build_volume_policy import COURSE, jittered
from supervised.fitting import teach_episodes
from supervised.lessons import all_lessons
from torch.utils.data import Dataset
from tqdm import tqdm

from medeyes_monai.data.phantom3d import PhantomVQA3D
from medeyes_monai.data.phantom3d_words import WORDS
from medeyes_monai.experts import Reading
from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.metrics import Share, Table
from medeyes_monai.metrics.scoring import answers_match
from medeyes_monai.navigator import conclusion
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.sampler import write_episode
from medeyes_monai.scenes import Case
from medeyes_monai.seeding import numpy_generator
from medeyes_monai.tools import Measure
from medeyes_monai.trajectory import Episode, Fixation, ToolCall, Trajectory

START = Path(__file__).resolve().parents[1] / "bundle" / "models" / "volume_policy"
FAMILIES = ("diameter", "volume")
SAID = {"diameter": re.compile(r"ball of ([\d.]+ mm)"), "volume": re.compile(r"([\d.]+ ml)")}
"""Where the answer to a family stands in the reply of the tool."""
MAX_LOOKS = 4


def taught_path(case: Case, seed: int, tool: Measure | None) -> Trajectory | None:
    """Return a scan that stops at the lesion that is asked about, and measures it if there is a tool.

    None where what the tool says is not within the tolerance of the question.
    """
    rng = numpy_generator("measuring", seed, case.key)
    spots = sorted((finding for finding in case.scene.findings if finding.subtle), key=COURSE.order)
    asked = next(kind for kind in COURSE.vocabulary[-1] if f" {kind} " in case.question)
    thought, looks = f"{len(spots)} candidates", []
    for finding in spots:
        looks.append(Fixation(thought, jittered(finding, case.scene, rng)))
        label = " ".join(finding.label.split()[:WORDS])
        thought = conclusion(label, Reading(None, decisive=False))
        if label.endswith(asked):
            break
    if tool is None:
        return Trajectory(tuple(looks), thought, case.answer)
    call = ToolCall("Measure", thought, jittered(finding, case.scene, rng), after=len(looks))
    reply = tool.use(call, case.scene).reply
    said = SAID[case.family].search(reply)
    if said is None or not answers_match(said[1], case):
        return None
    call = ToolCall("Measure", thought, call.box, reply=reply, after=len(looks))
    return Trajectory(tuple(looks), said[1], said[1], (call,))


class Taught(Dataset[tuple[Episode, Episode] | None]):
    """Of each volume an episode with the tool and the same scan without; None where the tool is wrong."""

    def __init__(self, cases: Dataset[Case], policy: HuggingFacePolicy, seed: int) -> None:
        """Remember what is taught."""
        self.cases, self.policy, self.seed = cases, policy, seed

    def __len__(self) -> int:
        """Number of volumes."""
        return len(self.cases)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Episode, Episode] | None:
        """Write both episodes about one volume."""
        case = self.cases[index]
        paths = [taught_path(case, self.seed, tool) for tool in (Measure(), None)]
        written = [write_episode(path, case, self.policy) for path in paths if path is not None]
        return (written[0], written[1]) if len(written) == 2 else None


def right_answers(policy: HuggingFacePolicy, cases: Dataset[Case], tools: Sequence[str]) -> dict[str, Share]:
    """Ask a policy all questions, and return the share of right answers by family."""
    policy.train(False)
    inferer = EpisodeInferer(max_looks=MAX_LOOKS, tools=tools)
    right: dict[str, list[bool]] = {family: [] for family in FAMILIES}
    for index in tqdm(range(len(cases)), desc="test"):  # type: ignore[arg-type]
        case = cases[index]
        (episode,) = inferer([case], policy)
        answer = episode.trajectory.answer
        right[case.family].append(answer is not None and answers_match(answer, case))
    return {family: Share.of(flags) for family, flags in right.items()}


def main() -> None:
    """Teach both policies, test them, and write down what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/measuring"), help="folder of the results")
    parser.add_argument("--start", type=Path, default=START, help="the policy that is taught")
    parser.add_argument("--volumes", type=int, default=1000, help="number of volumes")
    parser.add_argument("--steps", type=int, default=400, help="steps of each policy")
    parser.add_argument("--batch", type=int, default=24, help="episodes in a step")
    parser.add_argument("--test-size", type=int, default=200, help="questions that are tested")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw volumes")
    parser.add_argument("--seed", type=int, default=4000, help="seed of volumes and paths")
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    volumes = PhantomVQA3D("train", size=asked.volumes, seed=asked.seed, families=FAMILIES)
    taught = Taught(volumes, HuggingFacePolicy(asked.start), asked.seed)
    pairs = [pair for pair in all_lessons(taught, asked.workers) if pair is not None]
    test = PhantomVQA3D("test", size=asked.test_size, families=FAMILIES)
    found: dict[str, dict[str, Share]] = {}
    for which, (name, tools) in enumerate({"with Measure": ["Measure"], "without": []}.items()):
        policy = HuggingFacePolicy(asked.start, freeze_vision=False)
        episodes = [pair[which] for pair in pairs]
        teach_episodes(
            policy, episodes, steps=asked.steps, batch=asked.batch, rate=5e-4, seed=asked.seed, name=name
        )
        policy.save(asked.output / name.replace(" ", "_").lower())
        found[name] = right_answers(policy, test, tools)
    rows = [
        (
            family,
            str(found["without"][family].count),
            *(shares[family].percent() for shares in found.values()),
        )
        for family in FAMILIES
    ]
    table = Table(("within a tenth", "n", *found), tuple(rows)).markdown()
    kept = {"taught": len(pairs), "volumes": asked.volumes, "steps": asked.steps, "seed": asked.seed}
    shares = {name: {f: share.to_dict() for f, share in some.items()} for name, some in found.items()}
    write_atomic(asked.output / "results.json", (json.dumps(kept | shares, indent=1) + "\n").encode())
    write_atomic(asked.output / "table.md", f"{table}\n".encode())
    print(f"\n{table}")


if __name__ == "__main__":
    main()
