"""Builds the embedded policy: a small Qwen3-VL that sees sharply and reads well, but searches badly.

It learns in four stages, on phantoms of varied contrast and noise: its vision tower what is in a picture; its
language model what findings, told in words, say about a question; the whole model to write systematic scans
of phantoms that stop at a random moment, and to answer from what they found; and at last scans that mostly
stop after one look, so that reinforcement learning has something left to teach: when to stop, and where to go
on.

    python scripts/build_tiny_policy.py --output bundle/models/tiny_policy
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandGaussianNoise,
    RandScaleIntensity,
    RandShiftIntensity,
)
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from medeyes_monai.data.phantom import (
    ANSWERS,
    LOOK_FAMILIES,
    QUESTIONS,
    SIDES,
    PhantomReader,
    PhantomVQA,
)
from medeyes_monai.data.phantom_image import BENIGN, KINDS, SIDE
from medeyes_monai.experts import Candidate, Reading
from medeyes_monai.geometry import Box
from medeyes_monai.navigator import conclusion
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.tiny import make_tiny_checkpoint
from medeyes_monai.sampler import write_episode
from medeyes_monai.scenes import Case, Finding, ImageScene
from medeyes_monai.seeding import numpy_generator
from medeyes_monai.trajectory import Episode, Fixation, Picture, Trajectory

LOOK_EXTENT = 64
"""Side of the region around a candidate. Unit: voxels."""
JITTER = 6.0
"""Standard deviation of a look's place. Unit: voxels."""
LEFT_TO_RIGHT = 0.85
"""Share of the scans that go from left to right; the others go in any order."""
PATIENT = (0.25, 0.25, 0.25, 0.25)
"""How often a scan stops after 1, 2, 3 and 4 looks while the policy learns to read what it found."""
HASTY = (0.75, 0.13, 0.08, 0.04)
"""The same in the last stage: how the embedded policy searches."""
PATHS_PER_IMAGE = 3
LOOKALIKE_KINDS = (*KINDS, BENIGN)


GUESS = "unknown"
"""Stands for an answer that what was seen does not give; it is never taught."""


def random_stop_path(case: Case, draw: int, seed: int, stop_after: Sequence[float]) -> Trajectory:
    """Return a systematic scan that stops at a random moment and answers from what was seen, if it can."""
    rng = numpy_generator("warm", seed, case.key, draw)
    spots = [finding for finding in case.scene.findings if finding.subtle]
    candidates = [Candidate(f.box, 1.0, "candidate" if f.subtle else f.label) for f in case.scene.findings]
    order = sorted(spots, key=lambda f: f.box.start[0])
    if rng.random() > LEFT_TO_RIGHT:
        order = [spots[i] for i in rng.permutation(len(spots))]
    if case.family in LOOK_FAMILIES:
        looks = int(rng.choice(4, p=stop_after)) + 1
    else:
        looks = int(rng.choice(3, p=(0.8, 0.1, 0.1)))
    thought, fixations, seen = f"{len(spots)} candidates", [], []
    reading = PhantomReader().read(case.question, seen, candidates)
    for finding in order[:looks]:
        fixations.append(Fixation(thought, jittered(finding, case.scene.shape, rng)))
        seen.append(finding.label)
        reading = PhantomReader().read(case.question, seen, candidates)
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


def jittered(finding: Finding, shape: tuple[int, ...], rng: np.random.Generator) -> Box:
    """Return a region around a finding, a little off."""
    box = finding.box.expand(shape, minimum=LOOK_EXTENT)
    shift = [int(v) for v in np.rint(rng.normal(0, JITTER, 2))]
    moved = Box(
        tuple(a + d for a, d in zip(box.start, shift, strict=True)),
        tuple(b + d for b, d in zip(box.stop, shift, strict=True)),
    )
    return moved.expand(shape)


class VariedScenes:
    """Makes scenes of different contrast, brightness and noise, so that one scanner is not all that is known.

    Args:
        seed: Of the changes; those of one image are the same on every machine.
    """

    def __init__(self, seed: int) -> None:
        """Choose the changes; grey values are 0 to 255, and nothing is moved or mirrored."""
        self.seed = seed
        self.change = Compose(
            [
                RandAdjustContrast(prob=0.5, gamma=(0.6, 1.5)),
                RandScaleIntensity(prob=0.8, factors=0.35),
                RandShiftIntensity(prob=0.8, offsets=45.0),
                RandGaussianNoise(prob=0.8, std=10.0),
            ]
        )

    def __call__(self, image: torch.Tensor, *, key: str, findings: Sequence[Finding]) -> ImageScene:
        """Make the scene of an image ``(1, X, Y)``."""
        rng = numpy_generator("contrast", self.seed, key)
        self.change.set_random_state(seed=int(rng.integers(2**31)))
        grey = self.change(image.float()).clamp(0, 255).round().to(torch.uint8)
        return ImageScene(grey, key=key, findings=findings)


@dataclass(frozen=True)
class Lesson:
    """Supervised episodes about one phantom, of patient and of hasty scans, and what is in it."""

    episodes: list[Episode]
    hasty: list[Episode]
    findings: list[Finding]


class Lessons(Dataset[Lesson]):
    """A lesson for each phantom."""

    def __init__(self, policy: HuggingFacePolicy, images: int, seed: int) -> None:
        """Remember who writes the episodes."""
        self.policy, self.seed = policy, seed
        self.cases = PhantomVQA("train", size=images, seed=seed, scene=VariedScenes(seed))

    def __len__(self) -> int:
        """Number of phantoms."""
        return len(self.cases)

    def __getitem__(self, index: int) -> Lesson:
        """Write the episodes of one phantom."""
        case = self.cases[index]
        episodes, hasty = (
            [
                taught_episode(random_stop_path(case, draw, self.seed, stop_after), case, self.policy, draw)
                for draw in range(PATHS_PER_IMAGE)
            ]
            for stop_after in (PATIENT, HASTY)
        )
        return Lesson(episodes, hasty, [finding for finding in case.scene.findings if finding.subtle])


class Perception(torch.nn.Module):
    """Linear readings of the vision tower, used only to teach it what is where.

    A look is read for kind and size of the candidate in it; each patch of an overview for whether it holds a
    candidate's centre, and where in the patch.
    """

    def __init__(self, policy: HuggingFacePolicy) -> None:
        """Make the readings."""
        super().__init__()
        width = policy.core.config.get_text_config().hidden_size
        self.policy = policy
        self.kind = torch.nn.Linear(width, len(LOOKALIKE_KINDS))
        self.size = torch.nn.Linear(width, 2)
        self.place = torch.nn.Linear(width, 4 * 3)

    def features(self, pictures: list[Picture]) -> torch.Tensor:
        """Return the tower's tokens, ``[B, tokens, width]``, for pictures of one size."""
        tokens = [shown[0] for shown in self.policy.family.features(pictures)]
        return torch.cat(tokens).reshape(len(pictures), -1, self.kind.in_features)

    def look_loss(self, pictures: list[Picture], labels: list[str]) -> torch.Tensor:
        """Cross-entropy of kind and size, from labels such as ``"left large solid"``."""
        tokens = self.features(pictures).mean(1)
        kinds = torch.tensor([LOOKALIKE_KINDS.index(label.split()[2]) for label in labels])
        sizes = torch.tensor([("small", "large").index(label.split()[1]) for label in labels])
        entropy = torch.nn.functional.cross_entropy
        return entropy(self.kind(tokens), kinds) + entropy(self.size(tokens), sizes)

    def overview_loss(self, pictures: list[Picture], findings: list[list[Finding]]) -> torch.Tensor:
        """Loss of finding the candidates' centres, on the grid of patches."""
        side = pictures[0].shape[0] // (self.policy.patch // 2)
        target = torch.zeros(len(pictures), side, side, 3)
        for n, some in enumerate(findings):
            for finding in some:
                x, y = (v / SIDE * side for v in finding.box.centre)
                target[n, int(y), int(x)] = torch.tensor([1.0, x % 1 - 0.5, y % 1 - 0.5])
        # tokens hold two by two patches
        merged = target.reshape(-1, side // 2, 2, side // 2, 2, 3).permute(0, 1, 3, 2, 4, 5)
        target = merged.reshape(len(pictures), -1, 4, 3)
        read = self.place(self.features(pictures)).reshape(target.shape)
        there = target[..., 0]
        presence = torch.nn.functional.binary_cross_entropy_with_logits(
            read[..., 0], there, pos_weight=torch.tensor(5.0)
        )
        offset = ((read[..., 1:] - target[..., 1:]).square().sum(-1) * there).sum() / there.sum()
        return 4 * (presence + offset)


def corpus() -> list[str]:
    """Text with every word that the benchmark and its findings use."""
    cases = PhantomVQA("train", size=280)
    words = [answer for answers in ANSWERS.values() for answer in answers]
    lines = words * 20
    for index in range(len(cases)):
        case = cases[index]
        lines += [
            case.question,
            f"{len(case.scene.findings)} candidates",
            *(f.label for f in case.scene.findings),
            *(conclusion(f.label, Reading(None, decisive=False)) for f in case.scene.findings),
        ]
    return lines


def schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate: a short rise, a plateau, then a linear fall from half way."""
    return min(1.0, (step + 1) / 100) * max(0.03, min(1.0, 2 * (1 - step / steps)))


def fit(
    parameters: list[dict[str, object]], loss_of: Callable[[], torch.Tensor], steps: int, name: str
) -> None:
    """Minimise a loss that draws its own batches."""
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps))
    smooth = 0.0
    progress = tqdm(range(steps), desc=name)
    for step in progress:
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        smooth += (loss.item() - smooth) / min(step + 1, 50)
        progress.set_postfix(loss=f"{smooth:.3f}")


def teach_perception(policy: HuggingFacePolicy, lessons: list[Lesson], steps: int, seed: int) -> None:
    """Teach the vision tower what is in a look and where the candidates are in an overview."""
    perception, rng = Perception(policy), np.random.default_rng(seed)
    looks = [
        (picture, thought.partition(";")[0])
        for lesson in lessons
        for episode in lesson.episodes
        for picture, thought in zip(
            episode.pictures[1:],
            [look.reasoning for look in episode.trajectory.fixations[1:]] + [episode.trajectory.reasoning],
            strict=False,
        )
    ]

    def loss() -> torch.Tensor:
        some = [looks[i] for i in rng.integers(0, len(looks), 128)]
        others = [lessons[i] for i in rng.integers(0, len(lessons), 32)]
        return perception.look_loss(*map(list, zip(*some, strict=True))) + perception.overview_loss(
            [lesson.episodes[0].pictures[0] for lesson in others], [lesson.findings for lesson in others]
        )

    readings = [p for name, p in perception.named_parameters() if not name.startswith("policy.")]
    fit(
        [{"params": [*policy.core.model.visual.parameters(), *readings], "lr": 1e-3}],
        loss,
        steps,
        "perception",
    )


def told_episode(policy: HuggingFacePolicy, rng: np.random.Generator) -> Episode:
    """Write an episode without pictures: findings are told, what they say about a question is taught."""
    family = str(rng.choice(LOOK_FAMILIES))
    asked = [str(kind) for kind in rng.choice(KINDS, 2, replace=False)]
    question = QUESTIONS[family].format(*asked)
    pool = [*asked, *LOOKALIKE_KINDS]  # so that what is asked for is often there
    tokens = [*policy.conversation.prompt(policy.instruction.replace("{question}", question), ())]
    mask, seen = [False] * len(tokens), []
    reading = Reading(None, decisive=False)
    for _ in range(int(rng.integers(1, 5))):
        seen.append(" ".join(str(rng.choice(words)) for words in (SIDES, ("small", "large"), pool)))
        reading = PhantomReader().read(question, seen, ())
        thought = policy.encode(f"<reasoning>{conclusion(seen[-1], reading)}")
        told = len(policy.encode(f"<reasoning>{seen[-1]}"))
        tokens += thought
        mask += [n >= told for n in range(len(thought))]
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

    language = list(policy.core.model.language_model.parameters())
    fit([{"params": language, "lr": 1e-3}], loss, steps, "reading")


def teach_episodes(
    policy: HuggingFacePolicy,
    episodes: list[Episode],
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    name: str,
) -> None:
    """Teach the whole model to write episodes."""
    rng = np.random.default_rng(seed)

    def loss() -> torch.Tensor:
        scores = policy.score([episodes[i] for i in rng.integers(0, len(episodes), batch)])
        return -scores.logprobs.sum() / scores.response_mask.sum()

    tower = list(policy.core.model.visual.parameters())
    known = {id(p) for p in tower}
    rest = [p for p in policy.parameters() if id(p) not in known]
    fit([{"params": rest, "lr": rate}, {"params": tower, "lr": rate / 5}], loss, steps, name)


def main() -> None:
    """Parse the arguments and build the policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--images", type=int, default=3000, help="number of phantoms")
    parser.add_argument("--perception-steps", type=int, default=1000)
    parser.add_argument("--reading-steps", type=int, default=400)
    parser.add_argument("--protocol-steps", type=int, default=900)
    parser.add_argument("--hasty-steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=32, help="episodes in a protocol step")
    parser.add_argument("--seed", type=int, default=1000, help="seed of weights, phantoms and paths")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    make_tiny_checkpoint(args.output, corpus=corpus(), seed=args.seed)
    policy = HuggingFacePolicy(args.output, freeze_vision=False)
    loader = DataLoader(Lessons(policy, args.images, args.seed), batch_size=None, num_workers=2)
    # copied, because what a worker sends holds a file descriptor for each tensor
    lessons = [copy.deepcopy(lesson) for lesson in tqdm(loader, desc="phantoms")]
    teach_reading(policy, args.reading_steps, 2 * args.batch, args.seed + 3)
    teach_perception(policy, lessons, args.perception_steps, args.seed)
    policy.save(args.output)
    patient = [episode for lesson in lessons for episode in lesson.episodes]
    teach_episodes(policy, patient, args.protocol_steps, args.batch, 1e-3, args.seed + 1, "protocol")
    policy.save(args.output)
    hasty = [episode for lesson in lessons for episode in lesson.hasty]
    teach_episodes(policy, hasty, args.hasty_steps, args.batch, 3e-4, args.seed + 2, "haste")
    policy.save(args.output)


if __name__ == "__main__":
    main()
