"""The one function through which volumes come in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor, PILReader
from monai.data.utils import to_affine_nd
from monai.transforms import Orientation

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import check_affine, spacing_of
from medeyes_monai.geometry.affine import Affine
from medeyes_monai.io.boundary import Reading, naming
from medeyes_monai.io.images import loaded, reader_of
from medeyes_monai.io.limits import DEFAULT_MAX_VOXELS, RefusedError
from medeyes_monai.io.series import Decoder, dicom_files, is_dicom, read_series
from medeyes_monai.io.tilt import is_tilted, straighten
from medeyes_monai.io.values import narrowed

__all__ = ["Tilt", "as_stored", "read_volume"]

Tilt = Literal["refuse", "resample"]
"""What is done with slices that are shifted against each other: see :func:`read_volume`."""

RAS_LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
"""World axis, and its sign, of each letter."""


def read_volume(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    series: int | None = None,
    frame: int | None = None,
    tilt: Tilt = "refuse",
    axes: str | None = None,
    decoder: Decoder = "pydicom",
    max_voxels: int = DEFAULT_MAX_VOXELS,
) -> MetaTensor:
    """Read a folder or list of DICOM slices, a multi-frame DICOM, NIfTI or NRRD file as one volume.

    The axes are turned to RAS+ (nearest, by exact flips and permutations; oblique volumes stay oblique), and
    :func:`as_stored` turns them back. DICOM slices are sorted by their position along the normal; the
    distance between them is that of the positions, whatever they declare. Sizes are checked before decoding.

    Args:
        path: A folder, a file, or a list of DICOM files. Folders inside the folder are not searched.
        series: Which series of a DICOM folder, where it holds several; the message that says so counts them.
        frame: Which volume of a NIfTI file with four axes.
        tilt: Slices of a tilted gantry are shifted against each other. ``"refuse"`` says so;
            ``"resample"`` moves each slice in its plane, linearly, onto a grid with right angles.
        axes: How the stored axes lie in the patient, such as ``"LPS"``; used only where the file does not
            say (NIfTI whose form codes are 0, NRRD without a space).
        decoder: ``"itk"`` unpacks DICOM pixels that pydicom lacks a plugin for.
        max_voxels: Most voxels.

    Returns:
        ``(1, X, Y, Z)``. ``uint8`` where a NIfTI or NRRD file holds 8-bit values that are not scaled,
        ``int16`` where what is stored and its scaling are whole numbers and all values fit, else ``float32``.
        DICOM is rescaled (Hounsfield for CT) and MONOCHROME1 inverted unless it is CT or PET, whose values
        mean the same however they are shown. ``affine`` is 4x4, from voxel indices to RAS+ millimetres;
        ``meta["original_affine"]`` and ``meta["spatial_shape"]`` are those of the stored axes.

    Raises:
        UnreadableImageError: If the path is missing, damaged, too large, of another format, in colour or over
            time; if slices are missing, double or uneven, several series are there and none is chosen; if
            voxels are not finite; if the affine is not finite, singular or sheared. The message says which.
        ConfigError: If an argument is none of its choices.

    Example:
        >>> file = getfixture("tmp_path") / "a.nii.gz"
        >>> stored = nibabel.Nifti1Image(np.zeros((9, 8, 7), np.int16), np.diag([-2.0, 2, 3, 1]))
        >>> nibabel.save(stored, file)
        >>> volume = read_volume(file)
        >>> tuple(volume.shape), volume.dtype, volume.affine.diagonal().tolist()
        ((1, 9, 8, 7), torch.int16, [2.0, 2.0, 3.0, 1.0])
    """
    if tilt not in get_args(Tilt) or (axes is not None and not _name_axes(axes)):
        raise ConfigError(
            f"tilt is 'refuse' or 'resample' and axes three letters as 'LPS', got {tilt!r}, {axes!r}"
        )
    if decoder not in get_args(Decoder):
        raise ConfigError(f"unknown decoder {decoder!r}; choose one of {', '.join(get_args(Decoder))}")
    where = Path(path) if isinstance(path, (str, os.PathLike)) else None
    files = [Path(one) for one in path] if where is None else []  # type: ignore[union-attr]
    with naming(where or (files[0].parent if files else Path("the list")), "a volume") as reading:
        found = _dicom(where, files)
        if found:
            array, affine = read_series(found, max_voxels=max_voxels, series=series, decoder=decoder)
            voxels = torch.from_numpy(array)
        else:
            voxels, affine = _from_file(where, frame, axes, max_voxels, reading)  # type: ignore[arg-type]
        check_affine(affine, shear=False)
        if tilt == "resample" and is_tilted(affine):
            array, affine = straighten(voxels.numpy(), affine, max_voxels)
            voxels = torch.from_numpy(array)
        _check_right_angles(affine)
        return _turned(voxels[None], affine, str(where or files[0].parent))


def as_stored(volume: MetaTensor) -> MetaTensor:
    """Turn a volume that :func:`read_volume` read, or a mask on its grid, back to the axes of the file.

    Args:
        volume: ``(C, X, Y, Z)`` with the ``meta`` of the volume that was read.

    Returns:
        The same voxels, with the affine that the file has.

    Raises:
        ConfigError: If its ``meta`` does not say what the file's axes were.
    """
    if "original_affine" not in volume.meta:
        raise ConfigError(
            "the volume does not say how it was stored; give it the meta of read_volume's result"
        )
    codes = nibabel.aff2axcodes(np.asarray(volume.meta["original_affine"]))
    stored: MetaTensor = Orientation("".join(codes), labels=RAS_LABELS)(volume)
    return stored


def _dicom(where: Path | None, files: Sequence[Path]) -> list[Path]:
    """Return the DICOM files that are meant; none if it is a file of another format."""
    if where is None:
        if not files:
            raise RefusedError("an empty list of files holds no volume")
        for file in files:
            if not file.is_file() or not is_dicom(file):
                raise RefusedError(f"the list holds {file.name}, which is missing, not DICOM, or damaged")
        return sorted(set(files))
    if where.is_dir():
        return dicom_files(where)
    if not where.is_file():
        raise RefusedError("no such file or folder")
    return [where] if is_dicom(where) else []


def _from_file(
    file: Path, frame: int | None, axes: str | None, max_voxels: int, reading: Reading
) -> tuple[torch.Tensor, Affine]:
    """Return the voxels ``(X, Y, Z)`` and the affine of a NIfTI or NRRD file."""
    reader = reader_of(file, max_voxels, reading)
    if isinstance(reader, PILReader):
        raise RefusedError("is a picture; read_image reads it")
    image = loaded(file, reader)
    voxels = narrowed(_one_volume(image.as_tensor(), frame).numpy())
    affine = to_affine_nd(3, np.asarray(image.affine, dtype=np.float64))
    if not reader.placed:
        affine = _named(affine, axes)
    return torch.from_numpy(voxels), affine


def _one_volume(voxels: torch.Tensor, frame: int | None) -> torch.Tensor:
    """Return ``(X, Y, Z)`` of ``(C, X, Y[, Z])``: one slice becomes a volume one slice thick."""
    if voxels.ndim not in (3, 4):
        raise RefusedError(f"has {voxels.ndim - 1} axes; a volume has 3")
    count = voxels.shape[0]
    if (frame is None and count > 1) or (frame is not None and not 0 <= frame < count):
        raise RefusedError(
            f"holds {count} volumes (points in time, or colours); choose one with frame=0 to {count - 1}, or "
            "save it as a file of its own"
        )
    one = voxels[frame or 0]
    return one[..., None] if one.ndim == 2 else one


def _name_axes(axes: str) -> bool:
    return len(axes) == 3 and {DIRECTIONS.get(letter, (-1, 0))[0] for letter in axes} == {0, 1, 2}


def _named(affine: Affine, axes: str | None) -> Affine:
    """Return the affine of a file whose axes only the caller knows; the first voxel is the origin."""
    if axes is None:
        raise RefusedError(
            "does not say how its axes lie in the patient; if you know, pass axes, such as axes='LPS', or "
            "save the file with its affine"
        )
    named = np.eye(4)
    named[:3, :3] = 0
    for column, (letter, spacing) in enumerate(zip(axes, spacing_of(affine), strict=True)):
        row, sign = DIRECTIONS[letter]
        named[row, column] = sign * spacing
    return named


def _check_right_angles(affine: Affine) -> None:
    if is_tilted(affine):
        raise RefusedError(
            "has slices that are shifted against each other (a tilted gantry, or a sheared affine); pass "
            "tilt='resample' to move them onto a grid with right angles"
        )
    check_affine(affine)


def _turned(voxels: torch.Tensor, affine: Affine, name: str) -> MetaTensor:
    meta: dict[str, Any] = {"filename_or_obj": name, "spatial_shape": tuple(voxels.shape[1:])}
    meta["original_affine"] = affine.copy()
    stored = MetaTensor(voxels, affine=torch.as_tensor(affine), meta=meta)
    ras: MetaTensor = Orientation("RAS", labels=RAS_LABELS)(stored)
    return ras
