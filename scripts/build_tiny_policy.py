"""Builds the embedded policy: a small Qwen3-VL that sees sharply and reads well, but searches badly.

It learns in four stages, on phantoms of varied contrast and noise: its vision tower what is in a picture; its
language model what findings, told in words, say about a question; the whole model to write systematic scans
of phantoms that stop at a random moment, and to answer from what they found; and at last scans that mostly
stop after one look, so that reinforcement learning has something left to teach: when to stop, and where to go
on.

    python scripts/build_tiny_policy.py --output bundle/models/tiny_policy

With --start it goes on with another policy, on other phantoms (--seed); a stage of 0 steps is left out. A
policy that hardly ever looks twice, for instance:

    python scripts/build_tiny_policy.py --start bundle/models/tiny_policy --perception-steps 0 \
        --reading-steps 0 --protocol-steps 0 --hasty-steps 300 --haste 0.98 --seed 5000 --output hasty
"""

from __future__ import annotations

import argparse

import torch
from supervised.building import add_stages, begin_with, check_folders, teach
from supervised.lessons import Lessons, all_lessons
from supervised.pictures import COURSE, VariedScenes, corpus

from medeyes_monai.data.phantom import PhantomVQA
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.tiny import make_tiny_checkpoint

PATHS_PER_IMAGE = 3


def main() -> None:
    """Parse the arguments and build the policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_stages(parser, perception=1000, reading=400, protocol=900, hasty=150, batch=32)
    parser.add_argument("--images", type=int, default=3000, help="number of phantoms")
    parser.add_argument("--seed", type=int, default=1000, help="seed of weights, phantoms and paths")
    args = parser.parse_args()
    check_folders(args)
    torch.manual_seed(args.seed)
    make_tiny_checkpoint(args.output, corpus=corpus(), seed=args.seed)
    policy = HuggingFacePolicy(args.output, freeze_vision=False)
    begin_with(policy, args.start)
    cases = PhantomVQA("train", size=args.images, seed=args.seed, scene=VariedScenes(args.seed))
    lessons = Lessons(COURSE, policy, cases, args.seed, PATHS_PER_IMAGE, haste=args.haste)
    teach(policy, COURSE, all_lessons(lessons, workers=2), args)


if __name__ == "__main__":
    main()
