"""A bounded queue in front of one model: late requests are refused at once instead of waiting for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["FullError", "Jobs", "Place", "StoppingError"]

T = TypeVar("T")


class FullError(Exception):
    """All places are taken; come again later."""


class StoppingError(Exception):
    """Nothing new is taken."""


class Jobs:
    """Runs jobs one after the other in a thread of its own.

    Args:
        places: Most requests that are received, waiting, or worked on at a time.

    Example:
        >>> jobs = Jobs(places=1)
        >>> with jobs.place() as place:
        ...     place.run(lambda: 6 * 7).result(), jobs.free
        (42, 0)
        >>> jobs.stop()
    """

    def __init__(self, places: int) -> None:
        """Start with all places free; see the class."""
        if places < 1:
            raise ValueError(f"a queue needs at least one place, got {places}")
        self.places = places
        self._taken = 0
        self._stopping = False
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    @property
    def free(self) -> int:
        """Number of free places; none while stopping."""
        with self._lock:
            return 0 if self._stopping else self.places - self._taken

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Hold a place while inside, and after that until the job that was started in it has ended.

        Raises:
            FullError: If all are taken.
            StoppingError: If the queue stops.
        """
        with self._lock:
            if self._stopping:
                raise StoppingError
            if self._taken >= self.places:
                raise FullError
            self._taken += 1
        held = Place(self._thread)
        try:
            yield held
        finally:
            held.leave(self._give_back)

    def stop(self) -> None:
        """Take nothing new, drop what waits, and wait for the job that runs."""
        with self._lock:
            self._stopping = True
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _give_back(self) -> None:
        with self._lock:
            self._taken -= 1


class Place:
    """A place in the queue, and the job that was started in it.

    Args:
        thread: Runs the job.
    """

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        """Begin without a job."""
        self._thread = thread
        self._job: Future[Any] | None = None

    def run(self, work: Callable[[], T]) -> Future[T]:
        """Put work behind what waits; one job for each place."""
        job = self._thread.submit(work)
        self._job = job
        return job

    def leave(self, give_back: Callable[[], None]) -> None:
        """Cancel a job that has not begun; give the place back when none runs any more."""
        if self._job is None or self._job.cancel() or self._job.done():
            give_back()
        else:
            self._job.add_done_callback(lambda _: give_back())
