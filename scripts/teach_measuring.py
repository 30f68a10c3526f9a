"""Teaches a policy for volumes to tell how large a lesion is, once with the tool Measure and once without.

Both are taught the same scans of the same volumes for as many steps: look at one candidate after another
until the kind that is asked about is found. Then one measures it and repeats what the tool says, the other
says the size at once. The first is also taught, before that and beside it, to repeat replies of the tool
that it is told in words, of which the other has no use. Both are tested on the same volumes, the first also
led to the lesion by looks that are made for it; an answer counts if it is within a tenth of the truth.

    python scripts/teach_measuring.py --output runs/measuring
    python scripts/teach_measuring.py --policy runs/measuring_by_trial/policy --output runs/measured

The output folder gets both policies, ``results.json`` and ``table.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from supervised.fitting import teach_episodes
from supervised.lessons import all_lessons
from supervised.measuring import FAMILIES, Taught, taught_path, told_reply
from supervised.reading import teach_reading
from torch.utils.data import Dataset
from tqdm import tqdm

from medeyes_monai.data.phantom3d import PhantomVQA3D
from medeyes_monai.errors import ConfigError
from medeyes_monai.evaluation.records import RecordedScene
from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.metrics import Scores, Share, Table, paired, score
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.rollout import rollout
from medeyes_monai.scenes import Case
from medeyes_monai.tools import make_tools
from medeyes_monai.trajectory import Episode, Trajectory

START = Path(__file__).resolve().parents[1] / "bundle" / "models" / "volume_policy"
MAX_LOOKS, MAX_TURN_TOKENS, BATCH = 4, 96, 16
RATE = 5e-4
WITH, LED, WITHOUT = "with Measure", "led to the lesion", "without"


def scores_of(
    policy: HuggingFacePolicy, cases: Dataset[Case], tools: Sequence[str], led: bool = False
) -> dict[str, Scores]:
    """Ask a policy all questions, and score its answers by family.

    Args:
        policy: The policy.
        cases: The questions.
        tools: Names of the tools that it may use.
        led: Whether looks up to the lesion that is asked about are made for the policy.
    """
    policy.train(False)
    asked: list[Case] = []
    episodes: list[Episode] = []
    for start in tqdm(range(0, len(cases), BATCH), desc="test"):  # type: ignore[arg-type]
        some = [cases[n] for n in range(start, min(start + BATCH, len(cases)))]  # type: ignore[arg-type]
        paths = [taught_path(case, policy, None) for case in some] if led else []
        episodes += rollout(
            policy,
            some,
            draws=1,
            max_looks=MAX_LOOKS,
            max_turn_tokens=MAX_TURN_TOKENS,
            greedy=True,
            tools=make_tools(tools),
            begun=[Trajectory(path.fixations) for path in paths if path is not None],
        )
        asked += [replace(case, scene=RecordedScene(case.scene.key, case.scene.shape)) for case in some]
    return {
        family: score(
            [episode for episode, case in zip(episodes, asked, strict=True) if case.family == family],
            [case for case in asked if case.family == family],
        )
        for family in sorted({case.family for case in asked})
    }


def table_of(found: Mapping[str, Mapping[str, Scores]]) -> Table:
    """Return the shares of right answers with 95 % intervals, and how many points the tool is worth."""
    rows = []
    for family in found[WITH]:
        some = {name: scores[family] for name, scores in found.items()}
        shares = [Share.of(scores.score == 1).percent() for scores in some.values()]
        worth = [paired(some[WITHOUT], some[WITH]).difference.points()] if WITHOUT in some else []
        rows.append((family, str(len(some[WITH])), *shares, *worth))
    return Table(("within a tenth", "n", *found, *["the tool is worth"] * (WITHOUT in found)), tuple(rows))


def taught(asked: argparse.Namespace) -> Iterator[tuple[str, HuggingFacePolicy]]:
    """Teach both policies; iterate over their names and themselves.

    Raises:
        ConfigError: If the tool is right in none of the volumes.
    """
    volumes = PhantomVQA3D("train", size=asked.volumes, seed=asked.seed, families=FAMILIES)
    lessons = Taught(volumes, HuggingFacePolicy(asked.start))
    pairs = [pair for pair in all_lessons(lessons, asked.workers) if pair is not None]
    if not pairs:
        raise ConfigError(f"the tool was right in none of {asked.volumes} volumes; raise --volumes")
    print(f"taught: {len(pairs)} of {asked.volumes} volumes, where the tool is right")
    for which, name in enumerate((WITH, WITHOUT)):
        policy = HuggingFacePolicy(asked.start, freeze_vision=False)
        told = partial(told_reply, policy) if name == WITH else None
        if told is not None:
            steps, batch = asked.reading_steps, 2 * asked.batch
            teach_reading(policy, told, steps=steps, batch=batch, seed=asked.seed + 1, name="repeating")
        teach_episodes(
            policy,
            [pair[which] for pair in pairs],
            steps=asked.steps,
            batch=asked.batch,
            rate=RATE,
            seed=asked.seed,
            name=name,
            draw=told,
        )
        policy.save(asked.output / name.replace(" ", "_").lower())
        yield name, policy


def main() -> None:
    """Teach both policies or take one, test them, and write down what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/measuring"), help="folder of the results")
    parser.add_argument("--start", type=Path, default=START, help="the policy that is taught")
    parser.add_argument("--policy", type=Path, help="a policy that measures: nothing is taught, it is tested")
    parser.add_argument("--volumes", type=int, default=3000, help="number of volumes")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each policy")
    parser.add_argument("--reading-steps", type=int, default=900, help="steps of repeating the tool")
    parser.add_argument("--batch", type=int, default=24, help="episodes in a step")
    parser.add_argument("--test-size", type=int, default=200, help="questions that are tested")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw volumes")
    parser.add_argument("--seed", type=int, default=4000, help="seed of volumes and paths")
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    test = PhantomVQA3D("test", size=asked.test_size, families=FAMILIES)
    found: dict[str, dict[str, Scores]] = {}
    for name, policy in taught(asked) if asked.policy is None else [(WITH, HuggingFacePolicy(asked.policy))]:
        found[name] = scores_of(policy, test, ["Measure"] * (name == WITH))
        if name == WITH:
            found[LED] = scores_of(policy, test, ["Measure"], led=True)
    table = table_of(found).markdown()
    run = {name: str(value) for name, value in vars(asked).items()}
    answers = {
        name: {key: said for of in scores.values() for key, said in zip(of.cases, of.answers, strict=True)}
        for name, scores in found.items()
    }
    asked.output.mkdir(parents=True, exist_ok=True)
    write_atomic(asked.output / "results.json", (json.dumps(run | answers, indent=1) + "\n").encode())
    write_atomic(asked.output / "table.md", f"{table}\n".encode())
    print(f"\n{table}")


if __name__ == "__main__":
    main()
