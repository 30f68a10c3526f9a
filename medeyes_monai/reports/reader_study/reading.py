"""JSON files of a study, checked against a schema; a message names the file and the field."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from medeyes_monai.errors import ConfigError

__all__ = ["check_schema", "field_name", "read_json", "schema_of"]

MAX_FILE_BYTES = 2**25
"""Largest file that is read; a thousand cases with long comments have a tenth of it."""
_LONGEST = 160
"""Letters of a message about a field."""


def read_json(file: Path) -> Any:
    """Read a JSON file strictly: no number that is none, no name twice in an object.

    Raises:
        ConfigError: If it is missing, too large, or something else.
    """
    if not file.is_file():
        raise ConfigError(f"{file} does not exist")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise ConfigError(f"{file.name}: has {file.stat().st_size:,} bytes, above {MAX_FILE_BYTES:,}")
    try:
        return json.loads(file.read_bytes(), parse_constant=_refuse, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file.name}: is not JSON as wanted: {str(error)[:_LONGEST]}") from error


def schema_of(name: str) -> dict[str, Any]:
    """Return a schema that lies beside this file."""
    text = files(__package__).joinpath(f"{name}.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def check_schema(content: Any, schema: dict[str, Any], place: str) -> None:
    """Refuse what does not keep to a schema.

    Raises:
        ConfigError: If it does not; the message begins with ``place`` and the field.
    """
    error = best_match(Draft202012Validator(schema).iter_errors(content))
    if error is not None:
        raise ConfigError(f"{place}: {field_name(error.absolute_path)}{error.message[:_LONGEST]}")


def field_name(path: Iterable[str | int]) -> str:
    """Return where in a file something is.

    Example:
        >>> field_name(["cases", 3, "trust"])
        'cases[3].trust: '
    """
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"{text.lstrip('.')}: " if text else ""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has {next(n for n in names if names.count(n) > 1)!r} twice")
    return found


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number that JSON has")
