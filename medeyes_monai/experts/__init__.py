"""Experts behind one contract."""

from medeyes_monai.experts.annotations import AnnotationExpert
from medeyes_monai.experts.base import Candidate, Expert, Reader, Reading, Verdict, axes_of
from medeyes_monai.experts.blobs import BlobExpert
from medeyes_monai.experts.bundle import bundle_expert
from medeyes_monai.experts.contract import check_expert
from medeyes_monai.experts.detector import DetectorExpert
from medeyes_monai.experts.memo import MemoExpert
from medeyes_monai.experts.network import SegmentationExpert
from medeyes_monai.experts.prior import PriorExpert
from medeyes_monai.experts.queries import QueryRule, QueryTemplates
from medeyes_monai.experts.random import RandomBoxExpert

__all__ = [
    "AnnotationExpert",
    "BlobExpert",
    "Candidate",
    "DetectorExpert",
    "Expert",
    "MemoExpert",
    "PriorExpert",
    "QueryRule",
    "QueryTemplates",
    "RandomBoxExpert",
    "Reader",
    "Reading",
    "SegmentationExpert",
    "Verdict",
    "axes_of",
    "bundle_expert",
    "check_expert",
]
