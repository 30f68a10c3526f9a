"""Reads requests strictly, see docs/expert_http.md.

Runs in foreign environments too: the standard library alone, Python 3.8 or later.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

__all__ = ["VERSION", "Refused", "Request", "read_request"]

VERSION = 1
"""Version of the interface."""
FORMATS = ("png", "nifti.gz")
MAX_TEXT = 10000
"""Most characters of a key, a question or a label."""


class Refused(Exception):
    """A request is answered with an error.

    Args:
        status: HTTP status.
        code: One word for programs.
        message: One line for people.
    """

    def __init__(self, status, code, message):
        """Keep what is to be answered."""
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Request:
    """A question as it came in.

    Args:
        key: Name of the image.
        query: The question, in words.
        format: ``png`` or ``nifti.gz``.
        image: The file of the image.
        box: Corners of the region of a drill, ``(x1, y1[, z1], x2, y2[, z2])``; None in a scan.
        findings: What the data say is in the image: dictionaries with box, label and subtle.
    """

    key: str
    query: str
    format: str
    image: bytes
    box: tuple[int, ...] | None
    findings: tuple[dict, ...]


def read_request(body, drill):
    """Read a request strictly.

    Raises:
        Refused: If it is not of the form that the interface asks for.
    """
    try:
        content = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "json", "the body is not JSON") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise Refused(400, "version", f"this server speaks version {VERSION} of the interface")
    image = content.get("image")
    if not isinstance(image, dict) or image.get("format") not in FORMATS:
        raise Refused(400, "image", f"image has data and a format, one of {FORMATS}")
    try:
        data = base64.b64decode(image.get("data"), validate=True)
    except (ValueError, TypeError):
        raise Refused(400, "image", "the data of an image is base64") from None
    return Request(
        key=_text(content, "key"),
        query=_text(content, "query"),
        format=image["format"],
        image=data,
        box=read_box(content.get("box"), image["format"]) if drill else None,
        findings=_findings(content.get("findings", []), image["format"]),
    )


def read_box(value, image_format):
    """Read the corners of a region.

    Raises:
        Refused: If it is not a list of four (six in a volume) whole numbers that enclose something.
    """
    half = 2 if image_format == "png" else 3
    if not isinstance(value, list) or len(value) != 2 * half or not all(type(v) is int for v in value):
        raise Refused(400, "box", f"a box is a list of {2 * half} whole numbers")
    if any(value[n] < 0 or value[n] >= value[n + half] for n in range(half)):
        raise Refused(400, "box", "a box lies inside the image and encloses something")
    return tuple(value)


def _findings(value, image_format):
    if not isinstance(value, list) or not all(isinstance(finding, dict) for finding in value):
        raise Refused(400, "findings", "findings is a list of objects")
    found = []
    for finding in value:
        subtle = finding.get("subtle", True)
        if not isinstance(subtle, bool):
            raise Refused(400, "findings", "subtle is true or false")
        box = read_box(finding.get("box"), image_format)
        found.append({"box": box, "label": _text(finding, "label"), "subtle": subtle})
    return tuple(found)


def _text(content, name):
    value = content.get(name)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise Refused(400, name, f"{name} is a text of at most {MAX_TEXT} characters")
    return value


def _no_constant(name):
    raise ValueError(f"{name} is no JSON")
