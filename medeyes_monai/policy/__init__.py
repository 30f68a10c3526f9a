"""Vision-language models behind one protocol."""

from medeyes_monai.policy.base import Decoder, Policy, Segment, TokenScores
from medeyes_monai.policy.huggingface import HuggingFacePolicy

__all__ = ["Decoder", "HuggingFacePolicy", "Policy", "Segment", "TokenScores"]
