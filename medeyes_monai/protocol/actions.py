"""The JSON of an action: a gaze at a region, or the call of a tool whose form is known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medeyes_monai.errors import ConfigError, GeometryError, ProtocolError
from medeyes_monai.geometry import Box

__all__ = [
    "GAZE",
    "MAX_ACTION_CHARACTERS",
    "MAX_COORDINATE",
    "Action",
    "ToolForm",
    "read_action",
    "write_action",
]

GAZE = "Gaze"
"""Name of the only action that every episode knows."""
MAX_ACTION_CHARACTERS = 256
"""Longest text between the tags of an action that is read as JSON; six coordinates need 106."""
MAX_COORDINATE = 2**31 - 1
"""Largest magnitude of a number that is written or read."""


@dataclass(frozen=True, slots=True)
class ToolForm:
    """What the action of a tool looks like: ``{"name": ..., "coordinate": [...], number: ...}``.

    Args:
        name: Name of the tool, an identifier.
        takes_box: Whether it is asked about a region, its ``coordinate``.
        numbers: Names of further numbers, all of which have to be given.

    Raises:
        ConfigError: If a name is no identifier or has another meaning.

    Example:
        >>> ToolForm("Window", numbers=("centre", "width")).numbers
        ('centre', 'width')
    """

    name: str
    takes_box: bool = False
    numbers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the names."""
        names = (self.name, *self.numbers)
        taken = {"name", "coordinate"} & set(names)
        if taken or len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
            raise ConfigError(f"a tool and its numbers need names of their own, identifiers; got {names}")

    @property
    def keys(self) -> list[str]:
        """Keys of the action, sorted."""
        return sorted(["name", *(["coordinate"] if self.takes_box else []), *self.numbers])


@dataclass(frozen=True, slots=True)
class Action:
    """An action that was read.

    Args:
        name: Of whom.
        box: The region, where there is one.
        values: Its numbers, in the order of the form.
    """

    name: str
    box: Box | None = None
    values: tuple[tuple[str, float], ...] = ()


def write_action(name: str, box: Box | None, values: Sequence[tuple[str, float]] = ()) -> str:
    """Write an action as JSON.

    Raises:
        ProtocolError: If a number is beyond :data:`MAX_COORDINATE`.

    Example:
        >>> write_action("Window", None, (("centre", 40.0), ("width", 400)))
        '{"name":"Window","centre":40.0,"width":400}'
    """
    corners = {} if box is None else {"coordinate": box.corners}
    if not all(map(_is_number, (*corners.get("coordinate", ()), *(value for _, value in values)))):
        raise ProtocolError(
            f"coordinates up to {MAX_COORDINATE} can be written, this box has a larger one; "
            "give the trajectory in the frame of an image (Trajectory.scale)"
        )
    return json.dumps({"name": name, **corners, **dict(values)}, separators=(",", ":"))


def read_action(inner: str, tools: Sequence[ToolForm] = ()) -> Action | None:
    """Read an action's JSON, or return None where it is none of a gaze's or a tool's.

    Never raises, whatever the string.

    Example:
        >>> read_action('{"name":"Gaze","coordinate":[1,2,3,4]}').box
        Box(start=(1, 2), stop=(3, 4))
        >>> read_action('{"name":"Window","centre":40,"width":400}') is None
        True
    """
    if len(inner) > MAX_ACTION_CHARACTERS:
        return None
    try:
        # An object becomes a tuple of pairs, so that a key given twice is seen and an array is no object.
        pairs = json.loads(inner, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, tuple):
        return None
    action = dict(pairs)
    form = next((form for form in (_LOOK, *tools) if form.name == action.get("name")), None)
    if form is None or sorted(key for key, _ in pairs) != form.keys:
        return None
    box = _read_box(action["coordinate"]) if form.takes_box else None
    values = tuple((name, action[name]) for name in form.numbers)
    if (form.takes_box and box is None) or not all(_is_number(value) for _, value in values):
        return None
    return Action(form.name, box, values)


def _read_box(corners: Any) -> Box | None:
    if not isinstance(corners, list) or not all(map(_is_number, corners)):
        return None
    try:
        return Box.from_corners(corners)
    except GeometryError:
        return None


def _is_number(value: Any) -> bool:
    # NaN and Infinity, which Python's json reads, fail the comparison.
    return type(value) in (int, float) and abs(value) <= MAX_COORDINATE


_LOOK = ToolForm(GAZE, takes_box=True)
