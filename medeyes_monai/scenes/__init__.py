"""Images that can be looked at."""

from medeyes_monai.scenes.base import Case, Finding, Scene, Scoring, View
from medeyes_monai.scenes.blanked import BlankedScene
from medeyes_monai.scenes.image import ImageScene

__all__ = ["BlankedScene", "Case", "Finding", "ImageScene", "Scene", "Scoring", "View"]
