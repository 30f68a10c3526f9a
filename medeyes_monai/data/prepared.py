"""Data sets that ``scripts/prepare_data.py`` has written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medeyes_monai.data.datalist import ItemVQA, OnUnreadable, SceneFactory
from medeyes_monai.data.items import DatalistItem, check_unique, item_from
from medeyes_monai.data.splits import split_by_group
from medeyes_monai.data.texts import json_records
from medeyes_monai.errors import ConfigError
from medeyes_monai.io import DEFAULT_MAX_VOXELS
from medeyes_monai.scenes import ImageScene

__all__ = ["PreparedVQA", "split_items"]

logger = logging.getLogger(__name__)


class PreparedVQA(ItemVQA):
    """A split of a data set in a folder that ``scripts/prepare_data.py`` has written.

    Args:
        root: The folder.
        split: The name of a split, as its file has it without ``.jsonl``; or ``val``: the validation split
            where there is one, and else a part of ``train``, which then lacks it.
        val_fraction: Share of train that is ``val`` where the data set has no validation split. No image (of
            PMC-VQA: no article) is on both sides.
        seed: Another seed gives another ``val``.
        drop_test_images: Whether questions about images that also occur in a test split are left out of the
            others.
        require_answers: Whether questions without an answer are left out, as training needs; inference and
            the test split of MMMU set it to false.
        scene: Makes a scene of an image.
        on_unreadable: Whether an unreadable image ends the run or is skipped.
        max_voxels: Largest image that is read.
        keep_scenes: Number of scenes that are kept in memory.

    Raises:
        ConfigError: If the folder or the file of the split is missing, or a row is wrong.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        val_fraction: float = 0.1,
        seed: int = 0,
        drop_test_images: bool = False,
        require_answers: bool = True,
        scene: SceneFactory = ImageScene,
        on_unreadable: OnUnreadable = "raise",
        max_voxels: int = DEFAULT_MAX_VOXELS,
        keep_scenes: int = 16,
    ) -> None:
        """Read the rows and split them; see the class."""
        items = split_items(
            Path(root), split, val_fraction=val_fraction, seed=seed, drop_test_images=drop_test_images
        )
        if require_answers:
            items = _answered(items, split)
        super().__init__(
            items,
            root,
            scene=scene,
            on_unreadable=on_unreadable,
            require_answers=require_answers,
            max_voxels=max_voxels,
            keep_scenes=keep_scenes,
        )


def split_items(
    root: Path,
    split: str,
    *,
    val_fraction: float,
    seed: int,
    drop_test_images: bool,
    as_item: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> tuple[DatalistItem, ...]:
    """Return the items of a split; see :class:`PreparedVQA`.

    Args:
        root: The folder.
        split: The split.
        val_fraction: Share of train that is ``val`` where there is no validation split.
        seed: Another seed gives another ``val``.
        drop_test_images: Whether items whose image is in a test split are left out of the others.
        as_item: Makes a row a datalist's.

    Raises:
        ConfigError: If the file is missing or a row is wrong.
    """
    is_cut = split in ("train", "val") and not (root / "validation.jsonl").is_file()
    name = "train" if is_cut else "validation" if split == "val" else split
    file = root / f"{name}.jsonl"
    if not file.is_file():
        raise ConfigError(f"{file} does not exist; give the folder that scripts/prepare_data.py has written")
    drop = drop_test_images and not name.startswith("test")
    items = []
    for number, record in enumerate(json_records(file)):
        try:
            row = as_item(record.fields)
            others = row.get("metadata", {}).get("in_other_splits", ())
            if not (drop and any(other.startswith("test") for other in others)):
                items.append(item_from(row, number))
        except ConfigError as error:
            raise ConfigError(f"{file.name}: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{record.place}: is not in the expected form: {error!r}") from error
    check_unique(items, file.name)
    if not is_cut:
        return tuple(items)
    train, val = split_by_group(items, (1 - val_fraction, val_fraction), seed)
    return train if split == "train" else val


def _answered(items: tuple[DatalistItem, ...], split: str) -> tuple[DatalistItem, ...]:
    answered = tuple(item for item in items if item.answer is not None)
    if len(answered) < len(items):
        logger.warning(
            "%s: %d of %d questions have no answer and are left out",
            split,
            len(items) - len(answered),
            len(items),
        )
    return answered
