"""A memo of expert calls for each image: what costs most is asked once."""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter, OrderedDict
from os import PathLike
from pathlib import Path

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import checked
from medeyes_monai.experts.base import Candidate, Expert, Verdict
from medeyes_monai.experts.memo_file import Asked, MemoError, Reply, decode, encode
from medeyes_monai.geometry import Box
from medeyes_monai.io import write_atomic
from medeyes_monai.scenes import Scene

__all__ = ["MemoExpert"]

LARGEST_BYTES = 2**28  # of one reply; chosen: outlines of a whole CT have a few MB
_OF_FORMAT_1 = re.compile(r"[0-9a-f]{16}\.json")


class MemoExpert:
    """Asks another expert each question once, and remembers the reply in memory and on disk.

    Six paths over one image cost one scan for each distinct query and one drill for each distinct region
    and query (method, section 3), and the next epoch or run costs nothing. A reply is known by what the image
    shows, the expert's name and version, the query, and the box; an expert whose settings change its replies
    has to change its name with them. Confidences are that expert's own, calibrated or not.

    **What the image shows** is ``scene.content_digest``: a picture is known again under another key, and one
    that was changed is not. A scene without such a digest is known by its key and shape. Where an expert's
    replies depend on the scene's key, as those of experts that draw their errors by it, it says so by an
    attribute ``reads_key = True``, and the key counts too.

    **On disk** each reply is a file of its own that appears complete or not at all, so any number of
    processes may share a directory, at once or one after another, and lose nothing. A file that is damaged,
    or was written by another version, is not trusted: the expert is asked again, and a warning says so.
    What is known is told without asking the expert anything, so one that is far away may be switched off.

    Args:
        expert: Who is asked.
        directory: Where replies lie; made if absent. None keeps the memo in memory.
        version: Version of the expert, where its name does not tell it, such as the date of its weights.
            Replies of other versions are not taken.
        max_images: Number of images that are kept in memory; the least recently used are dropped first.

    Attributes:
        calls: How often the expert itself was asked, under ``"scan"`` and ``"drill"``.
        hits: How often it was not, because the reply was known.
        seconds: Time that the expert took.

    Raises:
        ConfigError: If ``max_images`` is not positive.

    Example:
        >>> from types import SimpleNamespace
        >>> from medeyes_monai.experts.random import RandomBoxExpert
        >>> scene = SimpleNamespace(key="a", shape=(200, 200))
        >>> expert = MemoExpert(RandomBoxExpert(2))
        >>> expert.scan(scene, "where?") is expert.scan(scene, "where?")
        True
        >>> expert.calls["scan"], expert.hits["scan"]
        (1, 1)
    """

    def __init__(
        self,
        expert: Expert,
        directory: str | PathLike[str] | None = None,
        *,
        version: str = "",
        max_images: int = 4096,
    ) -> None:
        """Make the directory; see the class."""
        if max_images < 1:
            raise ConfigError(f"max_images must be at least 1, got {max_images}")
        self.expert, self.version, self.max_images = expert, str(version), max_images
        self.directory = None if directory is None else Path(directory)
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
            _warn_of_format_1(self.directory)
        self.calls: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.seconds = 0.0
        self._images: OrderedDict[str, dict[Asked, Reply]] = OrderedDict()

    @property
    def name(self) -> str:
        """The name of the expert that is asked."""
        return self.expert.name

    @property
    def reads_key(self) -> bool:
        """Whether replies of the expert that is asked depend on the scene's key."""
        return bool(getattr(self.expert, "reads_key", False))

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Return the expert's scan, asking it only if this query is new for this image.

        Raises:
            ExpertError: If the expert breaks its contract.
        """
        asked = self._asked(scene, query, None)
        reply = self._known(asked, scene)
        if not isinstance(reply, tuple):
            started = self._begin("scan")
            reply = checked.scan(self.expert, scene, query)
            self._keep(asked, reply, started)
        return reply

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Return the expert's verdict, asking it only if this region is new for this query and image.

        Raises:
            ExpertError: If the expert breaks its contract.
        """
        asked = self._asked(scene, query, box)
        reply = self._known(asked, scene)
        if not isinstance(reply, Verdict):
            started = self._begin("drill")
            reply = checked.drill(self.expert, scene, box, query)
            self._keep(asked, reply, started)
        return reply

    def _asked(self, scene: Scene, query: str, box: Box | None) -> Asked:
        shown = getattr(scene, "content_digest", None)
        image = f"{scene.key} of {scene.shape}" if shown is None else str(shown)
        if self.reads_key and shown is not None:
            image = f"{image} as {scene.key}"
        return Asked(image, self.name, self.version, query, box)

    def _begin(self, kind: str) -> float:
        self.calls[kind] += 1
        return time.perf_counter()

    def _known(self, asked: Asked, scene: Scene) -> Reply | None:
        """Return a reply from memory or disk, None if there is none."""
        replies = self._replies(asked.image)
        if asked not in replies and (reply := self._load(asked, scene)) is not None:
            replies[asked] = reply
        if asked in replies:
            self.hits["scan" if asked.box is None else "drill"] += 1
        return replies.get(asked)

    def _keep(self, asked: Asked, reply: Reply, started: float) -> None:
        self.seconds += time.perf_counter() - started
        self._replies(asked.image)[asked] = reply
        if (path := self._path(asked)) is not None:
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, encode(asked, reply), durable=False)

    def _replies(self, image: str) -> dict[Asked, Reply]:
        replies = self._images.setdefault(image, {})
        self._images.move_to_end(image)
        if len(self._images) > self.max_images:
            self._images.popitem(last=False)
        return replies

    def _path(self, asked: Asked) -> Path | None:
        if self.directory is None:
            return None
        return self.directory / asked.key[:2] / f"{asked.key}.json"

    def _load(self, asked: Asked, scene: Scene) -> Reply | None:
        path = self._path(asked)
        if path is None or not path.exists():
            return None
        try:
            if path.stat().st_size > LARGEST_BYTES:
                raise MemoError(f"it is larger than {LARGEST_BYTES:,} bytes")
            return decode(path.read_bytes(), asked, scene)
        except (MemoError, OSError) as problem:
            warnings.warn(f"memo {path.name} is not used, the expert is asked again: {problem}", stacklevel=4)
            return None


def _warn_of_format_1(directory: Path) -> None:
    if any(_OF_FORMAT_1.fullmatch(path.name) for path in directory.glob("*.json")):
        warnings.warn(
            f"the memo in {directory.name} also holds replies of an earlier version, which are not used; the "
            "expert is asked again. Its files *.json may be deleted, its folders not",
            stacklevel=3,
        )
