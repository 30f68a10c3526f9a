"""Says what a network found in a phantom in the words that PhantomVQA reads."""

from __future__ import annotations

import math

from medeyes_monai.data.phantom_image import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION
from medeyes_monai.experts.components import Region
from medeyes_monai.scenes import Scene

__all__ = ["HEART", "PhantomWords"]

HEART = "heart"
"""Label of the heart, whose size the overview shows."""

LARGE_RADIUS = math.sqrt(IN_DISTRIBUTION.small[1] * OUT_OF_DISTRIBUTION.large[0])
"""Radius from which a finding is called large: between the largest small one and the smallest large one of
both distributions, 12.2 pixels."""
ENLARGED_WIDTH = 0.25
"""Share of the picture from which a heart is called enlarged: between 0.17 and 0.34."""


class PhantomWords:
    """Describes a region as the phantom's own findings are: ``"left large solid"``, ``"normal heart"``.

    Example:
        >>> import numpy as np
        >>> from types import SimpleNamespace
        >>> from medeyes_monai.geometry import Box
        >>> spot = Region(Box((300, 90), (330, 120)), np.ones((30, 30), bool), "solid", 0.9, 0.9, 0.9)
        >>> PhantomWords()(SimpleNamespace(shape=(512, 512)), spot)
        'left large solid'
    """

    def __call__(self, scene: Scene, region: Region) -> str:
        """Return side, size and kind of a spot, or the size of a heart."""
        if region.label == HEART:
            wide = region.box.extent[0] > ENLARGED_WIDTH * scene.shape[0]
            return f"{'enlarged' if wide else 'normal'} {HEART}"
        side = "left" if region.box.centre[0] > scene.shape[0] / 2 else "right"
        radius = math.sqrt(region.mask.sum() / math.pi)
        return f"{side} {'large' if radius > LARGE_RADIUS else 'small'} {region.label}"
