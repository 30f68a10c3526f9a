"""The pictures of a prepared data set: each written once, whole, and known by its checksum."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from medeyes_monai.data.blobs import Blob
from medeyes_monai.data.tiling import on_white, open_picture, tile
from medeyes_monai.errors import ConfigError, UnreadableImageError
from medeyes_monai.io import sha256_of, write_atomic

__all__ = ["CHECKSUMS", "Album", "Kept", "check_sums"]

CHECKSUMS = "checksums.sha256"
"""File of the checksums, in the form that ``sha256sum --check`` reads."""
JOURNAL = ".journal"
"""File of what is written so far, until the data set is whole."""
_ENTRY = re.compile(r"([0-9a-f]{64}) ([0-9a-f]{64}) ([0-9]+)x([0-9]+) (.+)")


class Kept(NamedTuple):
    """A picture of the album.

    Args:
        path: Where it is, from the album's folder.
        content: Digest of what it was made of: equal for equal pictures, whatever they are called.
        checksum: SHA-256 of the file.
        size: ``(columns, rows)``.
    """

    path: str
    content: str
    checksum: str
    size: tuple[int, int]


class Album:
    """Writes pictures into a folder, so that an interrupted run goes on where it was.

    A picture is decoded once to see that it is whole, then written as it is; only one with transparent
    pixels is laid on white, and several of one question side by side (as PNG). What the journal knows and is
    still there is not decoded or written again. Two pictures that want one name, capitals aside, get
    different ones: the second, in the order of the data set, has a part of its digest in its name.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        """Read the journal of an interrupted run; see the class."""
        self.folder = folder
        self._journal = folder / JOURNAL
        self._before = self._resumed()
        self._kept: dict[tuple[str, ...], Kept] = {}
        self._taken: dict[str, str] = {}

    @property
    def resumed(self) -> int:
        """Number of pictures that an interrupted run left behind."""
        return len(self._before)

    def keep(self, blobs: Sequence[Blob], name: str, *, as_is: bool = False) -> Kept:
        """Return where a picture is, writing it if it is new.

        Args:
            blobs: The picture, or several that belong on one sheet.
            name: How it is to be called, without its ending; ending in ``/``, it is called by its content.
            as_is: Whether transparent pixels stay, as those of a label image.

        Raises:
            UnreadableImageError: If a picture is missing, truncated or damaged.
        """
        source = (name, *(blob.name for blob in blobs))
        if source not in self._kept:
            contents = [blob.read() for blob in blobs]
            digests = b"".join(hashlib.sha256(content).digest() for content in contents)
            self._kept[source] = self._written(contents, name, hashlib.sha256(digests).hexdigest(), as_is)
        return self._kept[source]

    def keep_file(self, file: Path, name: str) -> Kept:
        """Return where a file is that is kept as it is, such as a volume.

        It is linked where the file system can, since volumes are large, and else copied. What is in it shows
        only when it is read.

        Args:
            file: The file.
            name: How it is to be called, without its ending.

        Raises:
            UnreadableImageError: If it is missing.
        """
        source = (name, str(file))
        if source not in self._kept:
            if not file.is_file():
                raise UnreadableImageError(f"{file.name} is missing from {file.parent}")
            digest = sha256_of(file)
            ending = ".nii.gz" if file.name.endswith(".nii.gz") else file.suffix
            kept = Kept(self._free(_safe(name, digest), digest) + ending, digest, digest, (0, 0))
            if self._before.get(kept.path) != kept or not (self.folder / kept.path).is_file():
                _put(file, self.folder / kept.path)
                self._note(kept)
            self._kept[source] = kept
        return self._kept[source]

    def finish(self, *more: Path) -> None:
        """Write the checksums of all pictures and of further files, and end the journal."""
        lines = {kept.path: kept.checksum for kept in self._kept.values()}
        lines.update({file.relative_to(self.folder).as_posix(): sha256_of(file) for file in more})
        text = "".join(f"{checksum}  {path}\n" for path, checksum in sorted(lines.items()))
        write_atomic(self.folder / CHECKSUMS, text.encode())
        self._journal.unlink(missing_ok=True)

    def _written(self, contents: list[bytes], name: str, digest: str, as_is: bool) -> Kept:
        stem = self._free(_safe(name, digest), digest)
        for ending in (".png", ".jpg"):
            known = self._before.get(stem + ending)
            if known and known.content == digest and (self.folder / known.path).is_file():
                return known
        content, ending, size = _file_of(contents, as_is)
        kept = Kept(stem + ending, digest, hashlib.sha256(content).hexdigest(), size)
        (self.folder / kept.path).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / kept.path, content)
        self._note(kept)
        return kept

    def _note(self, kept: Kept) -> None:
        with self._journal.open("a", encoding="utf-8") as journal:
            journal.write(f"{kept.content} {kept.checksum} {kept.size[0]}x{kept.size[1]} {kept.path}\n")

    def _free(self, stem: str, digest: str) -> str:
        """Return a name that no other picture of this run has."""
        if self._taken.setdefault(stem.casefold(), digest) == digest:
            return stem
        return self._free(f"{stem}-{digest[:8]}", digest)

    def _resumed(self) -> dict[str, Kept]:
        """Return what the journal knows; what a crash has left half written is removed."""
        for part in self.folder.rglob(".*.part"):
            part.unlink()
        if not self._journal.is_file():
            return {}
        found = {}
        for line in self._journal.read_text("utf-8").split("\n")[:-1]:
            if match := _ENTRY.fullmatch(line):
                content, checksum, columns, rows, path = match.groups()
                found[path] = Kept(path, content, checksum, (int(columns), int(rows)))
        entries = (f"{k.content} {k.checksum} {k.size[0]}x{k.size[1]} {k.path}\n" for k in found.values())
        write_atomic(self._journal, "".join(entries).encode())
        return found


def _put(file: Path, target: Path) -> None:
    """Link or copy a file to a place where it appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        os.link(file, part)
    except OSError:  # another file system, or one without links
        shutil.copyfile(file, part)
    part.replace(target)


def check_sums(folder: Path) -> int:
    """Compare the files of a prepared data set with their checksums.

    Returns:
        The number of files.

    Raises:
        ConfigError: If a file is missing or has changed.
    """
    lines = (folder / CHECKSUMS).read_text("utf-8").splitlines()
    for line in lines:
        checksum, _, path = line.partition("  ")
        if not (folder / path).is_file() or sha256_of(folder / path) != checksum:
            raise ConfigError(
                f"{folder}: {path} is missing or not as it was written; remove prepared.json there and "
                "prepare the data again"
            )
    return len(lines)


def _file_of(contents: Sequence[bytes], as_is: bool) -> tuple[bytes, str, tuple[int, int]]:
    """Return the bytes of a file, its ending, and the size of its picture."""
    pictures = [open_picture(content) for content in contents]
    if len(pictures) == 1 and (as_is or not pictures[0].has_transparency_data):
        ending = ".png" if contents[0].startswith(b"\x89PNG") else ".jpg"
        return contents[0], ending, pictures[0].size
    sheet: Image.Image = tile(pictures).sheet if len(pictures) > 1 else on_white(pictures[0])
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue(), ".png", sheet.size


def _safe(name: str, digest: str) -> str:
    """Return a name of plain characters that leads into the folder."""
    whole = f"{name}{digest[:16]}" if name.endswith("/") else name
    parts = [re.sub(r"[^\w.-]+", "_", part).strip(".") for part in whole.split("/")]
    return "/".join(part or "_" for part in parts)
