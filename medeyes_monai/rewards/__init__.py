"""Verifiable rewards, one small file each; they read the parsed episode, never raw text."""

from medeyes_monai.rewards.accuracy import accuracy, answers_match, normalise
from medeyes_monai.rewards.agreement import agreement
from medeyes_monai.rewards.combine import PAPER_PARTS, PAPER_WEIGHTS, CompositeReward, RewardPart
from medeyes_monai.rewards.diversity import diversity
from medeyes_monai.rewards.grammar import grammar
from medeyes_monai.rewards.overlong import overlong

__all__ = [
    "PAPER_PARTS",
    "PAPER_WEIGHTS",
    "CompositeReward",
    "RewardPart",
    "accuracy",
    "agreement",
    "answers_match",
    "diversity",
    "grammar",
    "normalise",
    "overlong",
]
