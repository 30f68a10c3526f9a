"""A memo of expert calls for each image: what costs most is asked once."""

from __future__ import annotations

import warnings
from collections import Counter, OrderedDict
from os import PathLike
from pathlib import Path

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import checked
from medeyes_monai.experts.base import Candidate, Expert, Verdict
from medeyes_monai.experts.memo_file import ImageMemo, MemoError, decode, encode
from medeyes_monai.geometry import Box
from medeyes_monai.io import write_atomic
from medeyes_monai.scenes import Scene
from medeyes_monai.seeding import seed_of

__all__ = ["MemoExpert"]


class MemoExpert:
    """Asks another expert each question once, and remembers the reply in memory and on disk.

    Six paths over one image cost one scan for each distinct query and one drill for each distinct region
    and query (method, section 3), and the next epoch or run costs nothing. A reply is known by the
    expert's name, the scene's key and shape, the query, and the box; an expert whose settings change its
    replies has to change its name with them. Confidences are that expert's own, calibrated or not.

    A memo file that is damaged, or belongs to something else, is not trusted: the expert is asked again,
    and a warning says so. Two processes may share a directory: a file is always whole, the last writer
    wins, and what the other one knew is asked again.

    Args:
        expert: Who is asked.
        directory: Where memo files lie, one for each image; made if absent. None keeps the memo in memory.
            One directory serves one data set, because keys are unique only within it.
        max_images: Number of images that are kept in memory; the least recently used are dropped first.

    Attributes:
        calls: How often the expert itself was asked, under ``"scan"`` and ``"drill"``.

    Raises:
        ConfigError: If ``max_images`` is not positive.

    Example:
        >>> from types import SimpleNamespace
        >>> from medeyes_monai.experts.random import RandomBoxExpert
        >>> scene = SimpleNamespace(key="a", shape=(200, 200))
        >>> expert = MemoExpert(RandomBoxExpert(2))
        >>> expert.scan(scene, "where?") is expert.scan(scene, "where?")
        True
        >>> expert.calls["scan"]
        1
    """

    def __init__(
        self, expert: Expert, directory: str | PathLike[str] | None = None, *, max_images: int = 4096
    ) -> None:
        """Make the directory; see the class."""
        if max_images < 1:
            raise ConfigError(f"max_images must be at least 1, got {max_images}")
        self.expert, self.max_images = expert, max_images
        self.directory = None if directory is None else Path(directory)
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
        self.calls: Counter[str] = Counter()
        self._images: OrderedDict[str, ImageMemo] = OrderedDict()

    @property
    def name(self) -> str:
        """The name of the expert that is asked."""
        return self.expert.name

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Return the expert's scan, asking it only if this query is new for this image.

        Raises:
            ExpertError: If the expert breaks its contract.
        """
        image = self._image(scene)
        if query not in image.scans:
            self.calls["scan"] += 1
            image.scans[query] = checked.scan(self.expert, scene, query)
            self._save(scene, image)
        return image.scans[query]

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Return the expert's verdict, asking it only if this region is new for this query and image.

        Raises:
            ExpertError: If the expert breaks its contract.
        """
        image = self._image(scene)
        if (query, box) not in image.drills:
            self.calls["drill"] += 1
            image.drills[query, box] = checked.drill(self.expert, scene, box, query)
            self._save(scene, image)
        return image.drills[query, box]

    def _key(self, scene: Scene) -> str:
        return f"{seed_of(self.name, scene.key, *scene.shape):016x}"

    def _path(self, scene: Scene) -> Path | None:
        return None if self.directory is None else self.directory / f"{self._key(scene)}.json"

    def _image(self, scene: Scene) -> ImageMemo:
        key = self._key(scene)
        if key not in self._images:
            self._images[key] = self._load(scene)
            if len(self._images) > self.max_images:
                self._images.popitem(last=False)
        self._images.move_to_end(key)
        return self._images[key]

    def _load(self, scene: Scene) -> ImageMemo:
        path = self._path(scene)
        if path is None or not path.exists():
            return ImageMemo()
        try:
            return decode(path.read_bytes(), scene, self.name)
        except (MemoError, OSError) as problem:
            warnings.warn(f"memo {path.name} is not used, the expert is asked again: {problem}", stacklevel=4)
            return ImageMemo()

    def _save(self, scene: Scene, image: ImageMemo) -> None:
        if (path := self._path(scene)) is not None:
            write_atomic(path, encode(image, scene, self.name))
