"""Bounded reading of images, and writing that survives a crash."""

from medeyes_monai.io.atomic import sha256_of, write_atomic
from medeyes_monai.io.images import read_image
from medeyes_monai.io.limits import DEFAULT_MAX_VOXELS
from medeyes_monai.io.stored import StoredVolume, open_volume
from medeyes_monai.io.volumes import as_stored, read_volume

__all__ = [
    "DEFAULT_MAX_VOXELS",
    "StoredVolume",
    "as_stored",
    "open_volume",
    "read_image",
    "read_volume",
    "sha256_of",
    "write_atomic",
]
