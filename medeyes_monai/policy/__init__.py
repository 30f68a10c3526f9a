"""Vision-language models behind one protocol."""

from medeyes_monai.policy.base import Decoder, Policy, Segment, TokenScores

__all__ = ["Decoder", "Policy", "Segment", "TokenScores"]
