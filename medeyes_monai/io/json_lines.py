"""JSON lines, one object each, of files whose last line may have been cut off while it was written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medeyes_monai.errors import ConfigError

__all__ = ["object_of", "whole_lines"]

MAX_LINE_BYTES = 2**24
"""Longest line that is read."""


def whole_lines(file: Path) -> Iterator[tuple[bytes, str]]:
    """Iterate over the whole lines of a file, each with its place for messages; what has no end is left out.

    Raises:
        ConfigError: If a line is too long.
    """
    with file.open("rb") as stream:
        number = 1
        while line := stream.readline(MAX_LINE_BYTES):
            if line.endswith(b"\n"):
                yield line, f"{file.name}, line {number}"
                number += 1
            elif len(line) == MAX_LINE_BYTES:
                raise ConfigError(f"{file.name}, line {number}: has more than {MAX_LINE_BYTES:,} bytes")


def object_of(line: bytes, place: str, way_out: str) -> dict[str, Any]:
    """Return the object of a line.

    Args:
        line: The line.
        place: Where it stands, for messages.
        way_out: What is to be done about a line that is damaged.

    Raises:
        ConfigError: If the line is no JSON, or no object.

    Example:
        >>> object_of(b'{"item": 3}', "a.jsonl, line 2", "evaluate again")
        {'item': 3}
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: is damaged ({error}); {way_out}") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{place}: wanted an object, got {type(row).__name__}")
    return row
