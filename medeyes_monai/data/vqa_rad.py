"""VQA-RAD: 314 radiology images with questions by clinicians (Lau et al., Scientific Data 2018)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from medeyes_monai.data.datalist import ItemVQA, OnUnreadable, SceneFactory
from medeyes_monai.data.items import DatalistItem, item_from, split_by_group
from medeyes_monai.errors import ConfigError
from medeyes_monai.io import DEFAULT_MAX_VOXELS
from medeyes_monai.scenes import ImageScene

__all__ = ["VqaRad"]


class VqaRad(ItemVQA):
    """VQA-RAD from a folder with ``train.jsonl`` (and ``test.jsonl``, if it is at hand) beside its images.

    **The trap.** The official split is by question, not by image: 202 of the 203 test images also occur in
    train, so a model can be right about a test image that it has learned by heart. Numbers on the official
    test split compare with published ones, which share the flaw; they do not tell how a new image fares.
    Here, ``val`` is cut from the official train split with every image on one side, and ``drop_test_images``
    leaves the images of the test split out of ``train`` and ``val``, for a test on images never seen.

    A question's family is its ``answer_type``, ``closed`` or ``open``. Closed questions are more than yes
    and no ("left or right"): 1,025 of 1,793 are closed, 940 have the answer yes or no. Scoring is ``closed``
    where the answer is yes or no, else ``exact``.

    Args:
        root: The folder.
        split: Which questions.
        val_fraction: Share of the official train split that is ``val``.
        seed: Another seed gives another ``val``.
        drop_test_images: Whether questions about images of the test split are left out of train and val.
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
        split: Literal["train", "val", "test"] = "train",
        *,
        val_fraction: float = 0.15,
        seed: int = 0,
        drop_test_images: bool = False,
        scene: SceneFactory = ImageScene,
        on_unreadable: OnUnreadable = "raise",
        max_voxels: int = DEFAULT_MAX_VOXELS,
        keep_scenes: int = 16,
    ) -> None:
        """Read the rows and split them; see the class."""
        if split not in ("train", "val", "test"):
            raise ConfigError(f"split is 'train', 'val' or 'test', got {split!r}")
        official = "test" if split == "test" else "train"
        items = _items(Path(root) / f"{official}.jsonl", drop_test_images and split != "test")
        if split != "test":
            train, val = split_by_group(items, (1 - val_fraction, val_fraction), seed)
            items = train if split == "train" else val
        super().__init__(
            items,
            root,
            scene=scene,
            on_unreadable=on_unreadable,
            max_voxels=max_voxels,
            keep_scenes=keep_scenes,
        )


def _items(file: Path, drop_test_images: bool) -> tuple[DatalistItem, ...]:
    if not file.is_file():
        raise ConfigError(
            f"VQA-RAD: {file} does not exist; set root to the folder with {file.name} and images/"
        )
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
        return tuple(
            item_from(_as_item(row), number)
            for number, row in enumerate(rows)
            if not (drop_test_images and row["image_in_other_split"])
        )
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"VQA-RAD: {file.name} is not in the expected form: {error!r}") from error


def _as_item(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "image": row["image"],
        "question": row["question"],
        "answer": row["answer"],
        "family": row["answer_type"].lower(),
    }
