"""A DICOM series, or one enhanced multi-frame file, as an array of numbers with an affine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
from monai.data import ITKReader
from pydicom.pixels import get_decoder, iter_pixels

from medeyes_monai.geometry.affine import Affine
from medeyes_monai.io.boundary import naming
from medeyes_monai.io.dicom import parse
from medeyes_monai.io.frames import VOLUME_TAGS, Frame, frames_of
from medeyes_monai.io.limits import BYTES_PER_VOXEL, DEFAULT_MAX_VOXELS, SLACK_BYTES, RefusedError, check_size
from medeyes_monai.io.stacking import choose, stack, stacks_of
from medeyes_monai.io.values import Values, are_whole, empty, narrowed, put

__all__ = ["Decoder", "OpenSeries", "dicom_files", "is_dicom", "open_series", "read_series"]

Decoder = Literal["pydicom", "itk"]
"""Who unpacks compressed pixels: pydicom with its plugins, or ITK's GDCM (through MONAI's ITKReader)."""

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima", "")
MOST_FILES = 20_000
START_BYTES = 512


def is_dicom(path: Path) -> bool:
    """Tell whether a file has the mark of DICOM."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def dicom_files(folder: Path) -> list[Path]:
    """Return the DICOM files directly in a folder, by name.

    Texts and files with another format's suffix are passed over. A file that by its name is a slice but has
    not the mark of DICOM is refused: it may be one that was damaged.

    Raises:
        RefusedError: If there is none, there are too many, or one is damaged.
    """
    found = []
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        if is_dicom(path):
            found.append(path)
        elif _looks_like_a_slice(path) and not _is_text(path):
            raise RefusedError(
                f"holds {path.name}, which is not DICOM or is damaged; remove it, or pass a list of files"
            )
    if not found:
        raise RefusedError("is a folder without DICOM files; folders inside it are not searched")
    if len(found) > MOST_FILES:
        raise RefusedError(f"holds {len(found):,} DICOM files, above the limit of {MOST_FILES:,}")
    return found


def read_series(
    files: Sequence[Path], *, max_voxels: int, series: int | None = None, decoder: Decoder = "pydicom"
) -> tuple[Values, Affine]:
    """Read the slices of one volume, sorted by position.

    Args:
        files: DICOM files; those without an image are passed over.
        max_voxels: Most voxels of the volume.
        series: Which series, where there are several.
        decoder: Who unpacks the pixels.

    Returns:
        ``(X, Y, Z)``: columns, rows and slices, in memory slice by slice; ``int16`` if every rescaled value
        is a whole number in its range, else ``float32``; MONOCHROME1 inverted unless it is CT or PET. And the
        affine to RAS+ millimetres, sheared where the gantry was tilted.

    Raises:
        RefusedError: If there are several series and none is chosen, or slices make no volume.
        UnreadableImageError: If a file is damaged; the message names it.
    """
    volume = open_series(files, series, max_voxels)
    columns, rows = volume.frames[0].size
    check_size((columns, rows, len(volume.frames)), 2, max_voxels)
    return _voxels(volume.frames, max_voxels, decoder), volume.affine


@dataclass(frozen=True, slots=True, eq=False)
class OpenSeries:
    """The slices of one volume, sorted by position, of which nothing but the headers was read.

    Args:
        frames: In order along the normal.
        affine: As of :func:`read_series`.
    """

    frames: tuple[Frame, ...]
    affine: Affine

    @property
    def shape(self) -> tuple[int, int, int]:
        """Columns, rows and slices."""
        return (*self.frames[0].size, len(self.frames))

    def read(self, start: int, stop: int) -> Values:
        """Return some slices as :func:`read_series` returns all.

        Raises:
            UnreadableImageError: If a file is damaged; the message names it.
        """
        return _voxels(self.frames[start:stop], DEFAULT_MAX_VOXELS, "pydicom")


def open_series(
    files: Sequence[Path], series: int | None = None, max_voxels: int = DEFAULT_MAX_VOXELS
) -> OpenSeries:
    """Sort the slices of one volume by their headers; see :func:`read_series`.

    Args:
        files: DICOM files; those without an image are passed over.
        series: Which series, where there are several.
        max_voxels: Most voxels of a file.

    Raises:
        RefusedError: If there are several series and none is chosen, or slices make no volume.
        UnreadableImageError: If a file is damaged; the message names it.
    """
    frames: list[Frame] = []
    for path in files:
        with naming(path, "DICOM"):
            _check_bytes(path, max_voxels)
            frames += frames_of(path, max_voxels)
    if not frames:
        raise RefusedError("is DICOM without an image")
    volume = stack(choose(stacks_of(frames), series))
    return OpenSeries(volume.frames, volume.affine)


def _voxels(frames: Sequence[Frame], max_voxels: int, decoder: Decoder) -> Values:
    """Return ``(columns, rows, slices)`` of rescaled values."""
    voxels = empty((*frames[0].size, len(frames)))
    slots = {(frame.path, frame.number): slot for slot, frame in enumerate(frames)}
    by_file = sorted(frames, key=lambda frame: (str(frame.path), frame.number))
    for path, group in groupby(by_file, key=lambda frame: frame.path):
        with naming(path, "DICOM"):
            for frame, values in _values(path, list(group), max_voxels, decoder):
                voxels = put(voxels, np.s_[..., slots[frame.path, frame.number]], values.T)
    return voxels


def _values(
    path: Path, frames: list[Frame], max_voxels: int, decoder: Decoder
) -> Iterator[tuple[Frame, Values]]:
    """Yield the narrowed values of some frames of a file, ``(rows, columns)``, rescaled."""
    if decoder == "itk":
        yield from _values_of_itk(path, frames)
        return
    dataset = parse(path, max_voxels, VOLUME_TAGS)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed and not get_decoder(syntax).is_available:
        raise RefusedError(
            f"is compressed as {syntax.name}, which needs a plugin of pydicom (pylibjpeg with its codecs); "
            "install it, or pass decoder='itk'"
        )
    stored = iter_pixels(dataset, indices=[frame.number for frame in frames])
    for frame, pixels in zip(frames, stored, strict=True):
        values = pixels * frame.slope + frame.intercept
        whole = are_whole(pixels.dtype, frame.slope, frame.intercept)
        yield frame, narrowed(values if frame.is_quantity else _mirrored(values, frame), whole)


def _values_of_itk(path: Path, frames: list[Frame]) -> Iterator[tuple[Frame, Values]]:
    """Yield what MONAI's ITK reader makes of a file of one slice; it rescales and inverts MONOCHROME1."""
    if len(frames) != 1:
        raise RefusedError("has several frames, which are read with decoder='pydicom' only")
    reader = ITKReader()
    array, _ = reader.get_data(reader.read(str(path)))
    columns, rows = frames[0].size
    if array.shape[:2] != (columns, rows) or array.size != columns * rows:
        raise RefusedError("unpacks to another size than it declares")
    values = array.reshape(columns, rows).T
    if frames[0].is_quantity:
        values = _mirrored(values, frames[0])  # back
    yield frames[0], narrowed(values, are_whole(array.dtype))


def _mirrored(values: Values, frame: Frame) -> Values:
    """Return values with low ones and high ones exchanged, if the frame is MONOCHROME1."""
    return values if frame.mirror is None else frame.mirror - values


def _looks_like_a_slice(path: Path) -> bool:
    return path.suffix.lower() in DICOM_SUFFIXES or path.suffix[1:].isdigit()


def _is_text(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    return bool(start) and b"\x00" not in start


def _check_bytes(path: Path, max_voxels: int) -> None:
    if path.stat().st_size > max_voxels * BYTES_PER_VOXEL + SLACK_BYTES:
        raise RefusedError(f"is larger than an image of {max_voxels:,} voxels; raise max_voxels to accept")
