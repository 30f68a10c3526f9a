"""Pictures of a release before they are unpacked: in a folder, in a zip archive, or in a table."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from medeyes_monai.errors import ConfigError, UnreadableImageError

__all__ = ["Blob", "PictureStore", "embedded"]

MAX_PICTURE_BYTES = 2**27
"""Largest picture file of a release that is read: 128 MiB."""


@dataclass(frozen=True, slots=True)
class Blob:
    """The bytes of one picture, not yet read.

    Args:
        name: Where it is, unique within the release; for messages, and so that nothing is read twice.
        read: Returns the bytes.
    """

    name: str
    read: Callable[[], bytes] = field(compare=False)


def embedded(cell: Any, place: str) -> Blob:
    """Return the picture in a cell ``{"bytes": …, "path": …}``, as Hugging Face's tables hold it.

    Raises:
        UnreadableImageError: If the cell holds no bytes.
    """
    content = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(content, bytes) or not content:
        raise UnreadableImageError(
            "the table holds no bytes of the picture; take the release whose tables embed their images"
        )
    return Blob(place, partial(bytes, content))


class PictureStore:
    """Finds pictures by name in folders and, where those are not unpacked, in zip archives.

    Args:
        places: Folders and archives, in the order in which they are searched; those that do not exist are
            passed over. Of an archive, a name is its member's path or the end of it.

    Raises:
        ConfigError: If none of the places exists, or an archive is damaged.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "a.png").write_bytes(b"...")
        >>> PictureStore([folder, folder / "images.zip"]).blob("a.png").read()
        b'...'
    """

    def __init__(self, places: Sequence[Path]) -> None:
        """Look which places there are, and list the archives; see the class."""
        self._folders = [place for place in places if place.is_dir()]
        self._members: dict[str, list[tuple[zipfile.ZipFile, zipfile.ZipInfo]]] = {}
        archives = [place for place in places if place.is_file()]
        self._places = " and ".join(map(str, (*self._folders, *archives)))
        if not self._places:
            raise ConfigError(f"there are no pictures: none of {', '.join(map(str, places))} exists")
        for archive in archives:
            self._list(archive)

    def blob(self, name: str) -> Blob:
        """Return a picture by its name.

        Raises:
            UnreadableImageError: If there is none of that name, or several of an archive's members end in
                it, or it leads out of the folder.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise UnreadableImageError(f"the picture's name {name!r} leads out of the data set's folder")
        for folder in self._folders:
            if (file := folder / path).is_file():
                return Blob(str(file), partial(_read_file, file))
        found = self._members.get(str(path), [])
        if len(found) != 1:
            what = f"is there {len(found)} times in" if found else "is missing from"
            raise UnreadableImageError(f"the picture {name!r} {what} {self._places}")
        archive, member = found[0]
        return Blob(f"{archive.filename}:{member.filename}", partial(_read_member, archive, member))

    def _list(self, archive: Path) -> None:
        try:
            opened = zipfile.ZipFile(archive)
        except (zipfile.BadZipFile, OSError) as error:
            raise ConfigError(f"{archive.name} is no readable zip archive: {error}") from error
        for member in opened.infolist():
            if not member.is_dir():
                for end in _ends(PurePosixPath(member.filename)):
                    self._members.setdefault(end, []).append((opened, member))


def _ends(path: PurePosixPath) -> list[str]:
    """Return a path and its ends, ``imgs/a/b.png``, ``a/b.png``, ``b.png``, as many folders as are given."""
    return ["/".join(path.parts[first:]) for first in range(len(path.parts))]


def _read_file(file: Path) -> bytes:
    _check_size(file.name, file.stat().st_size)
    return file.read_bytes()


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    _check_size(member.filename, member.file_size)
    try:
        with archive.open(member) as stream:
            return stream.read(MAX_PICTURE_BYTES)
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError) as error:
        raise UnreadableImageError(f"{member.filename} cannot be unpacked: {error}") from error


def _check_size(name: str, size: int) -> None:
    if size > MAX_PICTURE_BYTES:
        raise UnreadableImageError(f"{name} has {size:,} bytes, above the limit of {MAX_PICTURE_BYTES:,}")
