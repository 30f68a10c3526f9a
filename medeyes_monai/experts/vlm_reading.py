"""Reads what a vision-language model wrote, strictly: model text is data, and half of a reply is none."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medeyes_monai.errors import GeometryError
from medeyes_monai.experts.remote_text import no_constant
from medeyes_monai.geometry import Box

__all__ = ["Opinion", "Pointed", "read_boxes", "read_opinion"]

MAX_BOXES = 100
"""Most boxes of one reply; more is a model that repeats itself."""
MAX_LENGTH = 20_000
"""Most characters of a reply."""
MAX_TEXT = 1000
"""Most characters of a label, a finding or an answer."""
BOX_KEYS = ("bbox_2d", "box")

_FENCE = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL)
_CORNERS = re.compile(r'"(?:bbox_2d|box)"\s*:\s*\[([^\[\]]*)\]')
_STRING = r'"(?:[^"\\]|\\.)*"'
_VALUES = re.compile(rf'"(?:relevant|finding|answer)"\s*:\s*({_STRING}|true|false|null)')


@dataclass(frozen=True, slots=True)
class Pointed:
    """A region that a model wrote down.

    Args:
        box: The region, in the frame in which it was asked for.
        label: What the model calls it.
        span: Where its numbers stand in the text.
    """

    box: Box
    label: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a model wrote of one region.

    Args:
        relevant: Whether the region matters for the question.
        finding: What is seen there.
        answer: The answer from this region alone, if it gives one.
        spans: Where these values stand in the text.
    """

    relevant: bool
    finding: str
    answer: str | None
    spans: tuple[tuple[int, int], ...]


def read_boxes(text: str, frame: Sequence[int]) -> tuple[Pointed, ...]:
    """Read a JSON array of ``{"bbox_2d": [x1, y1, x2, y2], "label": "..."}``; ``box`` is as good a key.

    The array stands alone or in one fence of Markdown. Other keys are not read.

    Args:
        text: What the model wrote.
        frame: Extent of the frame in which the corners are, ``(columns, rows)``.

    Raises:
        ValueError: If anything else is there, or a box is outside; nothing of the text is quoted.

    Example:
        >>> text = '[{"bbox_2d": [1, 2, 3, 4], "label": "ring"}]'
        >>> read_boxes(text, (10, 10))
        (Pointed(box=Box(start=(1, 2), stop=(3, 4)), label='ring', span=(14, 24)),)
        >>> read_boxes(text, (10, 3))
        Traceback (most recent call last):
        ValueError: a box is not inside the frame of (10, 3)
    """
    body, offset = _body(text)
    items = _json(body)
    if not isinstance(items, list) or len(items) > MAX_BOXES:
        raise ValueError(f"no JSON array of at most {MAX_BOXES} boxes")
    spans = [match.span(1) for match in _CORNERS.finditer(body)]
    if len(spans) != len(items):
        raise ValueError("an element of the array has not exactly one box")
    return tuple(
        Pointed(_box(item, frame), _text(item.get("label", ""), "label"), (a + offset, b + offset))
        for item, (a, b) in zip(items, spans, strict=True)
    )


def read_opinion(text: str) -> Opinion:
    """Read a JSON object ``{"relevant": true, "finding": "...", "answer": "..."}``; the answer may be null.

    Raises:
        ValueError: If anything else is there; nothing of the text is quoted.

    Example:
        >>> read_opinion('{"relevant": true, "finding": "ring", "answer": null}').finding
        'ring'
    """
    body, offset = _body(text)
    item = _json(body)
    if not isinstance(item, dict) or not isinstance(item.get("relevant"), bool):
        raise ValueError("no JSON object in which relevant is true or false")
    answer = item.get("answer")
    spans = [match.span(1) for match in _VALUES.finditer(body)]
    return Opinion(
        item["relevant"],
        _text(item.get("finding"), "finding"),
        None if answer is None else _text(answer, "answer"),
        tuple((a + offset, b + offset) for a, b in spans),
    )


def _body(text: str) -> tuple[str, int]:
    """Return a reply without the fence around it, and where that begins in the text."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"more than {MAX_LENGTH:,} characters")
    fenced = _FENCE.fullmatch(text)
    return (fenced[1], fenced.start(1)) if fenced else (text, 0)


def _json(body: str) -> Any:
    try:
        return json.loads(body, parse_constant=no_constant)
    except (ValueError, RecursionError) as problem:
        raise ValueError("no JSON") from problem


def _box(item: Any, frame: Sequence[int]) -> Box:
    if not isinstance(item, dict) or sum(key in item for key in BOX_KEYS) != 1:
        raise ValueError("an element of the array has not exactly one box")
    corners = item["bbox_2d"] if "bbox_2d" in item else item["box"]
    if not isinstance(corners, list) or not all(type(v) in (int, float) for v in corners):
        raise ValueError("a box is no list of numbers")
    try:
        box = Box.from_corners(corners)
    except (GeometryError, OverflowError) as problem:
        raise ValueError("a box is not four numbers that enclose something") from problem
    if not box.is_inside(frame):
        raise ValueError(f"a box is not inside the frame of {tuple(frame)}")
    return box


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"{name} is no text of at most {MAX_TEXT:,} characters")
    return value
