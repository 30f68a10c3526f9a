"""Images that can be looked at."""

from medeyes_monai.scenes.base import Case, Finding, Scene, Scoring, View

__all__ = ["Case", "Finding", "Scene", "Scoring", "View"]
