"""Builds the embedded policy: a small Qwen3-VL that speaks the protocol and sees sharply, but searches badly.

It is trained on systematic scans of phantoms that stop at a random moment, so that reinforcement learning has
something left to teach: when to stop, and where to go on.

    python scripts/build_tiny_policy.py --output bundle/models/tiny_policy
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from medeyes_monai.data.phantom import ANSWERS, KINDS, LOOK_FAMILIES, PhantomReader, PhantomVQA
from medeyes_monai.experts import Candidate
from medeyes_monai.geometry import Box
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.tiny import make_tiny_checkpoint
from medeyes_monai.sampler import write_episode
from medeyes_monai.scenes import Case, Finding
from medeyes_monai.seeding import numpy_generator
from medeyes_monai.trajectory import Episode, Fixation, Trajectory

LOOK_EXTENT = 64
"""Side of the region around a candidate. Unit: voxels."""
JITTER = 6.0
"""Standard deviation of a look's place. Unit: voxels."""
LEFT_TO_RIGHT = 0.85
"""Share of the scans that go from left to right; the others go in any order."""
STOP_AFTER = (0.35, 0.25, 0.2, 0.2)
"""How often a scan stops after 1, 2, 3 and 4 looks."""
PATHS_PER_IMAGE = 3


def random_stop_path(case: Case, draw: int, seed: int) -> Trajectory:
    """Return a systematic scan that stops at a random moment and answers from what was seen, or guesses."""
    rng = numpy_generator("warm", seed, case.key, draw)
    spots = [finding for finding in case.scene.findings if finding.subtle]
    candidates = [Candidate(f.box, 1.0, "candidate" if f.subtle else f.label) for f in case.scene.findings]
    order = sorted(spots, key=lambda f: f.box.start[0])
    if rng.random() > LEFT_TO_RIGHT:
        order = [spots[i] for i in rng.permutation(len(spots))]
    if case.family in LOOK_FAMILIES:
        looks = int(rng.choice(4, p=STOP_AFTER)) + 1
    else:
        looks = int(rng.choice(3, p=(0.8, 0.1, 0.1)))
    thought, fixations, seen = f"{len(spots)} candidates", [], []
    for finding in order[:looks]:
        fixations.append(Fixation(thought, jittered(finding, case.scene.shape, rng)))
        thought = finding.label
        seen.append(thought)
    answer = PhantomReader().read(case.question, seen, candidates).answer
    if answer is None:
        asked = [kind for kind in KINDS if kind in case.question]
        answer = str(rng.choice(asked if case.family == "compare" else ANSWERS[case.family]))
    return Trajectory(tuple(fixations), thought, answer)


def jittered(finding: Finding, shape: tuple[int, ...], rng: np.random.Generator) -> Box:
    """Return a region around a finding, a little off."""
    box = finding.box.expand(shape, minimum=LOOK_EXTENT)
    shift = [int(v) for v in np.rint(rng.normal(0, JITTER, 2))]
    moved = Box(
        tuple(a + d for a, d in zip(box.start, shift, strict=True)),
        tuple(b + d for b, d in zip(box.stop, shift, strict=True)),
    )
    return moved.expand(shape)


class WarmEpisodes(Dataset[list[Episode]]):
    """Supervised episodes, some for each phantom."""

    def __init__(self, policy: HuggingFacePolicy, images: int, seed: int) -> None:
        """Remember who writes the episodes."""
        self.policy, self.seed = policy, seed
        self.cases = PhantomVQA("train", size=images, seed=seed)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.cases)

    def __getitem__(self, index: int) -> list[Episode]:
        """Write the episodes of one image."""
        case = self.cases[index]
        return [
            write_episode(random_stop_path(case, draw, self.seed), case, self.policy, draw)
            for draw in range(PATHS_PER_IMAGE)
        ]


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
        ]
    return lines


def train(policy: HuggingFacePolicy, episodes: list[Episode], args: argparse.Namespace) -> None:
    """Fit the policy to the episodes."""
    optimizer = torch.optim.AdamW(
        policy.parameters(), lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    rng, start = np.random.default_rng(args.seed), time.time()
    progress = tqdm(range(args.steps), desc="warm start")
    for step in progress:
        decay = 1 - max(0.0, step - args.steps / 2) / (args.steps / 2)
        for group in optimizer.param_groups:
            group["lr"] = args.learning_rate * min(1.0, (step + 1) / 100) * max(0.03, decay)
        batch = [episodes[i] for i in rng.integers(0, len(episodes), args.batch)]
        scores = policy.score(batch)
        loss = -scores.logprobs.sum() / scores.response_mask.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}", minutes=f"{(time.time() - start) / 60:.1f}")
        if step % 500 == 499:
            policy.save(args.output)


def main() -> None:
    """Parse the arguments and build the policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--images", type=int, default=6000, help="number of phantoms")
    parser.add_argument("--steps", type=int, default=4000, help="number of supervised steps")
    parser.add_argument("--batch", type=int, default=32, help="episodes in a step")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1000, help="seed of weights, phantoms and paths")
    args = parser.parse_args()
    make_tiny_checkpoint(args.output, corpus=corpus(), seed=args.seed)
    policy = HuggingFacePolicy(args.output, freeze_vision=False)
    loader = DataLoader(WarmEpisodes(policy, args.images, args.seed), batch_size=None, num_workers=2)
    # copied, because what a worker sends holds a file descriptor for each tensor
    episodes = [episode for some in tqdm(loader, desc="phantoms") for episode in copy.deepcopy(some)]
    train(policy, episodes, args)
    policy.save(args.output)


if __name__ == "__main__":
    main()
