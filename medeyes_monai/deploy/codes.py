"""The coded words of the reports, and who is named as their author."""

from __future__ import annotations

from typing import Any

import highdicom as hd
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medeyes_monai import __version__

__all__ = [
    "ALGORITHM",
    "DEVICE_UID",
    "LOOK",
    "NOTICE",
    "QUALITATIVE",
    "QUESTION",
    "REASONING",
    "SCHEME",
    "TITLE",
    "VERSION",
    "body_part_of",
    "new_object",
]

NOTICE = "Output of an artificial intelligence for research. Not for clinical use. Not verified by a reader."
TITLE = "AI result, not for clinical use"
ALGORITHM = "medeyes_monai"
VERSION = __version__
DEVICE_UID = "2.25.187246380146163527091529063414726203719"
"""Names this software as the observer of its reports: the same in each, of no machine and of no site."""

OWN = "99MEDEYES"
SCHEME = CodingSchemeIdentificationItem(OWN, name="Terms of medeyes_monai", version=VERSION)
QUESTION = Code("question", OWN, "Question asked of the model")
REASONING = Code("reasoning", OWN, "Reasoning of the model")
LOOK = Code("look", OWN, "Region that the model looked at")
QUALITATIVE = Code("C0034375", "UMLS", "Qualitative Evaluations")

_PARTS = {
    "ABDOMEN": codes.SCT.Abdomen,
    "BRAIN": codes.SCT.Brain,
    "BREAST": codes.SCT.Breast,
    "CHEST": codes.SCT.Chest,
    "FOOT": codes.SCT.Foot,
    "HAND": codes.SCT.Hand,
    "HEAD": codes.SCT.Head,
    "HEART": codes.SCT.Heart,
    "HIP": codes.SCT.HipJoint,
    "KIDNEY": codes.SCT.Kidney,
    "KNEE": codes.SCT.Knee,
    "LIVER": codes.SCT.Liver,
    "LUNG": codes.SCT.Lung,
    "NECK": codes.SCT.Neck,
    "PELVIS": codes.SCT.Pelvis,
    "SHOULDER": codes.SCT.Shoulder,
}
"""Defined terms of Body Part Examined and what they are in SNOMED CT; others are left out of reports."""
_SIDES = {"L": codes.SCT.Left, "R": codes.SCT.Right}


def new_object(series_number: int) -> dict[str, Any]:
    """Return what highdicom is told of every object: a series and an instance of its own, and who made it."""
    return {
        "series_instance_uid": hd.UID(),
        "series_number": series_number,
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": ALGORITHM,
        "manufacturer_model_name": ALGORITHM,
        "software_versions": VERSION,
        "device_serial_number": VERSION,
        "series_description": TITLE,
    }


def body_part_of(header: Dataset) -> tuple[Code, Code | None] | None:
    """Return the part that a series says it shows, and the side if it says that; None if it says neither.

    The side is the header's own (Image Laterality, else Laterality). It is never guessed from pixels.

    Example:
        >>> header = Dataset()
        >>> header.BodyPartExamined, header.Laterality = "KNEE", "L"
        >>> [code.meaning for code in body_part_of(header)]
        ['Knee', 'Left']
    """
    part = _PARTS.get(str(header.get("BodyPartExamined") or ""))
    side = str(header.get("ImageLaterality") or header.get("Laterality") or "")
    return None if part is None else (part, _SIDES.get(side))
