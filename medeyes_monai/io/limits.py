"""Limits that are checked before anything is decoded, so that a small file cannot ask for much memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO

__all__ = [
    "BYTES_PER_VOXEL",
    "DEFAULT_MAX_VOXELS",
    "SLACK_BYTES",
    "RefusedError",
    "check_size",
    "read_exactly",
]

DEFAULT_MAX_VOXELS = 2**28
"""Most voxels of an image, channels included: a CT of 512 x 512 x 1024."""

BYTES_PER_VOXEL = 4
"""Bytes that a file may hold, decompressed, for each voxel of the limit."""

SLACK_BYTES = 2**20
"""Bytes of headers, extensions or padding that a file may hold beside its voxels."""

CHUNK_BYTES = 2**20

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
GZIP_MAGIC = b"\x1f\x8b"


class RefusedError(ValueError):
    """A file is refused for a reason that can be shown as it is: it quotes no value of a header but sizes."""


def check_size(extent: Sequence[int], itemsize: int, max_voxels: int) -> int:
    """Return the bytes of an image that a header declares.

    Args:
        extent: All sizes, channels and frames included.
        itemsize: Bytes of one value.
        max_voxels: Most values that are accepted.

    Raises:
        RefusedError: If a size is not positive, or the image is larger than accepted.

    Example:
        >>> check_size((512, 512), 2, max_voxels=2**20)
        524288
    """
    sizes = [int(n) for n in extent]
    shown = "x".join(map(str, sizes))
    if not sizes or min(sizes) < 1 or itemsize < 1:
        raise RefusedError(f"declares {shown or 'no'} voxels; every size must be positive")
    voxels = math.prod(sizes)
    if voxels > max_voxels or voxels * itemsize > max_voxels * BYTES_PER_VOXEL:
        raise RefusedError(
            f"declares {shown} voxels of {itemsize} bytes, above the limit of {max_voxels:,} voxels of "
            f"{BYTES_PER_VOXEL} bytes; raise max_voxels to accept"
        )
    return voxels * itemsize


def read_exactly(stream: IO[bytes], wanted: int) -> bytes:
    """Return the next ``wanted`` bytes of a stream, which must end soon after them.

    A compressed stream is read to its end, so that its checksum is verified, but never far past ``wanted``.

    Raises:
        RefusedError: If the stream ends early, or goes on.
    """
    data = bytearray()
    while len(data) < wanted:
        chunk = stream.read(min(CHUNK_BYTES, wanted - len(data)))
        if not chunk:
            raise RefusedError(f"is truncated: declares {wanted:,} bytes, holds {len(data):,}")
        data += chunk
    if len(stream.read(SLACK_BYTES + 1)) > SLACK_BYTES:
        raise RefusedError("holds far more bytes than its header declares")
    return bytes(data)


def nifti_header_of(start: bytes) -> int:
    """Return the size of the NIfTI header that a file starts with: 348, 540, or 0 if it is none.

    Raises:
        RefusedError: If it is the header of a pair of files.
    """
    if len(start) >= 348 and start[344:348] == b"ni1\x00":
        raise RefusedError("is half of a NIfTI pair; save it as one .nii or .nii.gz file")
    if len(start) >= 348 and start[344:348] == b"n+1\x00":
        return 348
    return 540 if len(start) >= 540 and start[4:8] == b"n+2\x00" else 0


def only_path(data: Sequence[str] | str) -> Path:
    """Return the one path that MONAI's ``LoadImage`` hands to a reader."""
    return Path(data if isinstance(data, str) else data[0])
