"""What a small expert is trained on: images and a class for each of their pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medeyes_monai.data.phantom import PhantomVQA
from medeyes_monai.data.phantom_image import BENIGN, KINDS
from medeyes_monai.data.phantom_words import HEART
from medeyes_monai.geometry import Box
from medeyes_monai.io import read_image
from medeyes_monai.scenes import Finding, ImageScene

BACKGROUND = "background"
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Task:
    """A data set to learn, and how a bundle for it is set up.

    Args:
        labels: Names of the classes; the first is the background.
        channels: Channels of an image.
        scale: Images are read at this share of their resolution.
        patch: Side of a training patch, at that scale.
        scenes: Gives the scenes of a split, some or all; their findings are what is to be found.
        expert: Arguments of ``SegmentationExpert`` that belong to the data.
    """

    labels: tuple[str, ...]
    channels: int
    scale: float
    patch: int
    scenes: Callable[[str, int | None], Iterator[ImageScene]]
    expert: dict[str, Any]


def label_map(scene: ImageScene, labels: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    """Return the class of each pixel, ``(X, Y)``: an ellipse in each finding's box, small ones on top."""
    classes = np.zeros(scene.shape, np.uint8)
    for finding in sorted(scene.findings, key=lambda f: -f.box.size):
        classes[finding.box.slices][_ellipse(finding.box)] = labels.index(finding.label.split()[-1])
    return classes


def _ellipse(box: Box) -> npt.NDArray[np.bool_]:
    axes = [(np.arange(n) + 0.5 - n / 2) / (n / 2) for n in box.extent]
    inside = axes[0][:, None] ** 2 + axes[1][None, :] ** 2 <= 1
    return np.asarray(inside)


def phantom_scenes(split: str, number: int | None = None) -> Iterator[ImageScene]:
    """Draw phantoms of a split of PhantomVQA."""
    cases = PhantomVQA(split, size=number or 600)  # type: ignore[arg-type]
    for index in range(len(cases)):
        scene = cases[index].scene
        if not isinstance(scene, ImageScene):
            raise TypeError(f"PhantomVQA draws ImageScene by default, got {type(scene).__name__}")
        yield scene


def bccd_scenes(folder: Path) -> Callable[[str, int | None], Iterator[ImageScene]]:
    """Return a reader of the blood smears of BCCD: ``train.jsonl``, ``val.jsonl`` and ``images``."""

    def scenes(split: str, number: int | None = None) -> Iterator[ImageScene]:
        lines = (folder / f"{split}.jsonl").read_text("utf-8").splitlines()
        for row in map(json.loads, lines[:number]):
            findings = [Finding(Box.from_corners(b["box"]), b["label"]) for b in row["boxes"]]
            image = read_image(folder / row["image"])
            yield ImageScene(image, key=row["id"], findings=findings, min_extent=1)

    return scenes


def task_of(name: str, folder: Path | None = None) -> Task:
    """Return a task by its name.

    Args:
        name: ``phantom`` or ``bccd``.
        folder: Where the files of BCCD are.
    """
    if name == "phantom":
        words = {"_target_": "medeyes_monai.data.phantom_words.PhantomWords"}
        expert = {"together": True, "plain": [HEART], "describe": words, "min_voxels": 60}
        labels = (BACKGROUND, HEART, *KINDS, BENIGN)
        return Task(labels, 1, scale=1.0, patch=96, scenes=phantom_scenes, expert=expert)
    if folder is None:
        raise SystemExit("--data bccd needs --folder, where its train.jsonl and images are")
    expert = {"min_voxels": 150, "min_extent": 1}
    return Task((BACKGROUND, "WBC", "RBC", "Platelets"), 3, 0.5, 128, bccd_scenes(folder), expert)
