"""The episode's text: written by ``render``, read by ``parse``, which accepts any string.

One turn is ``<reasoning>…</reasoning>`` and then either
``<action>{"name":"Gaze","coordinate":[x1,y1,x2,y2]}</action>`` or ``<answer>…</answer>``; in the full text
every action is followed by :data:`FEEDBACK` (method, section 1). In reasoning and answers ``&``, ``<`` and
``>`` are written as ``&amp;``, ``&lt;`` and ``&gt;``. White space between the elements is ignored.

Tools other than the gaze are read only where their forms are given, which the paper's protocol does not; the
feedback to a tool's action is its reply as text, ``<feedback>…</feedback>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from medeyes_monai.geometry import Box
from medeyes_monai.protocol.actions import GAZE, ToolForm, read_action, write_action
from medeyes_monai.trajectory import Fixation, ToolCall, Trajectory

__all__ = [
    "ACTION",
    "ANSWER",
    "DEFECTS",
    "FEEDBACK",
    "REASONING",
    "TAGS",
    "Defect",
    "Parsed",
    "Turn",
    "parse",
    "parse_turn",
    "render",
    "render_answer",
    "render_call",
    "render_fixation",
    "render_step",
]

REASONING = ("<reasoning>", "</reasoning>")
ACTION = ("<action>", "</action>")
ANSWER = ("<answer>", "</answer>")
FEEDBACK = "<feedback><image></feedback>"
"""What follows a gaze in the full text; the image is that of the box."""
REPLY = ("<feedback>", "</feedback>")
"""What encloses a tool's reply."""
TAGS = (*REASONING, *ACTION, *ANSWER, *REPLY)

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
the reasoning. ``bad_action``: not the JSON of a gaze at a region, or of a tool that is on. ``wrong_axes``: a
box with another number of axes than the frame or the boxes before it. ``box_outside``: a box not wholly
inside the frame.
``bad_answer``: a tag inside the answer. ``bad_feedback``: an action is not followed by its feedback.
``trailing_text``: something after the end. ``no_answer``: the text ends before an answer. ``too_long``: a
turn was cut at its length limit (said by whoever cuts, never by this module).
"""
DEFECTS: tuple[Defect, ...] = get_args(Defect)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a policy, as far as it is readable.

    Args:
        reasoning: Text before the action or answer; empty where there is none.
        box: Region that is to be looked at, in the frame of the text; None unless the turn looks.
        answer: The answer; None unless the turn answers.
        defect: First reason why this is not exactly one turn, or None.
        call: The tool that is to be used, its reply still empty; None unless the turn calls one.
    """

    reasoning: str = ""
    box: Box | None = None
    answer: str | None = None
    defect: Defect | None = None
    call: ToolCall | None = None


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
    """Write a trajectory as text (equation 1), each look and each call of a tool followed by its feedback.

    Where the answer is None the text ends after the last feedback, or after the reasoning if there is any.
    ``parse(render(trajectory)).trajectory == trajectory`` holds for every trajectory that can be written; for
    one with calls, where ``parse`` is given the forms of its tools.

    Raises:
        ProtocolError: If a coordinate is beyond ``MAX_COORDINATE``.

    Example:
        >>> text = render(Trajectory((Fixation("", Box((1, 2), (3, 4))),), "A < B", "yes"))
        >>> text.split(FEEDBACK)[0]
        '<reasoning></reasoning><action>{"name":"Gaze","coordinate":[1,2,3,4]}</action>'
        >>> text.split(FEEDBACK)[1]
        '<reasoning>A &lt; B</reasoning><answer>yes</answer>'
    """
    steps = "".join(render_step(step) + _feedback(step) for step in trajectory.steps)
    if trajectory.answer is not None:
        return steps + render_answer(trajectory.reasoning, trajectory.answer)
    return steps + (_enclose(REASONING, _escape(trajectory.reasoning)) if trajectory.reasoning else "")


def render_step(step: Fixation | ToolCall) -> str:
    """Write the turn of a look or of a tool's call, without its feedback.

    Raises:
        ProtocolError: If a number is beyond ``MAX_COORDINATE``.
    """
    return render_fixation(step) if isinstance(step, Fixation) else render_call(step)


def render_call(call: ToolCall) -> str:
    """Write the turn that calls a tool, without its reply.

    Raises:
        ProtocolError: If a number is beyond ``MAX_COORDINATE``.

    Example:
        >>> render_call(ToolCall("Window", "Darker.", values=(("centre", 40), ("width", 80))))
        '<reasoning>Darker.</reasoning><action>{"name":"Window","centre":40,"width":80}</action>'
    """
    action = write_action(call.name, call.box, call.values)
    return _enclose(REASONING, _escape(call.reasoning)) + _enclose(ACTION, action)


def render_fixation(fixation: Fixation) -> str:
    """Write the turn that makes one look, without its feedback.

    Raises:
        ProtocolError: If a coordinate is beyond ``MAX_COORDINATE``.

    Example:
        >>> render_fixation(Fixation("", Box((0, 0, 5), (4, 4, 9))))
        '<reasoning></reasoning><action>{"name":"Gaze","coordinate":[0,0,5,4,4,9]}</action>'
    """
    action = write_action(GAZE, fixation.box)
    return _enclose(REASONING, _escape(fixation.reasoning)) + _enclose(ACTION, action)


def render_answer(reasoning: str, answer: str) -> str:
    """Write the turn that answers.

    Example:
        >>> render_answer("Round.", "cyst")
        '<reasoning>Round.</reasoning><answer>cyst</answer>'
    """
    return _enclose(REASONING, _escape(reasoning)) + _enclose(ANSWER, _escape(answer))


def parse_turn(text: str, frame: Sequence[int] | None = None, tools: Sequence[ToolForm] = ()) -> Turn:
    """Read one turn of a policy: reasoning and one action, or reasoning and one answer, and nothing more.

    Never raises, whatever the string; time is linear in its length.

    Args:
        text: The turn, without end-of-turn tokens.
        frame: Extent of the frame in which boxes must lie, one per axis; None accepts every box.
        tools: Forms of the tools that are on; none, the default, is the paper's protocol.

    Returns:
        What is readable before the first defect, and that defect.

    Example:
        >>> parse_turn("<reasoning>Here.</reasoning><answer>yes</answer>").answer
        'yes'
        >>> parse_turn('<reasoning/><answer>yes</answer>').defect
        'missing_reasoning'
    """
    turn, end = _read_turn(text, 0, frame, tools)
    if turn.defect is None and _skip_space(text, end) < len(text):
        return replace(turn, defect="trailing_text")
    return turn


def parse(text: str, frame: Sequence[int] | None = None, tools: Sequence[ToolForm] = ()) -> Parsed:
    """Read a full text: looks, each with its feedback, and one answer at the end.

    Never raises, whatever the string; time is linear in its length.

    Args:
        text: The whole episode.
        frame: Extent of the frame in which boxes must lie, one per axis; None accepts every box.
        tools: Forms of the tools that are on; none, the default, is the paper's protocol.

    Returns:
        The path up to the first defect, and that defect.

    Example:
        >>> text = render(Trajectory((Fixation("", Box((1, 2), (3, 4))),), "", "yes"))
        >>> parse(text, frame=(8, 8)).trajectory.boxes, parse(text, frame=(2, 2)).defect
        ((Box(start=(1, 2), stop=(3, 4)),), 'box_outside')
    """
    looks: list[Fixation] = []
    calls: list[ToolCall] = []
    axes, position = 0, 0
    while True:
        turn, position = _read_turn(text, position, frame, tools)
        if turn.box is None and turn.call is None:
            break
        box = turn.box if turn.call is None else turn.call.box
        if box is not None and axes not in (0, box.ndim):
            return Parsed(Trajectory(tuple(looks), turn.reasoning, calls=tuple(calls)), "wrong_axes")
        axes = axes if box is None else box.ndim
        reply, position = _read_feedback(text, position, turn)
        if turn.box is not None:
            looks.append(Fixation(turn.reasoning, turn.box))
        elif turn.call is not None:
            calls.append(replace(turn.call, reply=reply or "", after=len(looks)))
        if reply is None:
            defect: Defect = "bad_feedback" if position < len(text) else "no_answer"
            return Parsed(Trajectory(tuple(looks), calls=tuple(calls)), defect)
    trajectory = Trajectory(tuple(looks), turn.reasoning, turn.answer, tuple(calls))
    if turn.defect is None and _skip_space(text, position) < len(text):
        return Parsed(trajectory, "trailing_text")
    if turn.defect == "empty" and (looks or calls):
        return Parsed(trajectory, "no_answer")
    return Parsed(trajectory, turn.defect)


def _feedback(step: Fixation | ToolCall) -> str:
    return FEEDBACK if isinstance(step, Fixation) else _enclose(REPLY, _escape(step.reply))


def _read_feedback(text: str, position: int, turn: Turn) -> tuple[str | None, int]:
    """Return a tool's reply, empty for a look, and where the feedback ends; None where there is none."""
    position = _skip_space(text, position)
    if turn.box is not None:
        return ("", position + len(FEEDBACK)) if text.startswith(FEEDBACK, position) else (None, position)
    if not text.startswith(REPLY[0], position):
        return None, position
    inner, end = _read_element(text, position, REPLY)
    return (None, position) if inner is None or "<" in inner else (_unescape(inner), end)


def _read_turn(
    text: str, position: int, frame: Sequence[int] | None, tools: Sequence[ToolForm]
) -> tuple[Turn, int]:
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
            if tags is ACTION:
                return _acting(reasoning, inner, frame, tools), position
            return _answering(reasoning, inner), position
    return Turn(reasoning, defect="unexpected_text" if position < len(text) else "no_answer"), position


def _read_element(text: str, position: int, tags: tuple[str, str]) -> tuple[str | None, int]:
    """Return what stands between two tags, the first of which is at the position, and where it ends."""
    start = position + len(tags[0])
    stop = text.find(tags[1], start)
    return (None, position) if stop < 0 else (text[start:stop], stop + len(tags[1]))


def _acting(reasoning: str, inner: str, frame: Sequence[int] | None, tools: Sequence[ToolForm]) -> Turn:
    action = read_action(inner, tools)
    if action is None:
        return Turn(reasoning, defect="bad_action")
    box = action.box
    if frame is not None and box is not None:
        if box.ndim != len(frame):
            return Turn(reasoning, defect="wrong_axes")
        if not box.is_inside(frame):
            return Turn(reasoning, defect="box_outside")
    if action.name == GAZE:
        return Turn(reasoning, box=box)
    return Turn(reasoning, call=ToolCall(action.name, reasoning, box, action.values))


def _answering(reasoning: str, inner: str) -> Turn:
    if any(tag in inner for tag in TAGS):
        return Turn(reasoning, defect="bad_answer")
    return Turn(reasoning, answer=_unescape(inner))


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
