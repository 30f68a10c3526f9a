"""Detection data as grounded questions: BCCD's blood cells, or any set in VOC's or COCO's form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medeyes_monai.data.blobs import Blob, PictureStore
from medeyes_monai.data.boxed import Rows, coco_rows, corners_of, lines_rows, voc_rows
from medeyes_monai.data.releases import About, Count, Question
from medeyes_monai.data.templates import Marked, Noun, templated
from medeyes_monai.data.texts import Record
from medeyes_monai.errors import ConfigError, GeometryError, UnreadableImageError
from medeyes_monai.geometry import Box

__all__ = ["BccdRelease", "DetectionRelease"]

SPLITS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
TEMPLATED = (
    "The questions are templates filled from boxes, not asked by anyone: an object that was not marked is "
    "not counted, and numbers say how well marked objects are found, not how well a clinician is helped. "
    "Every item says `templated` in its metadata."
)
ABOUT = About(
    title="Detection data",
    licence="not known; see the data set's own",
    homepage="",
    citation="",
    traps=(TEMPLATED,),
)
BCCD = About(
    title="BCCD (Blood Cell Count and Detection)",
    licence="MIT (LICENSE of the repository)",
    homepage="https://github.com/Shenggan/BCCD_Dataset",
    citation=(
        "@misc{bccd, title={{BCCD} Dataset}, author={Shenggan and cosmicad and akshaylamba},\n"
        "  howpublished={github.com/Shenggan/BCCD_Dataset}}"
    ),
    traps=(TEMPLATED, "Boxes that enclose nothing are left out."),
    counts=(
        Count("train", "images", (205,)),
        Count("validation", "images", (87,)),
        Count("test", "images", (72,)),
    ),
)
CELLS = {
    "RBC": Noun("red blood cell", "red blood cells"),
    "WBC": Noun("white blood cell", "white blood cells"),
    "Platelets": Noun("platelet", "platelets"),
}


class DetectionRelease:
    """Marked images in one of three layouts; see ``data.boxed``.

    - VOC: ``Annotations``, ``JPEGImages`` and ``ImageSets/Main``.
    - COCO: ``annotations/instances_<split>….json`` or ``<split>/_annotations.coco.json``, with pictures in
      ``images``, in a folder called after the split, or beside the JSON.
    - JSON lines: ``<split>.jsonl``, pictures by their names.

    Args:
        source: The folder.
        nouns: For each class its noun in the singular and plural, ``{"RBC": ["red cell", "red cells"]}``.
            Without it, classes are called by their labels.
        seed: Another seed asks about other classes.

    Raises:
        ConfigError: If the folder has none of these layouts.
    """

    about = ABOUT

    def __init__(
        self, source: str | Path, *, nouns: Mapping[str, Sequence[str]] | None = None, seed: int = 0
    ) -> None:
        """See which layout it is, and read all annotations; see the class."""
        folder = Path(source)
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder; give the folder of the data set")
        layout, self._rows, places = _read(folder)
        self.form = f"{layout}, seed={seed}"
        self._store, self._seed = PictureStore(places), seed
        self._nouns = _nouns(nouns) if nouns is not None else self._labels()

    def splits(self) -> tuple[str, ...]:
        """Return the splits that this copy holds."""
        return tuple(self._rows)

    def records(self, split: str) -> list[Record]:
        """Return the images of a split."""
        return self._rows[split]

    def questions(self, record: Record) -> Sequence[Question]:
        """Return the questions about an image."""
        boxes, labels = [], []
        for label, corners in corners_of(record):
            if label not in self._nouns:
                raise ConfigError(f"the class {label!r} has no noun; known are {', '.join(self._nouns)}")
            if len(corners) != 4 or not all(map(math.isfinite, corners)):
                raise ConfigError(f"the box of {label!r} needs 4 finite numbers, got {corners}")
            try:
                boxes.append(Box.from_corners(corners))
                labels.append(label)
            except GeometryError:
                continue  # encloses nothing; BCCD has two such boxes
        picture = record.text("image")
        name = Path(picture).with_suffix("").as_posix().removeprefix("images/")
        image = Marked(name, tuple(boxes), tuple(labels), record.fields["size"])
        blob = self._blob(picture, record.text("folder"))
        items = templated(image, self._nouns, self._seed)
        return [Question(item, (blob,), f"images/{name}") for item in items]

    def _blob(self, picture: str, split: str) -> Blob:
        """Return a picture, first from the folder of its split: names may occur in several."""
        for folder in (split, f"images/{split}", f"{split}2017"):
            try:
                return self._store.blob(f"{folder}/{picture}")
            except UnreadableImageError:
                continue  # the next place
        return self._store.blob(picture)

    def _labels(self) -> dict[str, Noun]:
        found = {
            label
            for rows in self._rows.values()
            for record in rows
            if not record.flaw
            for label in (*(label for label, _ in corners_of(record)), *record.fields.get("classes", ()))
        }
        return {label: Noun(label, f"{label}s") for label in sorted(found)}


class BccdRelease(DetectionRelease):
    """BCCD in its own layout, VOC's, or as JSON lines.

    Args:
        source: The folder ``BCCD``.
        seed: Another seed asks about other classes.

    Raises:
        ConfigError: If the folder has another layout.
    """

    about = BCCD

    def __init__(self, source: str | Path, *, seed: int = 0) -> None:
        """See which layout it is, and read all annotations; see the class."""
        super().__init__(
            source, nouns={label: (noun.one, noun.many) for label, noun in CELLS.items()}, seed=seed
        )


def _read(folder: Path) -> tuple[str, Rows, list[Path]]:
    """Return the layout, the images of each split, and where pictures are looked for."""
    names = [name for choices in SPLITS.values() for name in choices]
    places = [folder, folder / "JPEGImages", folder / "images"]
    if (folder / "Annotations").is_dir():
        return "VOC", _renamed(voc_rows(folder, names)), places
    if files := _coco_files(folder, names):
        return "COCO", _renamed(coco_rows(files)), places
    return "JSON lines", _renamed(lines_rows(folder, names)), places


def _coco_files(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    patterns = ("annotations/instances_{}*.json", "annotations/{}*.json", "{}/_annotations.coco.json")
    found = {
        name: [f for pattern in patterns for f in sorted(folder.glob(pattern.format(name)))] for name in names
    }
    return {name: files[0] for name, files in found.items() if files}


def _renamed(rows: Rows) -> Rows:
    """Return the splits under our names: train, validation, test."""
    return {split: rows[name] for split, choices in SPLITS.items() for name in choices if name in rows}


def _nouns(given: Mapping[str, Any]) -> dict[str, Noun]:
    nouns = {}
    for label, words in given.items():
        if isinstance(words, str) or len(words) != 2 or not all(isinstance(word, str) for word in words):
            raise ConfigError(f"the class {label!r} needs a noun in the singular and plural, got {words!r}")
        nouns[str(label)] = Noun(*words)
    return nouns
