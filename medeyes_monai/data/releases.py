"""What a data set's own file gives to ``prepare``: its rows, its pictures, and what there is to know."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from medeyes_monai.data.blobs import Blob
from medeyes_monai.data.texts import Record
from medeyes_monai.errors import ConfigError

__all__ = ["About", "Count", "Question", "Release", "files_of_splits", "is_polar"]


@dataclass(frozen=True, slots=True)
class Count:
    """A number that a whole copy of a data set must have.

    Args:
        split: The split.
        kind: What is counted: ``questions``, ``images``, a family, or ``yes/no`` (answers that are one).
        wanted: The number, and others that are published as well.
    """

    split: str
    kind: str
    wanted: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class About:
    """What a card says of a data set besides what was found in it.

    Args:
        title: Its name as published.
        licence: Its licence as published, and where that is said.
        citation: BibTeX.
        homepage: Where it is released.
        traps: What to know before a number on it is believed.
        counts: Numbers that a whole copy must have.
    """

    title: str
    licence: str
    citation: str
    homepage: str
    traps: tuple[str, ...] = ()
    counts: tuple[Count, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """One question, in the keys of a datalist but for its image.

    Args:
        item: Keys of ``data.items`` without ``image``. Boxes are in pixels of the only picture; they may
            reach over its edge and are clipped.
        pictures: What is asked about; several are laid side by side.
        name: How the image is to be called, without its ending; folders with ``/``.
        mask: A label image of the picture, kept beside it and named in the metadata.
        files: Instead of pictures, files that are kept as they are: a volume under ``image``, its label map
            under ``mask``.
    """

    item: Mapping[str, Any]
    pictures: tuple[Blob, ...]
    name: str
    mask: Blob | None = field(default=None)
    files: Mapping[str, Path] = field(default_factory=dict)


class Release(Protocol):
    """A copy of a data set in a layout in which it was published."""

    @property
    def about(self) -> About:
        """What there is to know of it."""

    @property
    def form(self) -> str:
        """Which layout was found, and the settings with which it is read; names what was prepared."""

    def splits(self) -> tuple[str, ...]:
        """Return the splits that this copy holds, the one for training first.

        Raises:
            ConfigError: If there is none.
        """

    def records(self, split: str) -> Iterable[Record]:
        """Return the rows of a split; with a length where it is known beforehand."""

    def questions(self, record: Record) -> Sequence[Question]:
        """Return what a row asks: mostly one question, none if it is not wanted.

        Raises:
            ConfigError: If the row is wrong. Its place is added by the caller.
            UnreadableImageError: If its picture is missing.
        """


def files_of_splits(folder: Path, names: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """Return the file of each split that is there.

    Args:
        folder: Where the files are.
        names: For each split, the names that its file may have; the first that exists is taken.

    Raises:
        ConfigError: If there is no folder, or none of the files is in it; what is there is named.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; give the folder of the release")
    found = {}
    for split, choices in names.items():
        if existing := [folder / name for name in choices if (folder / name).is_file()]:
            found[split] = existing[0]
    if not found:
        wanted = ", ".join(choices[0] for choices in names.values())
        raise ConfigError(f"{folder} holds none of {wanted}; it holds {_some(folder)}")
    return found


def is_polar(answer: str) -> bool:
    """Tell whether an answer is yes or no.

    Example:
        >>> is_polar("Yes"), is_polar("yes, both"), is_polar("no.")
        (True, False, True)
    """
    return answer.strip().rstrip(".").casefold() in ("yes", "no")


def _some(folder: Path, most: int = 8) -> str:
    names: Collection[str] = sorted(path.name for path in folder.iterdir())
    shown = ", ".join(list(names)[:most]) or "nothing"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
