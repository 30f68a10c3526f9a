"""MONAI's nibabel reader, bounded: single-file NIfTI."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import IO, Any

import nibabel
from monai.data import NibabelReader

from medeyes_monai.io.limits import (
    GZIP_MAGIC,
    SLACK_BYTES,
    RefusedError,
    check_size,
    nifti_header_of,
    only_path,
    read_exactly,
)

__all__ = ["NiftiReader"]

KINDS = {348: nibabel.Nifti1Image, 540: nibabel.Nifti2Image}


class NiftiReader(NibabelReader):
    """Read a single-file NIfTI-1 or NIfTI-2, compressed or not, never more bytes than its header declares.

    The affine is nibabel's. MONAI's own reader puts a guess in the place of an affine that is singular, not
    finite, or at odds with the voxel sizes; here such a file is refused, or read as its affine says.

    Args:
        max_voxels: Most values, channels included.

    Attributes:
        placed: Whether the file last read says how its axes lie in the patient.
    """

    placed: bool

    def __init__(self, max_voxels: int) -> None:
        """Set the limit."""
        super().__init__(squeeze_non_spatial_dims=True)
        self.max_voxels = max_voxels

    def read(self, data: Sequence[str] | str, **kwargs: Any) -> Any:
        """Check the declared size, read exactly those bytes, and hand them to nibabel."""
        path = only_path(data)
        self.filenames = [str(path)]
        with path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
            file.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[assignment]
            start = stream.read(540)
            kind = KINDS[nifti_header_of(start)]
            header = kind.header_class(start[: kind.header_class.sizeof_hdr])
            self.placed = bool(header["sform_code"] or header["qform_code"])
            if header.get_data_dtype().kind not in "iuf":
                raise RefusedError("does not hold plain numbers, one per voxel")
            size = check_size(header.get_data_shape(), header.get_data_dtype().itemsize, self.max_voxels)
            offset = int(header.get_data_offset())
            if not 0 <= offset <= SLACK_BYTES:
                raise RefusedError(f"declares that its voxels start at byte {offset:,}")
            body = start + read_exactly(stream, max(offset + size - len(start), 0))
        return kind.from_bytes(body)
