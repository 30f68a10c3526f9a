"""What comes in over the network, on disk: within limits, under names of our own, or refused."""

from __future__ import annotations

import shutil
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from medeyes_monai.errors import UnreadableImageError
from medeyes_monai.io.series import is_dicom

__all__ = ["Limits", "receive"]

CHUNK_BYTES = 2**20
ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken.

    Args:
        upload_bytes: Most bytes of an upload.
        unpacked_bytes: Most bytes that the files of a zip hold together.
        files: Most files of a zip.
        voxels: Most voxels of an image.
    """

    upload_bytes: int = 2**30
    unpacked_bytes: int = 2**31
    files: int = 5000
    voxels: int = 2**28


def receive(upload: Path, folder: Path, limits: Limits) -> Path:
    """Make a study of an upload: unpack a zip, and let other files be.

    Files get numbers for names, so that neither a path nor a patient's name in a zip matters.

    Args:
        upload: The file as it came.
        folder: An empty folder for what a zip holds, or for a lone DICOM file.
        limits: How much is taken.

    Returns:
        The folder of a DICOM study, or the upload itself where it is an image of another format.

    Raises:
        UnreadableImageError: If a zip is broken, encrypted, too large, or names places outside itself.
    """
    with upload.open("rb") as file:
        start = file.read(len(ZIP_MAGIC))
    if start == ZIP_MAGIC:
        _unpack(upload, folder, limits)
        return folder
    if is_dicom(upload):
        (folder / "000000.dcm").hardlink_to(upload)
        return folder
    return upload


def _unpack(upload: Path, folder: Path, limits: Limits) -> None:
    try:
        with zipfile.ZipFile(upload) as packed:
            entries = [entry for entry in packed.infolist() if not entry.is_dir()]
            _check(entries, limits)
            for number, entry in enumerate(entries):
                with packed.open(entry) as source, (folder / f"{number:06d}.dcm").open("xb") as file:
                    shutil.copyfileobj(source, file, CHUNK_BYTES)  # never more than the entry declares
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OverflowError, OSError) as error:
        if isinstance(error, UnreadableImageError):
            raise
        raise UnreadableImageError(
            f"the zip cannot be unpacked ({type(error).__name__}); it is damaged, encrypted, or of a kind "
            "that is not supported"
        ) from error


def _check(entries: list[zipfile.ZipInfo], limits: Limits) -> None:
    """Refuse a zip by what it declares, before anything is unpacked."""
    if not entries:
        raise UnreadableImageError("the zip holds no files")
    if len(entries) > limits.files:
        raise UnreadableImageError(
            f"the zip holds {len(entries):,} files, above the limit of {limits.files:,}"
        )
    declared = sum(entry.file_size for entry in entries)
    if declared > limits.unpacked_bytes:
        raise UnreadableImageError(
            f"the zip declares {declared:,} bytes, above the limit of {limits.unpacked_bytes:,}"
        )
    for entry in entries:
        if _leaves(entry.filename):
            raise UnreadableImageError("the zip names a place outside itself; pack it anew with plain names")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise UnreadableImageError("the zip holds a link; pack the files themselves")
        if entry.flag_bits & 1:
            raise UnreadableImageError("the zip is encrypted; send it without a password")


def _leaves(name: str) -> bool:
    """Tell whether a name points outside of the folder that it is unpacked in, on any system."""
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    return PurePosixPath(name).is_absolute() or bool(PureWindowsPath(name).anchor) or ".." in parts
