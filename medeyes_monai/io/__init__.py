"""Bounded reading of images, and writing that survives a crash."""

from medeyes_monai.io.atomic import sha256_of, write_atomic
from medeyes_monai.io.grids import match_grid
from medeyes_monai.io.images import read_image
from medeyes_monai.io.kinds import read_any
from medeyes_monai.io.limits import DEFAULT_MAX_VOXELS
from medeyes_monai.io.stored import StoredVolume, open_volume
from medeyes_monai.io.volumes import as_stored, read_volume

__all__ = [
    "DEFAULT_MAX_VOXELS",
    "StoredVolume",
    "as_stored",
    "match_grid",
    "open_volume",
    "read_any",
    "read_image",
    "read_volume",
    "sha256_of",
    "write_atomic",
]
