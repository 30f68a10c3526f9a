"""Images that can be looked at."""

from medeyes_monai.scenes.base import Case, Finding, Scene, Scoring, View
from medeyes_monai.scenes.blanked import BlankedScene
from medeyes_monai.scenes.image import ImageScene
from medeyes_monai.scenes.sheet import Panel, Sheet
from medeyes_monai.scenes.volume import VolumeScene

__all__ = [
    "BlankedScene",
    "Case",
    "Finding",
    "ImageScene",
    "Panel",
    "Scene",
    "Scoring",
    "Sheet",
    "View",
    "VolumeScene",
]
