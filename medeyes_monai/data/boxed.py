"""Marked images of detection data: Pascal VOC, COCO, or JSON lines, as rows of one form."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medeyes_monai.data.releases import files_of_splits
from medeyes_monai.data.texts import Record, json_records, read_text
from medeyes_monai.errors import ConfigError

__all__ = ["coco_rows", "corners_of", "lines_rows", "voc_rows"]

MAX_XML_BYTES = 2**22

Rows = dict[str, list[Record]]
"""For each split its images: ``image`` (a name), ``folder`` (the split's name in the data), ``size`` (columns
and rows, zeros if not said), and ``boxes``, a list of ``(label, [x1, y1, x2, y2])``; COCO's also ``classes``,
the labels that there are."""


def voc_rows(folder: Path, splits: Sequence[str]) -> Rows:
    """Read ``Annotations/*.xml``, ``JPEGImages`` and ``ImageSets/Main/<split>.txt``.

    VOC counts pixels from 1 and includes the last; boxes here are half-open from 0, so that 1 is subtracted
    from the first corner.

    Raises:
        ConfigError: If a list of images is missing. A wrong XML file is a flaw of its row.
    """
    names = {split: [f"{split}.txt"] for split in splits}
    files = files_of_splits(folder / "ImageSets" / "Main", names)
    return {split: [_voc_row(folder, split, row) for row in _lines(file)] for split, file in files.items()}


def coco_rows(files: Mapping[str, Path]) -> Rows:
    """Read COCO's JSON, one file for each split. Crowds are passed over.

    Raises:
        ConfigError: If a file is not in COCO's form.
    """
    return {split: _coco_images(file, split) for split, file in files.items()}


def lines_rows(folder: Path, splits: Sequence[str]) -> Rows:
    """Read ``<split>.jsonl`` with ``image`` and ``boxes``: ``[{"label": …, "box": [x1, y1, x2, y2]}, …]``.

    Raises:
        ConfigError: If no file is there or one is not JSON.
    """
    files = files_of_splits(folder, {split: [f"{split}.jsonl"] for split in splits})
    return {split: [_line_row(row, split) for row in json_records(file)] for split, file in files.items()}


def corners_of(record: Record) -> list[tuple[str, list[float]]]:
    """Return the labels and corners of a row.

    Raises:
        ConfigError: If the row is flawed or lacks them.
    """
    if record.flaw:
        raise ConfigError(record.flaw)
    boxes: list[tuple[str, list[float]]] = record.fields["boxes"]
    return boxes


def _lines(file: Path) -> list[tuple[str, str]]:
    """Return the place and first word of each line of an image list."""
    lines = enumerate(read_text(file).splitlines(), 1)
    return [(f"{file.name}, row {number}", line.split()[0]) for number, line in lines if line.strip()]


def _voc_row(folder: Path, split: str, row: tuple[str, str]) -> Record:
    place, name = row
    file = folder / "Annotations" / f"{name}.xml"
    try:
        root = _xml(file)
        picture = root.findtext("filename") or f"{name}.jpg"
        boxes = [_voc_box(thing) for thing in root.iter("object")]
        size = _size(root.findtext("size/width"), root.findtext("size/height"))
    except ConfigError as error:
        return Record(place, {}, str(error))
    stem = picture if Path(picture).stem == name else f"{name}{Path(picture).suffix or '.jpg'}"
    return Record(f"{place} ({file.name})", {"image": stem, "folder": split, "size": size, "boxes": boxes})


def _xml(file: Path) -> ET.Element:
    """Parse an annotation. A document type is refused, because entities can grow without limit."""
    if file.is_file() and file.stat().st_size > MAX_XML_BYTES:
        raise ConfigError(f"{file.name} has {file.stat().st_size:,} bytes, above {MAX_XML_BYTES:,}")
    text = read_text(file)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ConfigError(f"{file.name} declares a document type, which an annotation does not need")
    try:
        return ET.fromstring(text)  # noqa: S314  # bounded, and without entities
    except ET.ParseError as error:
        raise ConfigError(f"{file.name} is not XML: {error}") from error


def _voc_box(thing: ET.Element) -> tuple[str, list[float]]:
    label = (thing.findtext("name") or "").strip()
    try:
        left, top, right, bottom = (
            float(thing.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError as error:
        raise ConfigError(f"the box of {label!r} lacks a corner or has one that is no number") from error
    return label, [left - 1, top - 1, right, bottom]


def _coco_images(file: Path, split: str) -> list[Record]:
    try:
        content = json.loads(read_text(file))
        names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        boxes: defaultdict[Any, list[tuple[str, list[float]]]] = defaultdict(list)
        for mark in content["annotations"]:
            if not mark.get("iscrowd", 0):
                x, y, width, height = (float(value) for value in mark["bbox"])
                boxes[mark["image_id"]].append((names[mark["category_id"]], [x, y, x + width, y + height]))
        images = [
            (entry["id"], str(entry["file_name"]), _size(entry.get("width"), entry.get("height")))
            for entry in content["images"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{file.name}: is not in COCO's form: {error!r}") from error
    return [
        Record(
            f"{file.name}, image {number}",
            {
                "image": name,
                "folder": split,
                "size": size,
                "boxes": boxes[key],
                "classes": [*names.values()],
            },
        )
        for number, (key, name, size) in enumerate(images, 1)
    ]


def _line_row(record: Record, split: str) -> Record:
    if record.flaw:
        return record
    try:
        boxes = [(str(mark["label"]), [float(v) for v in mark["box"]]) for mark in record.fields["boxes"]]
        size = _size(record.fields.get("width"), record.fields.get("height"))
        fields = {"image": str(record.fields["image"]), "folder": split, "size": size, "boxes": boxes}
        return Record(record.place, fields)
    except (KeyError, TypeError, ValueError) as error:
        return Record(record.place, {}, f"wanted image and boxes of label and box, got {error!r}")


def _size(columns: Any, rows: Any) -> tuple[int, int]:
    """Return the size of an image, zeros if one is missing or no whole number."""
    return (int(columns), int(rows)) if str(columns).isdecimal() and str(rows).isdecimal() else (0, 0)
