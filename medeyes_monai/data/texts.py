"""Text files of data sets as rows, each with the place that a message names."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medeyes_monai.errors import ConfigError

__all__ = ["Record", "csv_records", "json_records", "read_text"]

MAX_TEXT_BYTES = 2**30
"""Largest text file that is read. The largest of a known release has 57 MB."""
MAX_CELL_CHARACTERS = 2**20


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a data set as it was released.

    Args:
        place: File and row, for messages. Rows count from 1; a header is not counted.
        fields: What the row says.
        flaw: Why the row cannot be used, if it cannot.
    """

    place: str
    fields: Mapping[str, Any]
    flaw: str = ""

    def text(self, key: str) -> str:
        """Return a field that must be there as text; a number counts as its digits.

        Raises:
            ConfigError: If it is missing or something else.
        """
        value = self.fields.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            got = type(value).__name__ if key in self.fields else f"only {', '.join(map(str, self.fields))}"
            raise ConfigError(f"wanted text in {key!r}, got {got}")
        return value.strip()


def json_records(file: Path, encoding: str = "utf-8-sig") -> list[Record]:
    """Return the rows of a JSON list of objects, or of JSON lines (``.jsonl``).

    Raises:
        ConfigError: If the file cannot be read or holds something else.
    """
    try:
        text = read_text(file, encoding)
        if file.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file.name}: is not JSON: {error}") from error
    if not isinstance(rows, list):
        raise ConfigError(f"{file.name}: wanted a list of objects, got {type(rows).__name__}")
    return [_object(f"{file.name}, row {number}", row) for number, row in enumerate(rows, 1)]


def csv_records(file: Path, columns: Sequence[str], encoding: str = "utf-8-sig") -> list[Record]:
    """Return the rows of a comma-separated file with a header.

    Args:
        file: The file.
        columns: Columns that it must have.
        encoding: Its encoding.

    Raises:
        ConfigError: If the file cannot be read, lacks a column, or a quotation does not end.
    """
    table = csv.reader(io.StringIO(read_text(file, encoding), newline=""), strict=True)
    before = csv.field_size_limit(MAX_CELL_CHARACTERS)
    try:
        rows = list(table)
    except csv.Error as error:
        raise ConfigError(f"{file.name}, line {table.line_num}: {error}") from error
    finally:
        csv.field_size_limit(before)
    header = [name.strip() for name in rows[0]] if rows else []
    if missing := [name for name in columns if name not in header]:
        raise ConfigError(f"{file.name}: lacks the column {missing[0]!r}; its header is {header}")
    return [
        _cells(f"{file.name}, row {number}", header, row) for number, row in enumerate(rows[1:], 1) if row
    ]


def read_text(file: Path, encoding: str = "utf-8-sig") -> str:
    """Return the text of a file; by default UTF-8, with or without a byte order mark.

    No other encoding is guessed, since a wrong guess shows only in what is read.

    Raises:
        ConfigError: If the file is missing or too large, or its encoding is another; the message names the
            line.
    """
    if not file.is_file():
        raise ConfigError(f"{file.name} does not exist in {file.parent}")
    if file.stat().st_size > MAX_TEXT_BYTES:
        raise ConfigError(f"{file.name}: has {file.stat().st_size:,} bytes, above {MAX_TEXT_BYTES:,}")
    content = file.read_bytes()
    try:
        return content.decode(encoding)
    except LookupError as error:
        raise ConfigError(f"there is no encoding {encoding!r}; utf-8 and latin-1 are two that are") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{file.name}, line {line}: is not {encoding} (byte 0x{content[error.start]:02x}); save the file "
            "as UTF-8, or name its encoding where that can be set"
        ) from error


def _object(place: str, row: Any) -> Record:
    if isinstance(row, dict):
        return Record(place, row)
    return Record(place, {}, f"wanted an object, got {type(row).__name__}")


def _cells(place: str, header: list[str], row: list[str]) -> Record:
    if len(row) == len(header):
        return Record(place, dict(zip(header, row, strict=True)))
    return Record(place, {}, f"has {len(row)} cells, the header has {len(header)}")
