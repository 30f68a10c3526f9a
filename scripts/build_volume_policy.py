"""Builds a policy for volumes out of the one for pictures: the small Qwen3-VL, taught on PhantomVQA-3D.

It begins with what the policy for pictures knows (weights, and the embedding of each token that both have)
and is taught in the same stages: what findings in words say about a question; what is in a look, and where
candidates are on the contact sheet; systematic scans from the feet to the head that stop at a random moment;
and at last scans that mostly stop after one look, so that reinforcement learning has something left to teach:
when to stop, and where to go on.

    python scripts/build_volume_policy.py --output bundle/models/volume_policy

With --start it goes on with a policy that it has built, on other volumes (--seed); a stage of 0 steps is
left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from supervised.building import add_stages, begin_with, check_folders, teach
from supervised.lessons import Lessons, all_lessons
from supervised.volumes import COURSE, FAMILIES, corpus

from medeyes_monai.data.phantom3d import PhantomVQA3D
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.tiny import make_tiny_checkpoint

TINY = Path(__file__).resolve().parents[1] / "bundle" / "models" / "tiny_policy"
PATHS_PER_VOLUME = 2
LOOKS_PER_FINDING = 2


def main() -> None:
    """Parse the arguments and build the policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_stages(parser, perception=800, reading=300, protocol=800, hasty=120, batch=24, start=TINY)
    parser.add_argument("--volumes", type=int, default=2000, help="number of volumes")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw volumes")
    parser.add_argument("--seed", type=int, default=2000, help="seed of weights, volumes and paths")
    args = parser.parse_args()
    check_folders(args)
    torch.manual_seed(args.seed)
    make_tiny_checkpoint(args.output, corpus=corpus(), seed=args.seed)
    policy = HuggingFacePolicy(args.output, freeze_vision=False)
    begin_with(policy, args.start)
    cases = PhantomVQA3D("train", size=args.volumes, seed=args.seed, families=FAMILIES)
    lessons = Lessons(COURSE, policy, cases, args.seed, PATHS_PER_VOLUME, LOOKS_PER_FINDING, args.haste)
    teach(policy, COURSE, all_lessons(lessons, args.workers), args)
    policy.core.half()  # halves what the bundle carries; it is read in single precision again
    policy.save(args.output)


if __name__ == "__main__":
    main()
