"""Finished results on disk: so many, for so long."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections import OrderedDict
from pathlib import Path

__all__ = ["Results"]

NAME = re.compile(r"[a-z]+(_[0-9]+)?\.(json|pdf|dcm)")


class Results:
    """Folders of results by identifier; the oldest go when there are too many or they are too old.

    Args:
        root: Folder that they lie in. It is made, and emptied.
        most: Most results.
        seconds: How long one is kept.
    """

    def __init__(self, root: Path, most: int = 100, seconds: float = 3600.0) -> None:
        """Begin without results; see the class."""
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        self.root, self.most, self.seconds = root, most, seconds
        self._born: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def folder(self, identifier: str) -> Path:
        """Return where a result lies, or is to be written."""
        return self.root / identifier

    def add(self, identifier: str) -> None:
        """Count a result that was written, and remove those that are over the limits."""
        with self._lock:
            self._born[identifier] = time.monotonic()
        self.tidy()

    def tidy(self) -> None:
        """Remove what is too old or too much."""
        oldest = time.monotonic() - self.seconds
        with self._lock:
            gone = [name for name, born in self._born.items() if born < oldest]
            gone += [n for n in list(self._born)[: max(0, len(self._born) - self.most)] if n not in gone]
            for name in gone:
                del self._born[name]
        for name in gone:
            shutil.rmtree(self.folder(name), ignore_errors=True)

    def remove(self, identifier: str) -> bool:
        """Remove a result; tell whether it was there."""
        with self._lock:
            known = self._born.pop(identifier, None) is not None
        if known:
            shutil.rmtree(self.folder(identifier), ignore_errors=True)
        return known

    def names(self, identifier: str) -> list[str]:
        """Return the names of a result's files; none if there is no such result."""
        self.tidy()
        with self._lock:
            known = identifier in self._born
        return sorted(path.name for path in self.folder(identifier).iterdir()) if known else []

    def file(self, identifier: str, name: str) -> Path | None:
        """Return a file of a result, or None."""
        known = NAME.fullmatch(name) and name in self.names(identifier)
        return self.folder(identifier) / name if known else None
