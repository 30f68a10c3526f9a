"""Builds a policy for volumes out of the one for pictures: the small Qwen3-VL, taught on PhantomVQA-3D.

It begins with what the policy for pictures knows (weights, and the embedding of each token that both have)
and is taught in three stages: what is in a look, and where candidates are on the contact sheet; what findings
in words say about a question; and systematic scans from the feet to the head that stop at a random moment.
Reinforcement learning is left to teach when to stop.

    python scripts/build_volume_policy.py --output bundle/models/volume_policy

With --start it goes on with a policy that it has built, on other volumes (--seed).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from build_tiny_policy import (
    GUESS,
    LEFT_TO_RIGHT,
    PATIENT,
    fit,
    taught_episode,
    teach_episodes,
)
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from medeyes_monai.data.phantom3d import PhantomVQA3D
from medeyes_monai.data.phantom3d_image import LEVELS, ORGANS, SHAPE
from medeyes_monai.data.phantom3d_words import (
    ANSWERS_3D,
    LOOK_FAMILIES_3D,
    QUESTIONS_3D,
    STAGES,
    PhantomReader3D,
)
from medeyes_monai.data.phantom_image import BENIGN, KINDS
from medeyes_monai.experts import Candidate, Reading
from medeyes_monai.experts.native import least_extent
from medeyes_monai.geometry import Box
from medeyes_monai.navigator import conclusion
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.tiny import make_tiny_checkpoint
from medeyes_monai.scenes import Case, Finding, Scene
from medeyes_monai.seeding import numpy_generator
from medeyes_monai.trajectory import Episode, Fixation, Picture, Trajectory

FAMILIES = (*LOOK_FAMILIES_3D, *STAGES["one glance"])
"""What the policy is taught: families that need no measurement."""
PATHS_PER_VOLUME = 2
JITTER = (6.0, 6.0, 1.5)
"""Standard deviation of a look's place. Unit: voxels."""
LOOK_EXTENT = 32
"""Side of the region around a candidate, along the finest axis. Unit: voxels."""
LOOKALIKE_KINDS = (*KINDS, BENIGN)
TINY = Path(__file__).resolve().parents[1] / "bundle" / "models" / "tiny_policy"
CELLS = 16
"""Slabs of the contact sheet, each of which is one token of the vision tower."""
VOCABULARY = (
    ("left", "right"),
    LEVELS,
    ("liver", "spleen", "kidney"),
    ("small", "large"),
    ("faint", "dense"),
    LOOKALIKE_KINDS,
)
"""The words of a finding, place by place."""


def random_stop_path(case: Case, draw: int, seed: int) -> Trajectory:
    """Return a scan from the feet up that stops at a random moment and answers from what was seen."""
    rng = numpy_generator("warm", seed, case.key, draw)
    spots = [finding for finding in case.scene.findings if finding.subtle]
    candidates = [Candidate(f.box, 1.0, "candidate" if f.subtle else f.label) for f in case.scene.findings]
    order = sorted(spots, key=lambda f: f.box.centre[::-1])
    if rng.random() > LEFT_TO_RIGHT:
        order = [spots[i] for i in rng.permutation(len(spots))]
    is_glance = case.family in STAGES["one glance"]
    looks = int(rng.choice(3, p=(0.8, 0.1, 0.1)) if is_glance else rng.choice(4, p=PATIENT) + 1)
    thought, fixations, seen = f"{len(spots)} candidates", [], []
    reading = PhantomReader3D().read(case.question, seen, candidates)
    for finding in order[:looks]:
        fixations.append(Fixation(thought, jittered(finding, case.scene, rng)))
        seen.append(finding.label)
        reading = PhantomReader3D().read(case.question, seen, candidates)
        thought = conclusion(finding.label, reading)
    return Trajectory(tuple(fixations), thought, GUESS if reading.answer is None else reading.answer)


def jittered(finding: Finding, scene: Scene, rng: np.random.Generator) -> Box:
    """Return a region around a finding, a little off."""
    box = finding.box.expand(scene.shape, minimum=least_extent(scene, LOOK_EXTENT))
    shift = [int(v) for v in np.rint(rng.normal(0, JITTER))]
    start = tuple(a + d for a, d in zip(box.start, shift, strict=True))
    return Box(start, tuple(a + n for a, n in zip(start, box.extent, strict=True))).expand(scene.shape)


@dataclass(frozen=True)
class Lesson:
    """Supervised episodes about one volume, and what is in it."""

    episodes: list[Episode]
    findings: list[Finding]


class Lessons(Dataset[Lesson]):
    """A lesson for each volume."""

    def __init__(self, policy: HuggingFacePolicy, volumes: int, seed: int) -> None:
        """Remember who writes the episodes."""
        self.policy, self.seed = policy, seed
        self.cases = PhantomVQA3D("train", size=volumes, seed=seed, families=FAMILIES)

    def __len__(self) -> int:
        """Number of volumes."""
        return len(self.cases)

    def __getitem__(self, index: int) -> Lesson:
        """Write the episodes about one volume."""
        case = self.cases[index]
        episodes = [
            taught_episode(random_stop_path(case, draw, self.seed), case, self.policy, draw)
            for draw in range(PATHS_PER_VOLUME)
        ]
        return Lesson(episodes, [finding for finding in case.scene.findings if finding.subtle])


class Perception(torch.nn.Module):
    """Linear readings of the vision tower, used only to teach it what is where.

    A look is read for size, density and kind of the candidate in it; each quarter of each cell of the contact
    sheet for whether it holds a candidate's centre, and where in the quarter.
    """

    def __init__(self, policy: HuggingFacePolicy) -> None:
        """Make the readings."""
        super().__init__()
        width = policy.core.config.get_text_config().hidden_size
        self.policy = policy
        self.words = torch.nn.ModuleList(torch.nn.Linear(width, len(words)) for words in VOCABULARY[3:])
        self.place = torch.nn.Linear(width, 4 * 3)

    def features(self, pictures: list[Picture]) -> torch.Tensor:
        """Return the tower's tokens, ``[B, tokens, width]``, for pictures of one size."""
        tokens = torch.cat([shown[0] for shown in self.policy.family.features(pictures)])
        return tokens.reshape(len(pictures), -1, self.place.in_features)

    def look_loss(self, pictures: list[Picture], labels: list[str]) -> torch.Tensor:
        """Cross-entropy of size, density and kind, from the words of findings."""
        tokens, losses = self.features(pictures).mean(1), []
        for number, (reading, words) in enumerate(zip(self.words, VOCABULARY[3:], strict=True), 3):
            truth = torch.tensor([words.index(label.split()[number]) for label in labels])
            losses.append(torch.nn.functional.cross_entropy(reading(tokens), truth))
        return torch.stack(losses).sum()

    def overview_loss(self, pictures: list[Picture], findings: list[list[Finding]]) -> torch.Tensor:
        """Loss of finding the candidates' centres, by cell and quarter of the cell."""
        target = torch.zeros(len(pictures), CELLS, 4, 3)
        for n, some in enumerate(findings):
            for finding in some:
                x, y, z = (v / side for v, side in zip(finding.box.centre, SHAPE, strict=True))
                quarter = 2 * int(2 * y) + int(2 * x)
                target[n, int(CELLS * z), quarter] = torch.tensor([1.0, 2 * x % 1 - 0.5, 2 * y % 1 - 0.5])
        read = self.place(self.features(pictures)).reshape(target.shape)
        there = target[..., 0]
        presence = torch.nn.functional.binary_cross_entropy_with_logits(
            read[..., 0], there, pos_weight=torch.tensor(5.0)
        )
        offset = ((read[..., 1:] - target[..., 1:]).square().sum(-1) * there).sum() / there.sum()
        return 4 * (presence + offset)


def corpus() -> list[str]:
    """Text with every word that the benchmark and its findings use."""
    lines = [word for answers in ANSWERS_3D.values() for word in answers] * 20
    lines += [f"{number} candidates" for number in (2, 3, 4)] * 20
    for question in QUESTIONS_3D.values():
        lines += [question.format(kind, other) for kind in KINDS for other in (*KINDS, "50")] * 3
    rng = np.random.default_rng(0)
    lines += [conclusion(told(rng, LOOKALIKE_KINDS), Reading(None, decisive=False)) for _ in range(600)]
    return [*lines, *(organ.name for organ in ORGANS), "enlarged liver", "normal liver", "mm ml HU"]


def told(rng: np.random.Generator, kinds: Sequence[str]) -> str:
    """Return a finding in words, of any kind of some."""
    return " ".join(str(rng.choice(words)) for words in (*VOCABULARY[:-1], kinds))


def told_episode(policy: HuggingFacePolicy, rng: np.random.Generator) -> Episode:
    """Write an episode without pictures: findings are told, what they say about a question is taught."""
    family = str(rng.choice(LOOK_FAMILIES_3D))
    asked = [str(kind) for kind in rng.choice(KINDS, 2, replace=False)]
    words = [asked[0], str(rng.choice(VOCABULARY[2]))] if family == "count" else asked
    question = QUESTIONS_3D[family].format(*words)
    pool = [*asked, *LOOKALIKE_KINDS]  # so that what is asked for is often there
    tokens = [*policy.conversation.prompt(policy.instruction.replace("{question}", question), ())]
    mask, seen = [False] * len(tokens), []
    reading = Reading(None, decisive=False)
    for _ in range(int(rng.integers(1, 5))):
        seen.append(told(rng, pool))
        reading = PhantomReader3D().read(question, seen, ())
        thought = policy.encode(f"<reasoning>{conclusion(seen[-1], reading)}")
        known = len(policy.encode(f"<reasoning>{seen[-1]}"))
        tokens += thought
        mask += [n >= known for n in range(len(thought))]
    end = [*policy.encode(f"</reasoning><answer>{reading.answer}</answer>"), policy.end_of_turn]
    return Episode(
        case="told",
        stream="expert",
        draw=0,
        token_ids=torch.tensor(tokens + end),
        response_mask=torch.tensor(mask + [reading.answer is not None] * len(end)),
        behaviour_logprobs=torch.zeros(len(tokens + end)),
        pictures=(),
        turns=(),
        trajectory=Trajectory(),
    )


def teach_reading(policy: HuggingFacePolicy, steps: int, batch: int, seed: int) -> None:
    """Teach the language model what findings say about a question."""
    rng = np.random.default_rng(seed)

    def loss() -> torch.Tensor:
        scores = policy.score([told_episode(policy, rng) for _ in range(batch)])
        return -scores.logprobs.sum() / scores.response_mask.sum()

    fit([{"params": list(policy.core.model.language_model.parameters()), "lr": 1e-3}], loss, steps, "reading")


def teach_perception(
    policy: HuggingFacePolicy, lessons: list[Lesson], steps: int, sheets: int, seed: int
) -> None:
    """Teach the vision tower what is in a look and where the candidates are on the sheet."""
    perception, rng = Perception(policy), np.random.default_rng(seed)
    looks = [pair for lesson in lessons for episode in lesson.episodes for pair in shown(episode)]

    def loss() -> torch.Tensor:
        some = [looks[i] for i in rng.integers(0, len(looks), 128)]
        others = [lessons[i] for i in rng.integers(0, len(lessons), sheets)]
        return perception.look_loss(*map(list, zip(*some, strict=True))) + perception.overview_loss(
            [lesson.episodes[0].pictures[0] for lesson in others], [lesson.findings for lesson in others]
        )

    readings = [p for name, p in perception.named_parameters() if not name.startswith("policy.")]
    tower = [*policy.core.model.visual.parameters(), *readings]
    fit([{"params": tower, "lr": 1e-3}], loss, steps, "perception")


def shown(episode: Episode) -> list[tuple[Picture, str]]:
    """Return the looks of an episode, each with the finding that the next thought says it shows."""
    path = episode.trajectory
    thoughts = [*(look.reasoning for look in path.fixations[1:]), path.reasoning]
    return [
        (picture, thought.partition(";")[0])
        for picture, thought in zip(episode.pictures[1:], thoughts, strict=False)
    ]


def begin_with(policy: HuggingFacePolicy, start: Path) -> None:
    """Copy the weights of another policy of the same size, and the embeddings of tokens that both have."""
    known = HuggingFacePolicy(start)
    theirs, ours = known.conversation.tokenizer.get_vocab(), policy.conversation.tokenizer.get_vocab()
    table = policy.core.get_input_embeddings().weight.detach()
    shared = [token for token in ours if token in theirs]
    rows = known.core.get_input_embeddings().weight.detach()[[theirs[token] for token in shared]]
    table[[ours[token] for token in shared]] = rows
    state = known.core.state_dict()
    kept = {
        name: value for name, value in state.items() if "embed_tokens" not in name and "lm_head" not in name
    }
    policy.core.load_state_dict(kept, strict=False)


def main() -> None:
    """Parse the arguments and build the policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--start", type=Path, default=TINY, help="the policy that is begun with")
    parser.add_argument("--volumes", type=int, default=900, help="number of volumes")
    parser.add_argument("--perception-steps", type=int, default=300)
    parser.add_argument("--sheets", type=int, default=32, help="contact sheets in a perception step")
    parser.add_argument("--reading-steps", type=int, default=150)
    parser.add_argument("--protocol-steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=24, help="episodes in a protocol step")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw volumes")
    parser.add_argument("--seed", type=int, default=2000, help="seed of weights, volumes and paths")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    make_tiny_checkpoint(args.output, corpus=corpus(), seed=args.seed)
    policy = HuggingFacePolicy(args.output, freeze_vision=False)
    begin_with(policy, args.start)
    loader = DataLoader(Lessons(policy, args.volumes, args.seed), batch_size=None, num_workers=args.workers)
    # copied, because what a worker sends holds a file descriptor for each tensor
    lessons = [copy.deepcopy(lesson) for lesson in tqdm(loader, desc="volumes")]
    teach_perception(policy, lessons, args.perception_steps, args.sheets, args.seed)
    policy.save(args.output)
    teach_reading(policy, args.reading_steps, args.batch, args.seed + 3)
    policy.save(args.output)
    episodes = [episode for lesson in lessons for episode in lesson.episodes]
    teach_episodes(policy, episodes, args.protocol_steps, args.batch, 1e-3, args.seed + 1, "protocol")
    policy.save(args.output)


if __name__ == "__main__":
    main()
