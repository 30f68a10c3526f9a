"""Boxes and masks between a volume as it came in and the scene that turned its axes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Orientation
from nibabel import aff2axcodes

from medeyes_monai.experts import Candidate
from medeyes_monai.geometry import Box, carry_box
from medeyes_monai.scenes import Scene
from medeyes_monai.scenes.placing import AXIS_LABELS

__all__ = ["Places"]


@dataclass(frozen=True)
class Places:
    """Two grids of the same voxels; of a picture they are one.

    Args:
        sent: Affine of the image as it came in.
        held: Affine of the scene's image.
    """

    sent: Any
    held: Any

    @classmethod
    def of(cls, image: MetaTensor, scene: Scene) -> Places:
        """Return the grids of an image and of the scene that was made of it."""
        held = getattr(scene, "image", image)
        return cls(*(np.asarray(voxels.affine, dtype=np.float64) for voxels in (image, held)))

    @property
    def same(self) -> bool:
        """Whether both are one grid."""
        return bool(np.allclose(self.sent, self.held))

    def inward(self, box: Box) -> Box:
        """Carry a box that came in to the scene."""
        return box if self.same else carry_box(box, self.sent, self.held)

    def outward(self, candidate: Candidate) -> Candidate:
        """Carry a candidate of the scene to the image as it came in."""
        if self.same:
            return candidate
        mask = candidate.mask
        if mask is not None:
            turn = Orientation("".join(aff2axcodes(self.sent)), labels=AXIS_LABELS)
            mask = np.asarray(turn(MetaTensor(mask[None], affine=self.held))[0], dtype=bool)
        return replace(candidate, box=carry_box(candidate.box, self.held, self.sent), mask=mask)
