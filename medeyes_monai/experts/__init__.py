"""Experts behind one contract."""

from medeyes_monai.experts.base import Candidate, Expert, Reader, Reading, Verdict

__all__ = ["Candidate", "Expert", "Reader", "Reading", "Verdict"]
