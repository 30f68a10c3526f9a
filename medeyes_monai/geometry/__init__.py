"""Boxes in the voxel grid of one image, in two and three dimensions by the same code."""

from medeyes_monai.geometry.box import Box

__all__ = ["Box"]
