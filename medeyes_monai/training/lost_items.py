"""Questions at which the expert failed: reported, left out, counted, and too many of them stop the run."""

from __future__ import annotations

import logging
from collections import deque

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.sampler import DrawnPath, PathSource
from medeyes_monai.scenes import Case

__all__ = ["LostItems"]

MAX_LOST_SHARE = 0.2
WINDOW = 100
LEAST = 20

logger = logging.getLogger(__name__)


class LostItems:
    """Asks for expert paths, and goes on without them where the expert is down, slow, or answers nonsense.

    What is counted is the latest questions of this process; a run that is resumed begins to count anew.

    Args:
        max_share: Largest share of lost questions among the latest ones; 1 never stops a run.
        window: How many of the latest questions are counted.
        least: Fewer questions than this stop nothing.

    Raises:
        ConfigError: If an argument is out of its range.

    Example:
        >>> from types import SimpleNamespace
        >>> def down(case, step):
        ...     raise ExpertError("segmenter: no reply in 5 s")
        >>> case = Case("q", SimpleNamespace(key="a", shape=(9, 9)), "where?")
        >>> lost = LostItems()
        >>> lost.ask(SimpleNamespace(name="segmenter", draw=down), case, step=0), lost.share
        ((), 1.0)
    """

    def __init__(
        self, max_share: float = MAX_LOST_SHARE, *, window: int = WINDOW, least: int = LEAST
    ) -> None:
        """Begin to count."""
        if not 0 <= max_share <= 1 or not 1 <= least <= window:
            raise ConfigError(
                "max_share lies in [0, 1] and least in [1, window], "
                f"got {max_share}, and {least} of {window} questions"
            )
        self.max_share, self.least = max_share, least
        self.keys: list[str] = []
        """The questions that were lost, in order; one that is asked again may stand there again."""
        self._lost: deque[bool] = deque(maxlen=window)

    @property
    def share(self) -> float:
        """Share of lost questions among the latest ones; 0 before the first."""
        return sum(self._lost) / len(self._lost) if self._lost else 0.0

    def ask(self, source: PathSource, case: Case, step: int) -> tuple[DrawnPath, ...]:
        """Return the paths of a question, none if the expert failed.

        Raises:
            ExpertError: If too many of the latest questions were lost.
        """
        try:
            drawn = tuple(source.draw(case, step))
        except ExpertError as error:
            self._lose(_name_of(source), case.key, error)
            return ()
        self._lost.append(False)
        return drawn

    def _lose(self, expert: str, key: str, error: ExpertError) -> None:
        self._lost.append(True)
        self.keys.append(key)
        logger.warning("%s: left out of the expert stream, %s failed: %s", key, expert, error)
        if len(self._lost) >= self.least and self.share > self.max_share:
            raise ExpertError(
                f"{expert}: failed at {sum(self._lost)} of the latest {len(self._lost)} questions, above the "
                f"limit of {self.max_share:.0%}; mend it and go on, or raise max_lost_share. The last "
                f"failure: {error}"
            ) from error


def _name_of(source: PathSource) -> str:
    """Return the expert's name; one that cannot be reached may not tell it, but its error does."""
    try:
        return source.name
    except ExpertError:
        return "expert"
