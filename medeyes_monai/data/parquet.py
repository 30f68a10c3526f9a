"""Tables of Hugging Face's data sets: parquet files on disk, or the hub through ``datasets``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from monai.utils import optional_import

from medeyes_monai.data.releases import files_of_splits
from medeyes_monai.data.texts import Record
from medeyes_monai.errors import ConfigError

__all__ = ["HubTables", "ParquetTables", "Tables"]

BATCH_ROWS = 16
"""Rows that are read at once: their pictures are in memory together."""


class Tables(Protocol):
    """The tables of a data set, one or several for each split."""

    def splits(self) -> tuple[str, ...]:
        """Return the splits that are there."""

    def records(self, split: str) -> Rows:
        """Return the rows of a split."""


class Rows(Protocol):
    """Rows whose number is known."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __iter__(self) -> Iterator[Record]:
        """Read them."""


class ParquetTables:
    """Parquet files in a folder, as the hub lays them out: ``<part>/<split>-00000-of-00002-….parquet``.

    Args:
        folder: The copy.
        splits: The splits, in the order in which they are wanted.
        columns: Columns that every file must have.
        parts: Folders in which to look. All parts together make a split.

    Raises:
        ConfigError: If pyarrow is missing, a file is damaged or lacks a column, or there are no such files.
    """

    def __init__(
        self,
        folder: Path,
        splits: Sequence[str],
        columns: Sequence[str],
        parts: Sequence[str] = ("data", "."),
    ) -> None:
        """Look for the files and read their schemas; see the class."""
        self._columns = tuple(columns)
        self._files = {split: _files(folder, split, parts) for split in splits}
        self._files = {split: files for split, files in self._files.items() if files}
        if not self._files:
            named = {split: [f"{split}-*.parquet"] for split in splits}
            files_of_splits(folder, named)  # says what is there instead
        self._sizes = {split: sum(map(self._size, files)) for split, files in self._files.items()}

    def splits(self) -> tuple[str, ...]:
        """Return the splits that are there."""
        return tuple(self._files)

    def records(self, split: str) -> Rows:
        """Return the rows of a split."""
        return _ParquetRows(self._files[split], self._sizes[split])

    def _size(self, file: Path) -> int:
        try:
            with _library("pyarrow.parquet").ParquetFile(file) as table:
                names, rows = table.schema_arrow.names, int(table.metadata.num_rows)
        except (_library("pyarrow").ArrowException, OSError) as error:
            raise ConfigError(f"{file.name}: is no readable parquet file: {error}") from error
        if missing := [name for name in self._columns if name not in names]:
            raise ConfigError(f"{file.name}: lacks the column {missing[0]!r}; it has {', '.join(names)}")
        return rows


class _ParquetRows:
    def __init__(self, files: Sequence[Path], size: int) -> None:
        self._files, self._rows = files, size

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Record]:
        for file in self._files:
            number = 0
            try:
                with _library("pyarrow.parquet").ParquetFile(file) as table:
                    for batch in table.iter_batches(batch_size=BATCH_ROWS):
                        for row in batch.to_pylist():
                            number += 1
                            yield Record(f"{file.parent.name}/{file.name}, row {number}", row)
            except (_library("pyarrow").ArrowException, OSError) as error:
                raise ConfigError(
                    f"{file.name}, after row {number}: is truncated or damaged: {error}"
                ) from error


class HubTables:
    """Tables of a data set on the Hugging Face hub (or in a folder of that form), through ``datasets``.

    Args:
        hub: Owner and name, or a folder.
        splits: The splits.
        parts: Configurations of the data set; None for its only one.
        revision: Commit, branch or tag.

    Raises:
        ConfigError: If ``datasets`` is missing, or the data cannot be had, as without a network.
    """

    def __init__(
        self,
        hub: str,
        splits: Sequence[str],
        parts: Sequence[str | None] = (None,),
        revision: str | None = None,
    ) -> None:
        """Remember what is asked for; see the class."""
        _library("datasets")
        self._hub, self._splits, self._parts, self._revision = hub, tuple(splits), tuple(parts), revision

    def splits(self) -> tuple[str, ...]:
        """Return the splits that were asked for."""
        return self._splits

    def records(self, split: str) -> Rows:
        """Return the rows of a split, fetching what is not yet in the library's cache."""
        return _HubRows([self._table(part, split) for part in self._parts])

    def _table(self, part: str | None, split: str) -> tuple[str, Any]:
        try:
            table = _library("datasets").load_dataset(self._hub, part, split=split, revision=self._revision)
        except (OSError, ValueError, LookupError) as error:
            raise ConfigError(
                f"{self._hub} ({split}) cannot be had from the hub: {error}; without a network, give the "
                "folder of a local copy"
            ) from error
        return f"{self._hub}/{part or 'default'}/{split}", table.with_format("arrow")


class _HubRows:
    def __init__(self, tables: Sequence[tuple[str, Any]]) -> None:
        self._tables = tables

    def __len__(self) -> int:
        return sum(len(table) for _, table in self._tables)

    def __iter__(self) -> Iterator[Record]:
        for place, table in self._tables:
            number = 0
            for batch in table.iter(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(f"{place}, row {number}", row)


def _files(folder: Path, split: str, parts: Sequence[str]) -> list[Path]:
    """Return the files of a split, part by part and shard by shard."""
    named = [sorted((folder / part).glob(f"{split}-*.parquet")) for part in parts]
    return [file for files in named for file in files]


def _library(name: str) -> Any:
    """Import an optional library where it is used.

    Raises:
        ConfigError: If it is missing.
    """
    module, is_there = optional_import(name)
    if not is_there:
        raise ConfigError(f"this form of the data needs {name.split('.')[0]}; install medeyes-monai[data]")
    return module
