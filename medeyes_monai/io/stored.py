"""Volumes that stay on disk and are read a few slices at a time: studies larger than memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import check_affine
from medeyes_monai.geometry.affine import Affine
from medeyes_monai.io.boundary import naming
from medeyes_monai.io.limits import GZIP_MAGIC, RefusedError, nifti_header_of
from medeyes_monai.io.nifti import values_at
from medeyes_monai.io.series import dicom_files, open_series
from medeyes_monai.io.values import Values

__all__ = ["StoredVolume", "open_volume"]

UP = 2
"""The world's axis from feet to head, along which slabs are read."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredVolume:
    """What :func:`~medeyes_monai.io.read_volume` would return, slab by slab.

    Args:
        shape: ``(X, Y, Z)``, axes of the RAS+ world.
        affine: 4x4, from voxel indices to RAS+ millimetres.
        stored: Reads slices of the axes as stored, ``(X, Y, n)``, from one to before another.
        turn: Flips and permutations from the stored axes, as nibabel writes them.
    """

    shape: tuple[int, int, int]
    affine: Affine
    stored: Callable[[int, int], Values]
    turn: npt.NDArray[np.float64]

    def read(self, start: int, stop: int) -> MetaTensor:
        """Return slices from ``start`` to before ``stop``, ``(1, X, Y, n)``, with their own affine.

        Raises:
            GeometryError: If there are no such slices.
            UnreadableImageError: If a file is damaged.
        """
        depth = self.shape[UP]
        if not 0 <= start < stop <= depth:
            raise GeometryError(f"slices lie between 0 and {depth}, asked for {start} to {stop}")
        first, last = (start, stop) if self.turn[UP, 1] > 0 else (depth - stop, depth - start)
        array = nibabel.orientations.apply_orientation(self.stored(first, last), self.turn)
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, UP] * start
        return MetaTensor(torch.from_numpy(np.ascontiguousarray(array))[None], affine=torch.as_tensor(affine))


def open_volume(path: str | os.PathLike[str], *, series: int | None = None) -> StoredVolume:
    """Open a folder of axial DICOM slices or a NIfTI file that is not compressed, and read no voxels yet.

    The number of voxels has no limit here; whoever reads a slab decides how thick it is.

    Args:
        path: The folder or file.
        series: Which series of a folder that holds several.

    Raises:
        UnreadableImageError: As :func:`~medeyes_monai.io.read_volume`, and if slices are not axial or the
            file is compressed.

    Example:
        >>> file = getfixture("tmp_path") / "a.nii"
        >>> voxels = np.arange(5, dtype=np.int16) * np.ones((4, 3, 1), np.int16)
        >>> nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2, -3, 1])), file)
        >>> open_volume(file).read(0, 2)[0, 0, 0].tolist()
        [4, 3]
    """
    where = Path(path)
    with naming(where, "a volume"):
        reader = _of_series(where, series) if where.is_dir() else _of_nifti(where)
        shape, affine, stored = reader
        check_affine(affine)
        turn = nibabel.io_orientation(affine)
        if int(turn[UP, 0]) != UP:
            raise RefusedError("has slices that are not axial; it is read as a whole, by read_volume")
        ras = affine @ nibabel.orientations.inv_ornt_aff(turn, shape)
        x, y, z = (int(shape[int(np.flatnonzero(turn[:, 0] == axis)[0])]) for axis in range(3))
        return StoredVolume((x, y, z), ras, stored, turn)


def _of_series(folder: Path, series: int | None) -> tuple[Any, Affine, Callable[[int, int], Any]]:
    opened = open_series(dicom_files(folder), series)
    return opened.shape, opened.affine, opened.read


def _of_nifti(file: Path) -> tuple[Any, Affine, Callable[[int, int], Any]]:
    if not file.is_file():
        raise RefusedError("no such file or folder")
    with file.open("rb") as stream:
        start = stream.read(540)
    if start.startswith(GZIP_MAGIC):
        raise RefusedError("is compressed, so that no part of it can be read; unpack it first")
    if not nifti_header_of(start):
        raise RefusedError(
            "is neither a folder of DICOM slices nor NIfTI, which alone are read in parts; read it as a "
            "whole, by read_volume"
        )
    image: Any = nibabel.load(file, mmap=True)
    if image.get_data_dtype().kind not in "iuf" or len(image.shape) != 3:
        raise RefusedError("does not hold one volume of plain numbers")
    if not (image.header["sform_code"] or image.header["qform_code"]):
        raise RefusedError("does not say how its axes lie in the patient")

    def read(start: int, stop: int) -> Values:
        with naming(file, "NIfTI"):
            return values_at(image.dataobj, np.s_[:, :, start:stop])

    return image.shape, np.asarray(image.affine, dtype=np.float64), read
