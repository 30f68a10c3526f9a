"""The rows of the ablation: one file each, or several made from one file."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser, ReferenceResolver
from monai.bundle.utils import merge_kv

from medeyes_monai.errors import ConfigError
from medeyes_monai.io.configs import check_config

__all__ = ["BASE", "KEY", "Catalogue", "Row", "read_rows"]

BASE = "_base.yaml"
"""What all rows share; files of a row do not begin with an underscore."""
KEY = "_ablation"
"""What a row's file says about the row itself. The underscore makes it an id that a workflow ignores."""
_KNOWN = {"block", "label", "reference", "axes", "warm_starts", "resume"}
_FIRST = "full"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table: a configuration that is run with several seeds.

    Args:
        name: The file's name, then the values of its axes, with dots between.
        file: The overlay.
        block: Block of rows that are shown together.
        label: What the row is called in tables.
        reference: Name of the row that it is compared with.
        settings: Ids that are set over the file.
        start: Name of the policy that it starts from, where its file asks for ``--warm-starts``.
        resumable: Whether an interrupted run may go on; else it begins anew.
    """

    name: str
    file: Path
    block: str
    label: str
    reference: str | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None
    resumable: bool = True

    def merged(self, train: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the whole configuration as MONAI merges it: the bundle's, the base, the row, settings."""
        parser = ConfigParser(copy.deepcopy(_read(train)))
        for changes in (_read(self.file.with_name(BASE)), _read(self.file), self.settings, settings):
            for key, value in copy.deepcopy(dict(changes)).items():
                merge_kv(parser, key, value)
        return dict(parser.get())

    def check(self, train: Path, settings: Mapping[str, Any]) -> None:
        """Refuse a row that cannot be run.

        Raises:
            ConfigError: If an id is unknown or a component does not exist; the message names the row.
        """
        try:
            check_config(train, [self.file.with_name(BASE), self.file], **self.settings, **settings)
        except ConfigError as error:
            raise ConfigError(f"row {self.name}: {error}") from error


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All rows of a folder.

    Args:
        rows: Rows by name, those of a block side by side.
        need_warm_starts: Files whose rows ``--warm-starts`` makes, with their block, where it is missing.
    """

    rows: Mapping[str, Row]
    need_warm_starts: Mapping[str, str]

    @property
    def blocks(self) -> list[str]:
        """Names of the blocks."""
        return list(dict.fromkeys([*(r.block for r in self.rows.values()), *self.need_warm_starts.values()]))

    def select(self, rows: Sequence[str], blocks: Sequence[str]) -> list[Row]:
        """Return rows by their name or that of their file, all rows of blocks, and what they refer to.

        Raises:
            ConfigError: If there is no such row or block; the message lists those that exist.
        """
        names: list[str] = []
        for block in blocks:
            if block not in self.blocks:
                raise ConfigError(f"unknown block {block!r}; there are {', '.join(self.blocks)}")
            if block in self.need_warm_starts.values():
                raise ConfigError(f"the rows of block {block!r} need {_WAY_OUT}")
            names += [row.name for row in self.rows.values() if row.block == block]
        for name in rows:
            names += self._named(name)
        for name in names:
            reference = self.rows[name].reference
            if reference is not None and reference not in names:
                names.append(reference)
        return [row for name, row in self.rows.items() if name in names]

    def _named(self, name: str) -> list[str]:
        if name in self.need_warm_starts:
            raise ConfigError(f"row {name!r} needs {_WAY_OUT}")
        found = [row.name for row in self.rows.values() if name in (row.name, row.file.stem)]
        if not found:
            there = ", ".join([*self.rows, *self.need_warm_starts])
            raise ConfigError(f"unknown row {name!r}; there are {there}")
        return found


_WAY_OUT = (
    "--warm-starts name=path,...: policies to start from; or name=steps, and scripts/build_tiny_policy.py "
    "makes them with so many supervised steps"
)


def read_rows(folder: Path, warm_starts: Mapping[str, Path] | None = None) -> Catalogue:
    """Read the rows of a folder.

    Args:
        folder: Holds the base and a file for each row.
        warm_starts: Policies to start from, by name, for rows that ask for them.

    Raises:
        ConfigError: If the base is missing, a file does not say what its row is, or a row refers to nothing.
    """
    if not (folder / BASE).is_file():
        raise ConfigError(f"{folder / BASE} does not exist; give the folder of the rows with --configs")
    rows: list[Row] = []
    missing: dict[str, str] = {}
    for file in sorted(folder.glob("*.yaml")):
        if file.name.startswith("_"):
            continue
        about = _about(file)
        if about.get("warm_starts") and not warm_starts:
            missing[file.stem] = about["block"]
        rows += _rows_of(file, about, warm_starts or {})
    first = {row.block for row in rows if row.name == _FIRST}
    rows.sort(key=lambda row: (row.name != _FIRST, row.block not in first, row.block))
    names = {row.name for row in rows}
    for row in rows:
        if row.reference is not None and row.reference not in names:
            raise ConfigError(f"row {row.name} refers to {row.reference!r}, which is no row")
    return Catalogue({row.name: row for row in rows}, missing)


def _about(file: Path) -> dict[str, Any]:
    about = _read(file).get(KEY)
    if not isinstance(about, dict) or not {"block", "label"} <= about.keys() <= _KNOWN:
        raise ConfigError(
            f"{file.name}: {KEY} must map block and label, and may map "
            f"{', '.join(sorted(_KNOWN - {'block', 'label'}))}; got {about!r}"
        )
    return about


def _rows_of(file: Path, about: Mapping[str, Any], warm_starts: Mapping[str, Path]) -> Iterator[Row]:
    axes = [
        {str(name): dict(values) for name, values in axis.items()} for axis in about.get("axes", {}).values()
    ]
    if about.get("warm_starts"):
        axes.append({name: {"policy_path": str(path)} for name, path in warm_starts.items()})
    reference = about.get("reference", _FIRST)
    for chosen in itertools.product(*(axis.items() for axis in axes)):
        names = [name for name, _ in chosen]
        start = names[-1] if about.get("warm_starts") else None
        same_start = [start] if start is not None else []
        yield Row(
            name=".".join([file.stem, *names]),
            file=file,
            block=about["block"],
            label=": ".join([about["label"], ", ".join(names)]) if names else about["label"],
            reference=None if reference is None else ".".join([reference, *same_start]),
            settings={key: value for _, values in chosen for key, value in values.items()},
            start=start,
            resumable=about.get("resume", True),
        )


@cache
def _read(file: Path) -> dict[str, Any]:
    """Return the content of a file, its ids in the form that MONAI uses; never to be changed in place."""
    try:
        content = ConfigParser.load_config_file(str(file))
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must map ids to values, got {type(content).__name__}")
    return {ReferenceResolver.normalize_id(key): value for key, value in content.items()}
