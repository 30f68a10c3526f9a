"""Questions by templates about a CT whose organs are labelled: presence, side, level, size, density."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data import MetaTensor
from scipy import ndimage

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.io import as_stored, match_grid, read_volume
from medeyes_monai.seeding import numpy_generator

__all__ = ["TOTALSEGMENTATOR", "Organ", "organ_questions", "organs_of"]

TOTALSEGMENTATOR: Mapping[int, str] = MappingProxyType(
    {
        1: "spleen",
        2: "right kidney",
        3: "left kidney",
        4: "gallbladder",
        5: "liver",
        6: "stomach",
        7: "pancreas",
        8: "right adrenal gland",
        9: "left adrenal gland",
        15: "oesophagus",
        16: "trachea",
        18: "small bowel",
        19: "duodenum",
        20: "colon",
        21: "urinary bladder",
        51: "heart",
        52: "aorta",
    }
)
"""Organs among the labels of TotalSegmentator's task ``total``, version 2."""
LEVELS = ("lower", "middle", "upper")
LEAST_ML = 1.0
"""Smaller organs are not asked about: a few voxels may be an error of the label map."""
LEAST_SHARE = 0.9
"""Share of an organ that must lie on one side for its side to be asked for."""
LEVEL_MARGIN = 0.05
"""Centres nearer than this to the border of two levels are not asked about. Unit: height of the volume."""
CLEARLY_LARGER = 1.3
"""Ratio of volumes from which one organ is called larger."""
TOLERANCE = 0.1
"""Share of a volume by which an answer may be off."""
TOLERANCE_HU = 10.0

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Organ:
    """What a label map says of one organ.

    Args:
        name: Its name.
        box: What encloses it. Unit: voxels, axes as stored.
        volume_ml: What it holds.
        right_share: Share of its voxels on the patient's right; None where there is no pair of organs between
            which the middle lies.
        height: Height of its centre in the volume, 0 at the feet and 1 at the head.
        is_cut: Whether it reaches the border of the volume, so that its size is not known.
        hu: Its mean density.
    """

    name: str
    box: Box
    volume_ml: float
    right_share: float | None
    height: float
    is_cut: bool
    hu: float


def organs_of(image: MetaTensor, labels: MetaTensor, names: Mapping[int, str]) -> dict[str, Organ]:
    """Measure the organs of a label map. Sides and heights follow from the affine, not from the array.

    The middle of the body lies between the centres of organs that are called left and right.

    Args:
        image: ``(1, X, Y, Z)``, HU.
        labels: The label map of the same voxels, whatever the order of its axes.
        names: Names by label.

    Raises:
        GeometryError: If the image is no volume, or the labels are not of its voxels.
    """
    if image.ndim != 4 or image.shape[0] != 1:
        raise GeometryError(f"wanted an image (1, X, Y, Z), got {tuple(image.shape)}")
    numbers = np.rint(np.asarray(match_grid(labels, image))[0]).astype(np.int64)
    affine = np.asarray(image.affine, dtype=np.float64)
    found = dict(enumerate(ndimage.find_objects(numbers), 1))
    places = {
        name: np.argwhere(numbers[found[value]] == value) + [s.start for s in found[value]]
        for value, name in names.items()
        if found.get(value) is not None
    }
    middle = _middle({name: _world(index.mean(0), affine)[0] for name, index in places.items()})
    voxels = np.asarray(image)[0]
    return {name: _organ(name, index, voxels, affine, middle) for name, index in places.items()}


def organ_questions(
    image: str | Path,
    labels: str | Path,
    names: Mapping[int, str] = TOTALSEGMENTATOR,
    *,
    base_dir: str | Path = ".",
    seed: int = 0,
) -> list[Item]:
    """Return questions about a labelled CT as items of a datalist, each with the boxes that it is about.

    Asked are ``presence`` (an organ that is there and one that is not), ``side``, ``level``, ``volume``,
    ``density`` and ``larger``, each only where the labels answer it clearly. Every item says ``templated`` in
    its metadata: answers are as good as the label map.

    Args:
        image: Path of the CT, from ``base_dir``.
        labels: Path of its label map, from ``base_dir``.
        names: Names by label; all that can be asked for, present or not.
        base_dir: Folder that paths start from.
        seed: Another seed draws other organs for ``presence`` and ``larger``.

    Raises:
        UnreadableImageError: If a file cannot be read.
        GeometryError: If they do not fit each other.
    """
    folder = Path(base_dir)
    volume, mask = (as_stored(read_volume(folder / path)) for path in (image, labels))
    organs = organs_of(volume, mask, names)
    whole = {name: organ for name, organ in organs.items() if organ.volume_ml >= LEAST_ML}
    rng = numpy_generator("organs", seed, str(image))
    items = [*_presence(organs, whole, names, rng), *_larger(whole, rng)]
    for organ in whole.values():
        items += [*_side(organ), *_level(organ), *_sizes(organ)]
    return [{"id": f"{Path(image).name}-{n}", "image": str(image), **item} for n, item in enumerate(items)]


def _organ(
    name: str,
    index: npt.NDArray[np.int64],
    voxels: npt.NDArray[Any],
    affine: npt.NDArray[np.float64],
    middle: float | None,
) -> Organ:
    low, high = index.min(0), index.max(0) + 1
    world = index @ affine[:3, :3].T + affine[:3, 3]
    ends = [_world(_corner(which, voxels), affine)[2] for which in np.ndindex(2, 2, 2)]
    return Organ(
        name=name,
        box=Box(tuple(map(int, low)), tuple(map(int, high))),
        volume_ml=len(index) * abs(float(np.linalg.det(affine[:3, :3]))) / 1000,
        right_share=None if middle is None else float((world[:, 0] > middle).mean()),
        height=float((world[:, 2].mean() - min(ends)) / (max(ends) - min(ends))),
        is_cut=bool((low == 0).any() or (high == voxels.shape).any()),
        hu=float(voxels[tuple(index.T)].mean()),
    )


def _corner(which: tuple[int, ...], voxels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return an outer corner of the grid, in voxel indices."""
    return np.where(np.array(which, dtype=bool), np.array(voxels.shape) - 0.5, -0.5)


def _world(index: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return where a voxel lies in the RAS+ world."""
    place: npt.NDArray[np.float64] = affine[:3, :3] @ index + affine[:3, 3]
    return place


def _middle(right_of: Mapping[str, float]) -> float | None:
    """Return the place of the body's middle along the axis to the patient's right, or None if unknown."""
    pairs = [
        (place + right_of[name.replace("left ", "right ", 1)]) / 2
        for name, place in right_of.items()
        if name.startswith("left ") and name.replace("left ", "right ", 1) in right_of
    ]
    return float(np.mean(pairs)) if pairs else None


def _presence(
    organs: Mapping[str, Organ],
    whole: Mapping[str, Organ],
    names: Mapping[int, str],
    rng: np.random.Generator,
) -> list[Item]:
    absent = sorted(set(names.values()) - set(organs))
    asked = [(str(rng.choice(sorted(pool))), said) for pool, said in ((whole, "yes"), (absent, "no")) if pool]
    return [
        _item("presence", f"Does the volume show the {name}?", said, [whole[name]] if said == "yes" else [])
        for name, said in asked
    ]


def _larger(whole: Mapping[str, Organ], rng: np.random.Generator) -> list[Item]:
    complete = [organ for organ in whole.values() if not organ.is_cut]
    if len(complete) < 2:
        return []
    first, second = (complete[i] for i in rng.choice(len(complete), 2, replace=False))
    small, large = sorted((first, second), key=lambda organ: organ.volume_ml)
    if large.volume_ml < CLEARLY_LARGER * small.volume_ml:
        return []
    question = f"Which is larger, the {first.name} or the {second.name}?"
    return [_item("larger", question, large.name, [first, second], options=[first.name, second.name])]


def _side(organ: Organ) -> list[Item]:
    is_named = organ.name.startswith(("left ", "right "))
    share = organ.right_share
    if is_named or share is None or 1 - LEAST_SHARE < share < LEAST_SHARE:
        return []
    question = f"On which side of the patient is the {organ.name}?"
    return [_item("side", question, "right" if share > 0.5 else "left", [organ], options=["left", "right"])]


def _level(organ: Organ) -> list[Item]:
    if min(abs(organ.height - 1 / 3), abs(organ.height - 2 / 3)) < LEVEL_MARGIN:
        return []
    question = f"In which third of the volume, from feet to head, is the centre of the {organ.name}?"
    return [_item("level", question, LEVELS[int(3 * organ.height)], [organ], options=list(LEVELS))]


def _sizes(organ: Organ) -> list[Item]:
    density = _item(
        "density", f"What is the mean density of the {organ.name}?", f"{organ.hu:.0f} HU", [organ]
    )
    items = [{**density, "scoring": "numeric", "tolerance": TOLERANCE_HU}]
    if not organ.is_cut:
        volume = _item(
            "volume", f"What is the volume of the {organ.name}?", f"{organ.volume_ml:.1f} ml", [organ]
        )
        items.append({**volume, "scoring": "numeric", "tolerance": TOLERANCE * organ.volume_ml})
    return items


def _item(
    family: str, question: str, answer: str, about: list[Organ], options: list[str] | None = None
) -> Item:
    return {
        "question": question,
        "answer": answer,
        "family": family,
        **({"options": options} if options else {}),
        "boxes": [list(organ.box.corners) for organ in about],
        "labels": [organ.name for organ in about],
        "metadata": {"templated": True},
    }
