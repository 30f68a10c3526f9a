"""The one function through which images come in."""

from __future__ import annotations

import gzip
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import LoadImage

from medeyes_monai.io.boundary import Reading, naming
from medeyes_monai.io.limits import (
    BYTES_PER_VOXEL,
    DEFAULT_MAX_VOXELS,
    GZIP_MAGIC,
    PNG_MAGIC,
    SLACK_BYTES,
    RefusedError,
    nifti_header_of,
)

if TYPE_CHECKING:  # each needs a package of its own
    from medeyes_monai.io.dicom import DicomReader
    from medeyes_monai.io.nifti import NiftiReader
    from medeyes_monai.io.nrrds import PlainNrrdReader
    from medeyes_monai.io.pictures import PictureReader

    Reader = DicomReader | NiftiReader | PlainNrrdReader | PictureReader

__all__ = ["loaded", "read_image", "reader_of"]

FLATTEST = 1e-6
"""An affine is singular below this volume of its normed axes."""


def read_image(path: str | os.PathLike[str], *, max_voxels: int = DEFAULT_MAX_VOXELS) -> MetaTensor:
    """Read a PNG, JPEG, single DICOM file, NIfTI or NRRD, within limits that are checked before decoding.

    The format is told by content. No value of a header but sizes and geometry is kept.

    Args:
        path: The file.
        max_voxels: Most values of the image, channels included; memory is bounded by a small multiple.

    Returns:
        Channel-first ``(C, X, Y[, Z])``; a single slice is ``(C, X, Y)``. ``uint8`` where the file holds
        8-bit values, else ``float32``. ``affine`` is 4x4, from voxel indices to RAS+ millimetres; the
        identity for PNG and JPEG, and ``meta["placed"]`` whether the file says how its axes lie in the
        patient. DICOM is rescaled (Hounsfield for CT), MONOCHROME1 inverted unless it is CT or PET.

    Raises:
        UnreadableImageError: If the file is missing, damaged, truncated, too large, of another format, holds
            voxels that are not finite, or a singular affine.

    Example:
        >>> from PIL import Image
        >>> folder = getfixture("tmp_path")
        >>> Image.new("L", (40, 30)).save(folder / "a.png")
        >>> tuple(read_image(folder / "a.png").shape)
        (1, 40, 30)
    """
    file = Path(path)
    with naming(file) as reading:
        reader = reader_of(file, max_voxels, reading)
        return _checked(loaded(file, reader), file, reader.placed)


def loaded(file: Path, reader: Reader) -> MetaTensor:
    """Return what the reader of a file's format makes of it, channel-first and unchecked."""
    image: MetaTensor = _loader()(str(file), reader=reader)
    return image


def reader_of(file: Path, max_voxels: int, reading: Reading) -> Reader:
    """Return the reader for a file's content.

    Args:
        file: The file.
        max_voxels: Most values of the image.
        reading: Is told the format, for messages.

    Raises:
        RefusedError: If there is no such file, or it is too large or of another format.
    """
    reader = _reader(*_start(file, max_voxels), max_voxels)
    reading.kind = type(reader).__name__.removeprefix("Plain").removesuffix("Reader")
    return reader


def _reader(start: bytes, unpacked: bytes, max_voxels: int) -> Reader:
    """Return the reader for the first bytes of a file; its package is imported only here."""
    if start.startswith((PNG_MAGIC, b"\xff\xd8\xff")):
        from medeyes_monai.io.pictures import PictureReader

        return PictureReader(max_voxels)
    if start[128:132] == b"DICM":
        from medeyes_monai.io.dicom import DicomReader

        return DicomReader(max_voxels)
    if start.startswith(b"NRRD000"):
        from medeyes_monai.io.nrrds import PlainNrrdReader

        return PlainNrrdReader(max_voxels)
    if nifti_header_of(unpacked):
        from medeyes_monai.io.nifti import NiftiReader

        return NiftiReader(max_voxels)
    raise RefusedError("is neither PNG, JPEG, DICOM, NIfTI nor NRRD, or its header is damaged")


def _start(file: Path, max_voxels: int) -> tuple[bytes, bytes]:
    """Return the first bytes of a file, as they are and decompressed."""
    if not file.is_file():
        raise RefusedError("is a folder, not one image file" if file.is_dir() else "no such file")
    if file.stat().st_size > max_voxels * BYTES_PER_VOXEL + SLACK_BYTES:
        raise RefusedError(f"is larger than an image of {max_voxels:,} voxels; raise max_voxels to accept")
    with file.open("rb") as stream:
        start = stream.read(540)
        stream.seek(0)
        return start, gzip.GzipFile(fileobj=stream).read(540) if start.startswith(GZIP_MAGIC) else start


@lru_cache(maxsize=1)
def _loader() -> LoadImage:
    return LoadImage(image_only=True, ensure_channel_first=True, dtype=None, expanduser=False)


def _checked(loaded: MetaTensor, file: Path, placed: bool) -> MetaTensor:
    """Return the voxels with their affine and nothing else, if both make sense."""
    voxels = loaded.as_tensor()
    if voxels.ndim == 4 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim not in (3, 4):
        raise RefusedError(f"has {voxels.ndim - 1} spatial axes; an image has 2 or 3")
    if voxels.dtype != torch.uint8:
        voxels = voxels.to(torch.float32)
        if not torch.isfinite(voxels).all():
            raise RefusedError("holds voxels that are not finite")
    affine = to_affine_nd(3, np.asarray(loaded.affine, dtype=np.float64))
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not np.isfinite(affine).all() or not lengths.all():
        raise RefusedError("has an affine that is not finite or maps an axis to nothing")
    if abs(np.linalg.det(axes / lengths)) < FLATTEST:
        raise RefusedError("has a singular affine")
    meta = {"filename_or_obj": str(file), "placed": placed}
    return MetaTensor(voxels.contiguous(), affine=torch.as_tensor(affine), meta=meta)
