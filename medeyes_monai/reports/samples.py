"""Some of the latest episodes of a training, to be looked at while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from ignite.engine import Engine, Events
from PIL import Image

from medeyes_monai.errors import ConfigError
from medeyes_monai.reports.gaze import gaze_path_figure
from medeyes_monai.reports.page import write_report
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode, Picture

__all__ = ["EpisodeSamples", "PictureWriter"]


class PictureWriter(Protocol):
    """Takes pictures, as TensorBoard's ``SummaryWriter`` does."""

    def add_image(self, tag: str, picture: Picture, step: int, dataformats: str = ...) -> None:
        """Log a picture ``(rows, columns, 3)`` of an update."""


class EpisodeSamples:
    """Writes a page of a few episodes every so many updates, and a picture of each to the trackers.

    The page is ``<path>/step-000010/index.html``: what was written at each turn, what each look showed, the
    defect and the reward. It shows the first episode of the policy at each of the first questions of the
    update, and the first path of the expert. Nothing is drawn at random, so training does not depend on it.

    Args:
        path: Folder of the pages; made when first written to.
        interval: Updates from one page to the next.
        number: Number of the policy's episodes.
        writers: Where pictures are logged besides, under ``samples/<number>``.

    Raises:
        ConfigError: If the interval or the number is below 1.
    """

    def __init__(
        self, path: str | Path, interval: int = 10, number: int = 3, writers: Sequence[PictureWriter] = ()
    ) -> None:
        """Check the numbers."""
        if min(interval, number) < 1:
            raise ConfigError(
                f"samples need an interval and a number of at least 1, got {interval} and {number}"
            )
        self.path, self.interval, self.number = Path(path), interval, number
        self.writers = tuple(writers)

    def attach(self, engine: Engine) -> None:
        """Follow a trainer whose state holds the questions (``batch``) and ``episodes`` of its update."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self._write)

    def _write(self, engine: Engine) -> None:
        step = engine.state.iteration
        folder = self.path / f"step-{step:06d}"
        shown = self._shown(engine.state.episodes, engine.state.batch)
        title = f"Episodes of update {step}"
        write_report(folder, title=title, tables={}, episodes=shown)
        for number, (episode, case) in enumerate(shown, start=1):
            file = folder / f"{number}.png"
            gaze_path_figure(episode, case, file)
            picture = np.asarray(Image.open(file).convert("RGB"))
            for writer in self.writers:
                writer.add_image(f"samples/{number}", picture, step, dataformats="HWC")

    def _shown(self, episodes: Sequence[Episode], cases: Sequence[Case]) -> list[tuple[Episode, Case]]:
        by_key = {case.key: case for case in cases}
        first: dict[str, Episode] = {}
        for episode in episodes:
            if episode.stream == "policy":
                first.setdefault(episode.case, episode)
        own = [first[key] for key in by_key][: self.number]
        experts = [episode for episode in episodes if episode.stream == "expert"][:1]
        return [(episode, by_key[episode.case]) for episode in own + experts]
