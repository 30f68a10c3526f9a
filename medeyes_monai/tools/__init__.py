"""Tools beyond the gaze, off unless they are asked for: the one place in which they are registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from medeyes_monai.errors import ConfigError
from medeyes_monai.tools.base import Outcome, Tool
from medeyes_monai.tools.measuring import Measure, Measurement, in_words, measure
from medeyes_monai.tools.objects import centre_object, nearest_object
from medeyes_monai.tools.window import Window

__all__ = [
    "TOOLS",
    "Measure",
    "Measurement",
    "Outcome",
    "Tool",
    "Window",
    "centre_object",
    "hints",
    "in_words",
    "make_tools",
    "measure",
    "nearest_object",
]

TOOLS: Mapping[str, Callable[[], Tool]] = {"Measure": Measure, "Window": Window}
"""Every tool by the name in its action."""


def make_tools(wanted: Sequence[str | Tool]) -> tuple[Tool, ...]:
    """Return tools by their names; what is a tool already stays.

    Raises:
        ConfigError: If there is no such tool, or two have one name.

    Example:
        >>> [tool.form.name for tool in make_tools(["Measure"])]
        ['Measure']
    """
    for name in wanted:
        if isinstance(name, str) and name not in TOOLS:
            raise ConfigError(f"unknown tool {name!r}; choose from {', '.join(TOOLS)}")
    tools = tuple(TOOLS[one]() if isinstance(one, str) else one for one in wanted)
    names = [tool.form.name for tool in tools]
    if len(set(names)) < len(names):
        raise ConfigError(f"each tool needs a name of its own, got {', '.join(names)}")
    return tools


def hints(tools: Sequence[Tool]) -> str:
    """Say how tools are called, for a policy's ``instruction``: a line for each.

    Example:
        >>> print(hints(make_tools(["Window"])))
        <action>{"name":"Window","centre":c,"width":w}</action> shows later looks from c - w/2 to c + w/2.
    """
    return "\n".join(tool.hint for tool in tools)
