"""MONAI's readers with their sources bounded: pictures, NIfTI and NRRD."""

from __future__ import annotations

import bz2
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import nibabel
import nrrd
import numpy as np
from monai.data import NibabelReader, NrrdReader, PILReader
from monai.data.image_reader import NrrdImage
from monai.data.utils import correct_nifti_header_if_necessary
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from medeyes_monai.io.limits import RefusedError, check_size, read_exactly

__all__ = ["NiftiReader", "PictureReader", "PlainNrrdReader", "nifti_header_of"]

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
NIFTI_HEADERS = {348: nibabel.Nifti1Image, 540: nibabel.Nifti2Image}
SIXTEEN_BIT_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


class PictureReader(PILReader):
    """Read a PNG or JPEG upright (EXIF orientation applied), grey as one channel and colour as three.

    Transparent pixels are laid over black; palettes and CMYK become RGB; 16-bit grey keeps its range.

    Args:
        max_voxels: Most values, channels included.
    """

    def __init__(self, max_voxels: int) -> None:
        """Set the limit."""
        super().__init__()
        self.max_voxels = max_voxels

    def read(self, data: Sequence[str] | str, **kwargs: Any) -> Image.Image:
        """Open the file, check its declared size, and decode it."""
        path = _only(data)
        with path.open("rb") as stream:
            is_png = stream.read(len(PNG_MAGIC)) == PNG_MAGIC
            stream.seek(0)
            picture = (PngImageFile if is_png else JpegImageFile)(stream)
            check_size((*picture.size, len(picture.getbands())), 1, self.max_voxels)
            picture.load()
        return _plain(ImageOps.exif_transpose(picture))


class NiftiReader(NibabelReader):
    """Read a single-file NIfTI-1 or NIfTI-2, compressed or not, never more bytes than its header declares.

    Args:
        max_voxels: Most values, channels included.
    """

    def __init__(self, max_voxels: int) -> None:
        """Set the limit."""
        super().__init__(squeeze_non_spatial_dims=True)
        self.max_voxels = max_voxels

    def read(self, data: Sequence[str] | str, **kwargs: Any) -> Any:
        """Check the declared size, read exactly those bytes, and hand them to nibabel."""
        path = _only(data)
        self.filenames = [str(path)]
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: IO[bytes] = gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[assignment]
            start = stream.read(540)
            kind = NIFTI_HEADERS[nifti_header_of(start)]
            header = kind.header_class(start[: kind.header_class.sizeof_hdr])
            if header.get_data_dtype().kind not in "iuf":
                raise RefusedError("does not hold plain numbers, one per voxel")
            size = check_size(header.get_data_shape(), header.get_data_dtype().itemsize, self.max_voxels)
            end = header.get_data_offset() + size
            check_size((max(end - size, 1),), 1, self.max_voxels)
            body = start + read_exactly(stream, max(end - len(start), 0))
        return correct_nifti_header_if_necessary(kind.from_bytes(body))


class PlainNrrdReader(NrrdReader):
    """Read an NRRD whose data follow its header, and never more bytes than the header declares.

    Files without directions or origin get the axes' spacings and the origin 0.

    Args:
        max_voxels: Most values, channels included.
    """

    def __init__(self, max_voxels: int) -> None:
        """Set the limit."""
        super().__init__()
        self.max_voxels = max_voxels

    def read(self, data: Sequence[str] | str, **kwargs: Any) -> NrrdImage:
        """Check the declared size, read exactly those bytes, and hand them to pynrrd."""
        with _only(data).open("rb") as file:
            header = nrrd.read_header(file)
            if {"data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"} & header.keys():
                raise RefusedError("keeps its data elsewhere or skips bytes; save it as one plain NRRD file")
            itemsize = nrrd.reader._determine_datatype(header).itemsize
            body = read_exactly(
                _unpacked(file, header["encoding"]), check_size(header["sizes"], itemsize, self.max_voxels)
            )
        header["encoding"] = "raw"
        array = nrrd.read_data(header, io.BytesIO(body), index_order=self.index_order)
        axes = array.ndim
        spacings = np.nan_to_num(np.asarray(header.get("spacings", np.ones(axes)), dtype=float), nan=1.0)
        header.setdefault("space directions", np.diag(spacings))
        header.setdefault("space origin", np.zeros(len(header["space directions"])))
        return NrrdImage(array, header)


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


def _unpacked(file: IO[bytes], encoding: str) -> IO[bytes]:
    if encoding in ("gzip", "gz"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if encoding in ("bzip2", "bz2"):
        return bz2.BZ2File(file)
    if encoding != "raw":
        raise RefusedError("has an encoding other than raw, gzip and bzip2")
    return file


def _plain(picture: Image.Image) -> Image.Image:
    """Return a picture in mode L, RGB, or a grey mode of more than eight bits."""
    if picture.mode in ("L", "RGB", *SIXTEEN_BIT_MODES):
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    if "transparency" in picture.info or picture.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        colours = picture.convert("RGBA")
        over_black = Image.alpha_composite(Image.new("RGBA", colours.size, (0, 0, 0, 255)), colours)
        return over_black.convert("L" if picture.mode in ("LA", "La") else "RGB")
    return picture.convert("RGB")


def _only(data: Sequence[str] | str) -> Path:
    """Return the one path that MONAI's ``LoadImage`` hands over."""
    return Path(data if isinstance(data, str) else data[0])
