"""Boxes in the voxel grid of one image, in two and three dimensions by the same code, and affines."""

from medeyes_monai.geometry.affine import carry_box, check_affine, from_world, spacing_of, to_world, within
from medeyes_monai.geometry.box import Box

__all__ = ["Box", "carry_box", "check_affine", "from_world", "spacing_of", "to_world", "within"]
