"""MONAI's NRRD reader, bounded: one file, data after the header."""

from __future__ import annotations

import bz2
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import nrrd
import numpy as np
from monai.data import NrrdReader
from monai.data.image_reader import NrrdImage

from medeyes_monai.io.limits import RefusedError, check_size, only_path, read_exactly

__all__ = ["PlainNrrdReader"]

LPS, RAS, LAS = "left-posterior-superior", "right-anterior-superior", "left-anterior-superior"
SPACES = {LPS: LPS, "lps": LPS, RAS: RAS, "ras": RAS, LAS: LAS, "las": LAS}
TO_LPS = np.array([1.0, -1.0, 1.0])
"""From LAS to LPS."""


class PlainNrrdReader(NrrdReader):
    """Read an NRRD whose data follow its header, and never more bytes than the header declares.

    Files without directions or origin get the axes' spacings and the origin 0.

    Args:
        max_voxels: Most values, channels included.

    Attributes:
        placed: Whether the file last read says how its axes lie in the patient.
    """

    placed: bool

    def __init__(self, max_voxels: int) -> None:
        """Set the limit."""
        super().__init__()
        self.max_voxels = max_voxels

    def holds_slices(self, path: Path) -> bool:
        """Tell from the header whether a file holds more than one slice."""
        with path.open("rb") as file:
            sizes = nrrd.read_header(file)["sizes"]
        return len(sizes) > 2 and int(sizes[2]) > 1

    def read(self, data: Sequence[str] | str, **kwargs: Any) -> NrrdImage:
        """Check the declared size, read exactly those bytes, and hand them to pynrrd."""
        with only_path(data).open("rb") as file:
            header = nrrd.read_header(file)
            if {"data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"} & header.keys():
                raise RefusedError("keeps its data elsewhere or skips bytes; save it as one plain NRRD file")
            itemsize = nrrd.reader._determine_datatype(header).itemsize
            body = read_exactly(
                _unpacked(file, header["encoding"]), check_size(header["sizes"], itemsize, self.max_voxels)
            )
        header["encoding"] = "raw"
        array = nrrd.read_data(header, io.BytesIO(body), index_order=self.index_order)
        self.dtype = array.dtype  # MONAI would make float32 of it
        _place(header)
        self.placed = "space" in header and "space directions" in header
        axes = array.ndim
        spacings = np.nan_to_num(np.asarray(header.get("spacings", np.ones(axes)), dtype=float), nan=1.0)
        header.setdefault("space directions", np.diag(spacings))
        header.setdefault("space origin", np.zeros(len(header["space directions"])))
        return NrrdImage(array, header)


def _place(header: dict[str, Any]) -> None:
    """Bring origin and directions to LPS or RAS, which MONAI tells apart by their long names."""
    space = SPACES.get(str(header.get("space", LPS)).lower())
    if space is None:
        raise RefusedError("lies in a space other than LPS, RAS and LAS; save it in one of them")
    if np.isnan(np.asarray(header.get("space directions", 0.0), dtype=float)).any():
        raise RefusedError("has an axis that is not one of space (colour or time); save one volume a file")
    if "space" in header:
        header["space"] = LPS if space == LAS else space
    if space == LAS:
        for name in {"space directions", "space origin"} & header.keys():
            header[name] = np.asarray(header[name], dtype=float) * TO_LPS


def _unpacked(file: IO[bytes], encoding: str) -> IO[bytes]:
    if encoding in ("gzip", "gz"):
        return gzip.GzipFile(fileobj=file)  # type: ignore[return-value]
    if encoding in ("bzip2", "bz2"):
        return bz2.BZ2File(file)
    if encoding != "raw":
        raise RefusedError("has an encoding other than raw, gzip and bzip2")
    return file
