"""Reading what may be a picture or a volume."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from monai.data import MetaTensor

from medeyes_monai.io.boundary import naming
from medeyes_monai.io.images import read_image, reader_of
from medeyes_monai.io.limits import DEFAULT_MAX_VOXELS
from medeyes_monai.io.volumes import read_volume

__all__ = ["read_any"]


def read_any(
    path: str | os.PathLike[str], *, max_voxels: int = DEFAULT_MAX_VOXELS, **options: Any
) -> MetaTensor:
    """Read a volume as :func:`~medeyes_monai.io.read_volume` does, and a picture as ``read_image`` does.

    The header tells which it is, before anything is decoded: a folder and a file of several slices are a
    volume, one slice and everything else a picture.

    Args:
        path: A file, or a folder of DICOM slices.
        max_voxels: Most voxels.
        options: Further arguments of ``read_volume``, such as ``series``; a picture has no use for them.

    Returns:
        ``(1, X, Y, Z)``, axes turned to RAS+; or ``(C, X, Y)``.

    Raises:
        UnreadableImageError: As ``read_image`` and ``read_volume``.
        ConfigError: If an argument is none of its choices.

    Example:
        >>> from PIL import Image
        >>> folder = getfixture("tmp_path")
        >>> Image.new("L", (40, 30)).save(folder / "a.png")
        >>> tuple(read_any(folder / "a.png").shape)
        (1, 40, 30)
    """
    where = Path(path)
    with naming(where) as reading:
        is_volume = where.is_dir() or reader_of(where, max_voxels, reading).holds_slices(where)
    if is_volume:
        return read_volume(where, max_voxels=max_voxels, **options)
    return read_image(where, max_voxels=max_voxels)
