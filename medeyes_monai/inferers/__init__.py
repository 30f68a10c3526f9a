"""Progressive focus as MONAI inferers: from images and questions to episodes, answers and places."""

from medeyes_monai.inferers.episodes import EpisodeInferer
from medeyes_monai.inferers.focus import FocusInferer

__all__ = ["EpisodeInferer", "FocusInferer"]
