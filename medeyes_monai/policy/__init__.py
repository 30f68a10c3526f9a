"""Vision-language models behind one protocol."""

from medeyes_monai.policy.base import Decoder, Policy, Segment, TokenScores, ToolPolicy
from medeyes_monai.policy.huggingface import HuggingFacePolicy
from medeyes_monai.policy.steps import Step, written_steps

__all__ = [
    "Decoder",
    "HuggingFacePolicy",
    "Policy",
    "Segment",
    "Step",
    "TokenScores",
    "ToolPolicy",
    "written_steps",
]
