"""Files that are either whole or not there, and their checksums."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

__all__ = ["sha256_of", "write_atomic"]

CHUNK_BYTES = 2**20


def write_atomic(path: str | os.PathLike[str], content: bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader, or a restart after a crash, sees the old content or the new, never half.

    The bytes go to a temporary file in the same folder, are flushed to the disk and renamed over the target;
    then the folder itself is flushed. The permissions are those of an ordinary new file.

    Args:
        path: The file.
        content: What it is to hold.
        durable: False leaves out the flushing, for many small files that can be made again: whoever is
            killed still leaves no half file behind, only a loss of power may.

    Raises:
        OSError: If the folder does not exist or cannot be written; the target is then unchanged.

    Example:
        >>> target = getfixture("tmp_path") / "state.json"
        >>> write_atomic(target, b"{}")
        >>> target.read_bytes()
        b'{}'
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.chmod(_ordinary_mode())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _flush_folder(target.parent)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _ordinary_mode() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _flush_folder(folder: Path) -> None:
    """Make the rename last; systems that cannot open a folder (Windows) do so on their own."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
