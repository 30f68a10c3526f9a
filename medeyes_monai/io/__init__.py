"""Bounded reading of images, and writing that survives a crash."""

from medeyes_monai.io.atomic import sha256_of, write_atomic
from medeyes_monai.io.images import read_image
from medeyes_monai.io.limits import DEFAULT_MAX_VOXELS

__all__ = ["DEFAULT_MAX_VOXELS", "read_image", "sha256_of", "write_atomic"]
