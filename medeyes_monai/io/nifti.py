"""MONAI's nibabel reader, bounded: single-file NIfTI."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import nibabel
import numpy as np
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
from medeyes_monai.io.values import Values, are_whole, empty, narrowed, put

__all__ = ["NiftiReader", "values_at"]

VALUES_AT_ONCE = 2**16
KINDS = {348: nibabel.Nifti1Image, 540: nibabel.Nifti2Image}


class NiftiReader(NibabelReader):
    """Read a single-file NIfTI-1 or NIfTI-2, compressed or not, never more bytes than its header declares.

    The affine is nibabel's. MONAI's own reader puts a guess in the place of an affine that is singular, not
    finite, or at odds with the voxel sizes; here such a file is refused, or read as its affine says. Scaled
    values become ``int16`` or ``float32`` (see :func:`values_at`) where nibabel makes 64 bits of each.

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
            stream = _unpacked(file)
            start = stream.read(540)
            kind = KINDS[nifti_header_of(start)]
            header = _header_of(start)
            self.placed = bool(header["sform_code"] or header["qform_code"])
            if header.get_data_dtype().kind not in "iuf":
                raise RefusedError("does not hold plain numbers, one per voxel")
            size = check_size(header.get_data_shape(), header.get_data_dtype().itemsize, self.max_voxels)
            offset = int(header.get_data_offset())
            if not 0 <= offset <= SLACK_BYTES:
                raise RefusedError(f"declares that its voxels start at byte {offset:,}")
            body = start + read_exactly(stream, max(offset + size - len(start), 0))
        return kind.from_bytes(body)

    def holds_slices(self, path: Path) -> bool:
        """Tell from the header whether a file holds more than one slice."""
        with path.open("rb") as file:
            shape = _header_of(_unpacked(file).read(540)).get_data_shape()
        return len(shape) > 2 and shape[2] > 1

    def _get_array_data(self, img: Any, filename: str) -> Values:
        """Return the values; scaled ones part by part, so that few of them are wide at a time."""
        proxy = img.dataobj
        if (proxy.slope, proxy.inter) == (1.0, 0.0):
            return np.asanyarray(proxy)
        flat, voxels = proxy.reshape((-1,)), empty((math.prod(proxy.shape),))
        for start in range(0, len(voxels), VALUES_AT_ONCE):
            part = slice(start, min(start + VALUES_AT_ONCE, len(voxels)))
            voxels = put(voxels, part, values_at(flat, part))
        return voxels.reshape(proxy.shape, order="F")


def values_at(proxy: Any, index: Any) -> Values:
    """Return some values of an image in the smallest type that holds them, whole ones as ``int16``.

    Args:
        proxy: The image's ``dataobj``.
        index: Which.

    Raises:
        RefusedError: If they are not finite.
    """
    values = np.asarray(proxy[index])
    return narrowed(values, are_whole(proxy.dtype, proxy.slope, proxy.inter))


def _header_of(start: bytes) -> Any:
    header = KINDS[nifti_header_of(start)].header_class
    return header(start[: header.sizeof_hdr])


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    is_packed = file.read(2) == GZIP_MAGIC
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if is_packed else file  # type: ignore[return-value]
