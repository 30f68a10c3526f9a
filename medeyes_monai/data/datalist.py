"""The user's own data: questions about images in a MONAI-style datalist."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import BoundingRect
from torch.utils.data import Dataset

from medeyes_monai.data.items import DatalistItem, read_datalist
from medeyes_monai.errors import ConfigError, GeometryError, UnreadableImageError
from medeyes_monai.geometry import Box
from medeyes_monai.io import DEFAULT_MAX_VOXELS, as_stored, match_grid, read_any
from medeyes_monai.scenes import Case, Finding, ImageScene, Scene

__all__ = ["DatalistVQA", "ItemVQA", "OnUnreadable", "SceneFactory"]

OnUnreadable = Literal["raise", "skip"]
logger = logging.getLogger(__name__)


class SceneFactory(Protocol):
    """Makes a scene of an image that was read: ``ImageScene``, or a partial of it with other settings."""

    def __call__(self, image: MetaTensor, *, key: str, findings: Sequence[Finding]) -> Scene:
        """Return the scene of ``image``, channel-first ``(C, X, Y[, Z])``."""


class ItemVQA(Dataset[Case]):
    """Questions about images that are read when they are asked for.

    Files and folders are read as by :func:`~medeyes_monai.io.read_any`, and volumes keep the axes that they
    are stored with (of a DICOM series: columns, rows, and slices along the normal), which boxes mean. A mask
    may have them in another order; see :func:`~medeyes_monai.io.match_grid`.

    Questions about the same image with the same findings share one scene while it is among the last
    ``keep_scenes``. Under ``on_unreadable="skip"`` the data set keeps its length: an item whose image cannot
    be read is replaced, always by the same one, the next readable item (after the last comes the first); it
    is logged once and counted in :attr:`skipped` (in each worker process for itself).

    Args:
        items: The questions.
        base_dir: Folder that image and mask paths start from.
        scene: Makes a scene of an image; ``ImageScene`` with its defaults if not given.
        on_unreadable: Whether an unreadable image ends the run or is skipped.
        require_answers: Whether every item must have an answer, as training needs.
        max_voxels: Largest image that is read.
        keep_scenes: Number of scenes that are kept in memory.

    Raises:
        ConfigError: If the folder is missing, there are no items, or an answer is missing.
    """

    def __init__(
        self,
        items: Sequence[DatalistItem],
        base_dir: str | Path,
        *,
        scene: SceneFactory = ImageScene,
        on_unreadable: OnUnreadable = "raise",
        require_answers: bool = True,
        max_voxels: int = DEFAULT_MAX_VOXELS,
        keep_scenes: int = 16,
    ) -> None:
        """Check what can be checked without reading an image; see the class."""
        self.items = tuple(items)
        self.base_dir = Path(base_dir)
        if on_unreadable not in ("raise", "skip"):
            raise ConfigError(f"on_unreadable is 'raise' or 'skip', got {on_unreadable!r}")
        if not self.base_dir.is_dir():
            raise ConfigError(
                f"data directory {self.base_dir} does not exist; set base_dir to the images' folder"
            )
        if not self.items:
            raise ConfigError("there are no questions; give a datalist with at least one item")
        unanswered = [item.number for item in self.items if item.answer is None]
        if require_answers and unanswered:
            raise ConfigError(
                f"item {unanswered[0]} has no answer ({len(unanswered)} in all); training needs one for each "
                "question, inference sets require_answers to false"
            )
        self._make_scene = scene
        self._on_unreadable = on_unreadable
        self._max_voxels = max_voxels
        self._keep_scenes = max(1, keep_scenes)
        self._scenes: OrderedDict[str, Scene] = OrderedDict()
        self._unreadable: set[int] = set()

    @property
    def skipped(self) -> int:
        """Number of items found unreadable so far, in this process."""
        return len(self._unreadable)

    def __len__(self) -> int:
        """Number of questions, unreadable ones included."""
        return len(self.items)

    def __getitem__(self, index: int) -> Case:
        """Return a question with its scene.

        Raises:
            UnreadableImageError: If the image cannot be read, or, under ``skip``, none can.
            ConfigError: If a box or mask does not fit the image, or the image does not fit the scene.
            IndexError: If there is no such item.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        for place in range(index % len(self), index % len(self) + len(self)):
            number = place % len(self)
            if number in self._unreadable:
                continue
            item = self.items[number]
            try:
                return self._case(item)
            except UnreadableImageError as error:
                if self._on_unreadable == "raise":
                    raise UnreadableImageError(f"item {item.number} ({item.key}): {error}") from error
                self._unreadable.add(number)
                logger.warning("item %d skipped: %s", item.number, error)
        raise UnreadableImageError(f"none of the {len(self)} items has a readable image")

    def _case(self, item: DatalistItem) -> Case:
        return Case(
            key=item.key,
            scene=self._scene(item),
            question=item.question,
            answer=item.answer,
            options=item.options,
            family=item.family,
            scoring=item.scoring,
            tolerance=item.tolerance,
        )

    def _scene(self, item: DatalistItem) -> Scene:
        key = scene_key(item)
        if key not in self._scenes:
            self._scenes[key] = self._read_scene(item, key)
            if len(self._scenes) > self._keep_scenes:
                self._scenes.popitem(last=False)
        self._scenes.move_to_end(key)
        return self._scenes[key]

    def _read_scene(self, item: DatalistItem, key: str) -> Scene:
        image = self._read(item.image)
        try:
            return self._make_scene(image, key=key, findings=self._findings(item, image))
        except GeometryError as error:
            raise ConfigError(f"item {item.number} ({Path(item.image).name}): {error}") from error

    def _read(self, path: str) -> MetaTensor:
        image = read_any(self.base_dir / path, max_voxels=self._max_voxels)
        return as_stored(image) if image.ndim == 4 else image

    def _findings(self, item: DatalistItem, image: MetaTensor) -> tuple[Finding, ...]:
        boxes, extent = item.boxes, tuple(image.shape[1:])
        if item.mask is not None:
            boxes = boxes_of_mask(match_grid(self._read(item.mask), image))
        labels = item.labels or ("finding",) * len(boxes)
        if len(labels) != len(boxes):
            raise GeometryError(f"has {len(labels)} labels for {len(boxes)} regions")
        for box in boxes:
            if not box.is_inside(extent):
                raise GeometryError(f"box {box.corners} is not inside the image of {extent} voxels")
        return tuple(Finding(box=box, label=label) for box, label in zip(boxes, labels, strict=True))


class DatalistVQA(ItemVQA):
    """Questions of a datalist file; see :func:`read_datalist` for its keys and :class:`ItemVQA` for the rest.

    Args:
        path: JSON (with sections) or JSONL.
        base_dir: Folder that paths start from; the datalist's own folder if None.
        section: Section of a JSON file.
        scene: Makes a scene of an image.
        on_unreadable: Whether an unreadable image ends the run or is skipped.
        require_answers: Whether every item must have an answer, as training needs.
        max_voxels: Largest image that is read.
        keep_scenes: Number of scenes that are kept in memory.

    Raises:
        ConfigError: If the datalist or the folder is missing or wrong, or an answer is missing.

    Example:
        >>> import json
        >>> from PIL import Image
        >>> folder = getfixture("tmp_path")
        >>> Image.new("L", (90, 90)).save(folder / "a.png")
        >>> item = {"image": "a.png", "question": "Is it dark?", "answer": "yes", "boxes": [[0, 0, 9, 9]]}
        >>> _ = (folder / "list.json").write_text(json.dumps({"training": [item]}))
        >>> case = DatalistVQA(folder / "list.json")[0]
        >>> case.answer, case.scoring, case.scene.findings[0].box.corners
        ('yes', 'closed', (0, 0, 9, 9))
    """

    def __init__(
        self,
        path: str | Path,
        base_dir: str | Path | None = None,
        section: str = "training",
        *,
        scene: SceneFactory = ImageScene,
        on_unreadable: OnUnreadable = "raise",
        require_answers: bool = True,
        max_voxels: int = DEFAULT_MAX_VOXELS,
        keep_scenes: int = 16,
    ) -> None:
        """Read the datalist; see the class."""
        super().__init__(
            read_datalist(path, section),
            Path(path).parent if base_dir is None else base_dir,
            scene=scene,
            on_unreadable=on_unreadable,
            require_answers=require_answers,
            max_voxels=max_voxels,
            keep_scenes=keep_scenes,
        )


def scene_key(item: DatalistItem) -> str:
    """Name the scene of an item: its image, and a digest of its findings if it has any.

    Questions that mark different regions of one image get different scenes, so that what is remembered of one
    is not taken for the other.
    """
    if not item.boxes and item.mask is None:
        return item.image
    what = repr((tuple(box.corners for box in item.boxes), item.labels, item.mask))
    return f"{item.image}#{hashlib.blake2b(what.encode(), digest_size=4).hexdigest()}"


def boxes_of_mask(mask: MetaTensor) -> tuple[Box, ...]:
    """Return the bounding box of each label of a mask ``(1, X, Y[, Z])``, by ascending label; 0 is none."""
    labels = mask.as_tensor()
    rect, boxes = BoundingRect(), []
    for value in torch.unique(labels).tolist():
        if value != 0:
            ends = np.asarray(rect(labels == value))[0].reshape(-1, 2)
            boxes.append(Box(tuple(int(v) for v in ends[:, 0]), tuple(int(v) for v in ends[:, 1])))
    return tuple(boxes)
