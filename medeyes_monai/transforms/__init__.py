"""MONAI transforms of a look: array classes, and dictionary classes ending in ``d``."""

from medeyes_monai.transforms.array import (
    CT_WINDOWS,
    FitPixelBudget,
    RegionCrop,
    ToPicture,
    WindowIntensity,
    fit_grid,
)
from medeyes_monai.transforms.dictionary import FitPixelBudgetd, RegionCropd, ToPictured, WindowIntensityd

__all__ = [
    "CT_WINDOWS",
    "FitPixelBudget",
    "FitPixelBudgetd",
    "RegionCrop",
    "RegionCropd",
    "ToPicture",
    "ToPictured",
    "WindowIntensity",
    "WindowIntensityd",
    "fit_grid",
]
