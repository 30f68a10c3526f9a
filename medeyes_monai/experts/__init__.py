"""Experts behind one contract."""

from medeyes_monai.experts.annotations import AnnotationExpert
from medeyes_monai.experts.base import Candidate, Expert, Reader, Reading, Verdict, axes_of
from medeyes_monai.experts.blobs import BlobExpert
from medeyes_monai.experts.contract import check_expert
from medeyes_monai.experts.memo import MemoExpert
from medeyes_monai.experts.prior import PriorExpert
from medeyes_monai.experts.random import RandomBoxExpert

__all__ = [
    "AnnotationExpert",
    "BlobExpert",
    "Candidate",
    "Expert",
    "MemoExpert",
    "PriorExpert",
    "RandomBoxExpert",
    "Reader",
    "Reading",
    "Verdict",
    "axes_of",
    "check_expert",
]
