"""The episode's text: written by ``render``, read by ``parse``, which accepts any string.

One turn is ``<reasoning>…</reasoning>`` and then either
``<action>{"name":"Gaze","coordinate":[x1,y1,x2,y2]}</action>`` or ``<answer>…</answer>``; in the full text
every action is followed by :data:`FEEDBACK` (method, section 1). In reasoning and answers ``&``, ``<`` and
``>`` are written as ``&amp;``, ``&lt;`` and ``&gt;``. White space between the elements is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from medeyes_monai.errors import GeometryError, ProtocolError
from medeyes_monai.geometry import Box
from medeyes_monai.trajectory import Fixation, Trajectory

__all__ = [
    "ACTION",
    "ANSWER",
    "DEFECTS",
    "FEEDBACK",
    "GAZE",
    "MAX_ACTION_CHARACTERS",
    "MAX_COORDINATE",
    "REASONING",
    "TAGS",
    "Defect",
    "Parsed",
    "Turn",
    "parse",
    "parse_turn",
    "render",
    "render_answer",
    "render_fixation",
]

REASONING = ("<reasoning>", "</reasoning>")
ACTION = ("<action>", "</action>")
ANSWER = ("<answer>", "</answer>")
FEEDBACK = "<feedback><image></feedback>"
"""What follows an action in the full text; the image is that of the box."""
TAGS = (*REASONING, *ACTION, *ANSWER, "<feedback>", "</feedback>")
GAZE = "Gaze"
"""Name of the only action."""
MAX_ACTION_CHARACTERS = 256
"""Longest text between the tags of an action that is read as JSON; six coordinates need 106."""
MAX_COORDINATE = 2**31 - 1
"""Largest magnitude of a coordinate that is written or read."""

Defect = Literal[
    "empty",
    "missing_reasoning",
    "unclosed_tag",
    "unexpected_text",
    "bad_action",
    "wrong_axes",
    "box_outside",
    "bad_answer",
    "bad_feedback",
    "trailing_text",
    "no_answer",
    "too_long",
]
"""Why a text is not a complete episode, the first reason in reading order.

``empty``: nothing but white space. ``missing_reasoning``: a turn opens with something else.
``unclosed_tag``: the text ends inside an element. ``unexpected_text``: neither an action nor an answer after
the reasoning. ``bad_action``: not the JSON of a gaze at a region. ``wrong_axes``: a box with another number
of axes than the frame or the boxes before it. ``box_outside``: a box not wholly inside the frame.
``bad_answer``: a tag inside the answer. ``bad_feedback``: an action is not followed by :data:`FEEDBACK`.
``trailing_text``: something after the end. ``no_answer``: the text ends before an answer. ``too_long``: a
turn was cut at its length limit (said by whoever cuts, never by this module).
"""
DEFECTS: tuple[Defect, ...] = get_args(Defect)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a policy, as far as it is readable.

    Args:
        reasoning: Text before the action or answer; empty where there is none.
        box: Region that is to be looked at, in the frame of the text; None unless the turn acts.
        answer: The answer; None unless the turn answers.
        defect: First reason why this is not exactly one turn, or None.
    """

    reasoning: str = ""
    box: Box | None = None
    answer: str | None = None
    defect: Defect | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """A full text, as far as it is readable.

    Args:
        trajectory: The path up to the first defect. Boxes in the frame of the text.
        defect: First reason why the text is not a complete episode, or None.
    """

    trajectory: Trajectory
    defect: Defect | None = None


def render(trajectory: Trajectory) -> str:
    """Write a trajectory as text (equation 1), each look followed by its feedback.

    Where the answer is None the text ends after the last feedback, or after the reasoning if there is any.
    ``parse(render(trajectory)).trajectory == trajectory`` holds for every trajectory that can be written.

    Raises:
        ProtocolError: If a coordinate is beyond :data:`MAX_COORDINATE`.

    Example:
        >>> text = render(Trajectory((Fixation("", Box((1, 2), (3, 4))),), "A < B", "yes"))
        >>> text.split(FEEDBACK)[0]
        '<reasoning></reasoning><action>{"name":"Gaze","coordinate":[1,2,3,4]}</action>'
        >>> text.split(FEEDBACK)[1]
        '<reasoning>A &lt; B</reasoning><answer>yes</answer>'
    """
    looks = "".join(render_fixation(look) + FEEDBACK for look in trajectory.fixations)
    if trajectory.answer is not None:
        return looks + render_answer(trajectory.reasoning, trajectory.answer)
    return looks + (_enclose(REASONING, _escape(trajectory.reasoning)) if trajectory.reasoning else "")


def render_fixation(fixation: Fixation) -> str:
    """Write the turn that makes one look, without its feedback.

    Raises:
        ProtocolError: If a coordinate is beyond :data:`MAX_COORDINATE`.

    Example:
        >>> render_fixation(Fixation("", Box((0, 0, 5), (4, 4, 9))))
        '<reasoning></reasoning><action>{"name":"Gaze","coordinate":[0,0,5,4,4,9]}</action>'
    """
    corners = fixation.box.corners
    if max(map(abs, corners)) > MAX_COORDINATE:
        raise ProtocolError(
            f"coordinates up to {MAX_COORDINATE} can be written, this box has a larger one; "
            "give the trajectory in the frame of an image (Trajectory.scale)"
        )
    action = json.dumps({"name": GAZE, "coordinate": corners}, separators=(",", ":"))
    return _enclose(REASONING, _escape(fixation.reasoning)) + _enclose(ACTION, action)


def render_answer(reasoning: str, answer: str) -> str:
    """Write the turn that answers.

    Example:
        >>> render_answer("Round.", "cyst")
        '<reasoning>Round.</reasoning><answer>cyst</answer>'
    """
    return _enclose(REASONING, _escape(reasoning)) + _enclose(ANSWER, _escape(answer))


def parse_turn(text: str, frame: Sequence[int] | None = None) -> Turn:
    """Read one turn of a policy: reasoning and one action, or reasoning and one answer, and nothing more.

    Never raises, whatever the string; time is linear in its length.

    Args:
        text: The turn, without end-of-turn tokens.
        frame: Extent of the frame in which boxes must lie, one per axis; None accepts every box.

    Returns:
        What is readable before the first defect, and that defect.

    Example:
        >>> parse_turn("<reasoning>Here.</reasoning><answer>yes</answer>").answer
        'yes'
        >>> parse_turn('<reasoning/><answer>yes</answer>').defect
        'missing_reasoning'
    """
    turn, end = _read_turn(text, 0, frame)
    if turn.defect is None and _skip_space(text, end) < len(text):
        return Turn(turn.reasoning, turn.box, turn.answer, "trailing_text")
    return turn


def parse(text: str, frame: Sequence[int] | None = None) -> Parsed:
    """Read a full text: looks, each with its feedback, and one answer at the end.

    Never raises, whatever the string; time is linear in its length.

    Args:
        text: The whole episode.
        frame: Extent of the frame in which boxes must lie, one per axis; None accepts every box.

    Returns:
        The path up to the first defect, and that defect.

    Example:
        >>> text = render(Trajectory((Fixation("", Box((1, 2), (3, 4))),), "", "yes"))
        >>> parse(text, frame=(8, 8)).trajectory.boxes, parse(text, frame=(2, 2)).defect
        ((Box(start=(1, 2), stop=(3, 4)),), 'box_outside')
    """
    looks: list[Fixation] = []
    position = 0
    while True:
        turn, position = _read_turn(text, position, frame)
        if turn.box is None:
            break
        if looks and looks[0].box.ndim != turn.box.ndim:
            return Parsed(Trajectory(tuple(looks), turn.reasoning), "wrong_axes")
        looks.append(Fixation(turn.reasoning, turn.box))
        position = _skip_space(text, position)
        if not text.startswith(FEEDBACK, position):
            defect: Defect = "bad_feedback" if position < len(text) else "no_answer"
            return Parsed(Trajectory(tuple(looks)), defect)
        position += len(FEEDBACK)
    trajectory = Trajectory(tuple(looks), turn.reasoning, turn.answer)
    if turn.defect is None and _skip_space(text, position) < len(text):
        return Parsed(trajectory, "trailing_text")
    if turn.defect == "empty" and looks:
        return Parsed(trajectory, "no_answer")
    return Parsed(trajectory, turn.defect)


def _read_turn(text: str, position: int, frame: Sequence[int] | None) -> tuple[Turn, int]:
    """Return the turn that begins at a position, and where it ends."""
    position = _skip_space(text, position)
    if position == len(text):
        return Turn(defect="empty"), position
    if not text.startswith(REASONING[0], position):
        return Turn(defect="missing_reasoning"), position
    inner, position = _read_element(text, position, REASONING)
    if inner is None:
        return Turn(defect="unclosed_tag"), position
    reasoning, position = _unescape(inner), _skip_space(text, position)
    for tags in (ACTION, ANSWER):
        if text.startswith(tags[0], position):
            inner, position = _read_element(text, position, tags)
            if inner is None:
                return Turn(reasoning, defect="unclosed_tag"), position
            return (_acting if tags is ACTION else _answering)(reasoning, inner, frame), position
    return Turn(reasoning, defect="unexpected_text" if position < len(text) else "no_answer"), position


def _read_element(text: str, position: int, tags: tuple[str, str]) -> tuple[str | None, int]:
    """Return what stands between two tags, the first of which is at the position, and where it ends."""
    start = position + len(tags[0])
    stop = text.find(tags[1], start)
    return (None, position) if stop < 0 else (text[start:stop], stop + len(tags[1]))


def _acting(reasoning: str, inner: str, frame: Sequence[int] | None) -> Turn:
    box = _read_box(inner)
    if box is None:
        return Turn(reasoning, defect="bad_action")
    if frame is not None and box.ndim != len(frame):
        return Turn(reasoning, defect="wrong_axes")
    if frame is not None and not box.is_inside(frame):
        return Turn(reasoning, defect="box_outside")
    return Turn(reasoning, box=box)


def _answering(reasoning: str, inner: str, frame: Sequence[int] | None) -> Turn:
    if any(tag in inner for tag in TAGS):
        return Turn(reasoning, defect="bad_answer")
    return Turn(reasoning, answer=_unescape(inner))


def _read_box(inner: str) -> Box | None:
    """Return the region of an action's JSON, or None where it names none."""
    if len(inner) > MAX_ACTION_CHARACTERS:
        return None
    try:
        # An object becomes a tuple of pairs, so that a key given twice is seen and an array is no object.
        pairs = json.loads(inner, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, tuple) or sorted(key for key, _ in pairs) != ["coordinate", "name"]:
        return None
    action = dict(pairs)
    corners = action["coordinate"]
    if action["name"] != GAZE or not isinstance(corners, list) or not all(map(_is_coordinate, corners)):
        return None
    try:
        return Box.from_corners(corners)
    except GeometryError:
        return None


def _is_coordinate(value: Any) -> bool:
    # NaN and Infinity, which Python's json reads, fail the comparison.
    return type(value) in (int, float) and abs(value) <= MAX_COORDINATE


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _enclose(tags: tuple[str, str], inner: str) -> str:
    return f"{tags[0]}{inner}{tags[1]}"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _unescape(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
