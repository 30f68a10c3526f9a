"""A file to which answered questions are appended, so that a run that is killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medeyes_monai.errors import ConfigError, MedEyesError
from medeyes_monai.evaluation.records import Record
from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.io.json_lines import object_of, whole_lines

__all__ = ["Journal", "fingerprint_of", "read_predictions"]

FORMAT = "medeyes predictions 1"
"""Name of the layout of the file, in its first line."""
WAY_OUT = "remove the file, or the lines from this one on"


class Journal:
    """Predictions of one run as JSON lines: a first line that says which run, then one for each question.

    What is appended is on the disk before :meth:`append` returns. A last line that was cut off, because the
    process was killed while it wrote, is dropped on opening.

    Args:
        path: The file; its folder is made when the file is.
        run: What the run depends on, as plain values. A file of another run is refused.

    Raises:
        ConfigError: If the file is of another run, no file of predictions, or damaged before its last line.
    """

    def __init__(self, path: str | Path, run: Mapping[str, Any]) -> None:
        """Open the file, or begin it."""
        self.path, self.run = Path(path), dict(run)
        self.records: dict[int, Record] = {}
        self.skipped: dict[int, str] = {}
        if self.path.exists():
            self._resume()
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, _line(_header(self.run)))

    @property
    def done(self) -> set[int]:
        """Numbers of the items that need not be asked again."""
        return {*self.records, *self.skipped}

    def append(self, records: Sequence[Record], skipped: Mapping[int, str] | None = None) -> None:
        """Write answered questions down.

        Args:
            records: The questions.
            skipped: Numbers of items that could not be read, with the key of the question in their place.
        """
        left_out = dict(skipped or {})
        rows = [record.to_row() for record in records]
        rows += [{"item": item, "skipped": key} for item, key in left_out.items()]
        with self.path.open("ab") as stream:
            stream.write(b"".join(map(_line, rows)))
            stream.flush()
            os.fsync(stream.fileno())
        kept = [Record.from_row(json.loads(_line(record.to_row()))) for record in records]
        self.records |= {record.item: record for record in kept}
        self.skipped |= left_out

    def _resume(self) -> None:
        header, self.records, self.skipped, whole = _read(self.path)
        _check_run(self.path, header, self.run)
        if whole < self.path.stat().st_size:
            with self.path.open("r+b") as stream:
                stream.truncate(whole)
                os.fsync(stream.fileno())


def read_predictions(path: str | Path) -> tuple[dict[str, Any], list[Record], dict[int, str]]:
    """Read a file of predictions; a last line that was cut off is left out.

    Args:
        path: The file, or the folder of a run, which holds it as ``predictions.jsonl``.

    Returns:
        What the run depends on, its records by item, and the items that could not be read.

    Raises:
        ConfigError: If the file is missing, no file of predictions, or damaged before its last line.
    """
    file = Path(path) / "predictions.jsonl" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ConfigError(f"{file} does not exist; give a folder in which an evaluation has run")
    header, records, skipped, _ = _read(file)
    return header["run"], [records[item] for item in sorted(records)], skipped


def fingerprint_of(run: Mapping[str, Any]) -> str:
    """Return a digest of what a run depends on, 32 hexadecimal digits.

    Example:
        >>> fingerprint_of({"a": 1, "b": 2}) == fingerprint_of({"b": 2, "a": 1})
        True
    """
    text = json.dumps(run, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _header(run: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": FORMAT, "fingerprint": fingerprint_of(run), "run": dict(run)}


def _line(row: Mapping[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", errors="replace")


def _read(file: Path) -> tuple[dict[str, Any], dict[int, Record], dict[int, str], int]:
    """Return header, records, skipped items, and where the last whole line ends."""
    records: dict[int, Record] = {}
    skipped: dict[int, str] = {}
    header: dict[str, Any] = {}
    whole = 0
    for line, place in whole_lines(file):
        row = object_of(line, place, WAY_OUT)
        if not header:
            header = _checked_header(row, file)
        else:
            _add(row, place, records, skipped)
        whole += len(line)
    if not header:
        raise ConfigError(f"{file.name}: is no file of predictions; remove it, or give another output_dir")
    return header, records, skipped, whole


def _add(row: Mapping[str, Any], place: str, records: dict[int, Record], skipped: dict[int, str]) -> None:
    try:
        item = int(row["item"])
        if item in records or item in skipped:
            raise ConfigError(f"item {item} stands there twice; did two runs write into one file?")
        if "skipped" in row:
            skipped[item] = str(row["skipped"])
        else:
            records[item] = Record.from_row(row)
    except (KeyError, TypeError, ValueError, MedEyesError) as error:
        raise ConfigError(
            f"{place}: {error!r}" if isinstance(error, KeyError) else f"{place}: {error}"
        ) from error


def _checked_header(row: dict[str, Any], file: Path) -> dict[str, Any]:
    if row.get("format") != FORMAT or not isinstance(row.get("run"), dict):
        raise ConfigError(f"{file.name}: is no file of predictions; remove it, or give another output_dir")
    return row


def _check_run(file: Path, header: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    if header["run"] == json.loads(json.dumps(run)):
        return
    there, here = _flat(header["run"]), _flat(run)
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    raise ConfigError(
        f"{file} is of another run, with another {', '.join(names)}; give another output_dir, or remove the "
        "file to begin anew"
    )


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: json.loads(json.dumps(value))}
    parts = [_flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items()]
    return {key: inner for part in parts for key, inner in part.items()}
