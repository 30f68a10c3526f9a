"""SLAKE: radiology questions in English and Chinese, organs and lesions marked (Liu et al., ISBI 2021)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from medeyes_monai.data.blobs import Blob, PictureStore
from medeyes_monai.data.hub import fetched
from medeyes_monai.data.releases import About, Count, Question, files_of_splits, is_polar
from medeyes_monai.data.slake_regions import Region, boxes_named, regions_of_mask
from medeyes_monai.data.texts import Record, json_records, read_text
from medeyes_monai.errors import ConfigError, UnreadableImageError

__all__ = ["SlakeRelease"]

HUB = "BoKelvin/SLAKE"
FILES = {
    "train": ["train.json"],
    "validation": ["validate.json", "validation.json"],
    "test": ["test.json"],
}
ABOUT = About(
    title="SLAKE 1.0",
    licence="CC BY 4.0 (dataset card of BoKelvin/SLAKE)",
    homepage="https://www.med-vqa.com/slake/",
    citation=(
        "@inproceedings{liu2021slake,\n"
        "  title={{SLAKE}: A Semantically-Labeled Knowledge-Enhanced Dataset for Medical Visual Question "
        "Answering},\n"
        "  author={Liu, Bo and Zhan, Li-Ming and Xu, Li and Ma, Lin and Yang, Yan and Wu, Xiao-Ming},\n"
        "  booktitle={IEEE International Symposium on Biomedical Imaging}, year={2021}\n}"
    ),
    traps=(
        "Published numbers are mostly on the English questions; say which language.",
        "One English question of train has an empty answer; it is written without one.",
        "Boxes and masks mark organs and lesions, not what answers a question. With `regions=named`, the "
        "boxes of a question are those whose label its words name; questions that name none have none.",
        "Every image is called source.jpg; here it is called after its folder.",
    ),
)
ENGLISH = (
    Count("train", "questions", (4919,)),
    Count("validation", "questions", (1053,)),
    Count("test", "questions", (1061,)),
    Count("test", "closed", (416,)),
    Count("test", "open", (645,)),
)
ALL = (
    Count("train", "questions", (9835,)),
    Count("validation", "questions", (2099,)),
    Count("test", "questions", (2094,)),
)


class SlakeRelease:
    """SLAKE in its own layout: ``imgs/xmlabN/{source.jpg,mask.png,detection.json}`` beside three JSON files.

    A question's family is its answer type, ``closed`` or ``open``. Scoring is ``closed`` where the answer is
    yes or no in English, ``exact`` for other closed questions, ``open`` for open ones.

    Args:
        source: The folder ``Slake1.0``, with ``imgs`` or ``imgs.zip``; or ``hub``.
        language: Whose questions are taken: ``en``, ``zh``, or ``both``.
        regions: Which boxes a question gets: those that its words ``named``, ``all`` of the image, ``none``.
        encoding: Encoding of the JSON files.

    Raises:
        ConfigError: If the folder holds another layout, or a setting is unknown.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        language: Literal["en", "zh", "both"] = "en",
        regions: Literal["named", "all", "none"] = "named",
        encoding: str = "utf-8-sig",
    ) -> None:
        """Look for the files; see the class."""
        if language not in ("en", "zh", "both") or regions not in ("named", "all", "none"):
            raise ConfigError(
                "language is en, zh or both and regions is named, all or none; got "
                f"{language!r} and {regions!r}"
            )
        folder = fetched(source, HUB, ["*.json", "*.zip", "*.txt"])
        self.form = f"language={language}, regions={regions}"
        counts = {"en": ENGLISH, "both": ALL}.get(language, ())
        self.about = About(ABOUT.title, ABOUT.licence, ABOUT.citation, ABOUT.homepage, ABOUT.traps, counts)
        self._files = files_of_splits(folder, FILES)
        self._language, self._regions, self._encoding = language, regions, encoding
        self._store = PictureStore([folder / "imgs", folder / "imgs.zip"])
        self._names = _mask_names(folder / "mask.txt", encoding)
        self._found: dict[str, tuple[Region, ...]] = {}

    def splits(self) -> tuple[str, ...]:
        """Return the splits that this copy holds."""
        return tuple(self._files)

    def records(self, split: str) -> list[Record]:
        """Return the rows of a split, of all languages."""
        return json_records(self._files[split], self._encoding)

    def questions(self, record: Record) -> Sequence[Question]:
        """Return the question of a row if it is in the wanted language."""
        language = record.text("q_lang")
        if language not in ("en", "zh"):
            raise ConfigError(f"wanted the language en or zh in 'q_lang', got {language!r}")
        if self._language not in (language, "both"):
            return []
        picture = record.text("img_name")
        folder = Path(picture).parent.name
        item, mask = self._item(record, language), None
        if self._regions != "none":
            mask = self._optional(folder, "mask.png")
            self._mark(item, folder, mask)
        name = folder or Path(picture).stem
        return [Question(item, (self._store.blob(picture),), f"images/{name}", mask)]

    def _item(self, record: Record, language: str) -> dict[str, Any]:
        kind, answer = record.text("answer_type").lower(), record.text("answer")
        if kind not in ("closed", "open"):
            raise ConfigError(f"wanted the answer type CLOSED or OPEN, got {kind!r}")
        item: dict[str, Any] = {
            "id": f"slake-{record.text('qid')}",
            "question": record.text("question"),
            "family": kind,
            "scoring": "closed" if is_polar(answer) else "exact" if kind == "closed" else "open",
        }
        if answer:
            item["answer"] = answer
        keys = ("content_type", "base_type", "location", "modality")
        item["metadata"] = {key: record.text(key) for key in keys if key in record.fields}
        item["metadata"]["language"] = language
        return item

    def _mark(self, item: dict[str, Any], folder: str, mask: Blob | None) -> None:
        """Give an item the regions that belong to it."""
        if folder not in self._found:
            self._found[folder] = self._marked(folder, mask)
        regions = self._found[folder]
        if self._regions == "named":
            regions = boxes_named(regions, f"{item['question']} {item.get('answer', '')}")
        item["boxes"] = [list(region.box) for region in regions]
        item["labels"] = [region.label for region in regions]
        values = {name: value for value, name in self._names.items()}
        item["metadata"]["mask_values"] = sorted(
            {values[region.label] for region in regions if region.label in values}
        )

    def _marked(self, folder: str, mask: Blob | None) -> tuple[Region, ...]:
        """Return what is marked in an image: its detections, or the regions of its mask without them."""
        detections = self._optional(folder, "detection.json")
        if detections is None:
            return regions_of_mask(mask.read(), self._names) if mask is not None else ()
        where = f"{folder}/detection.json"
        try:
            found = json.loads(detections.read().decode(self._encoding))
            return tuple(
                Region(label.strip(), (x, y, x + width, y + height))
                for entry in found
                for label, corners in entry.items()
                for x, y, width, height in [map(float, corners)]
            )
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{where}: wanted [{{name: [x, y, width, height]}}, …]: {error}") from error

    def _optional(self, folder: str, name: str) -> Blob | None:
        try:
            return self._store.blob(f"{folder}/{name}")
        except UnreadableImageError:
            return None  # not every image has one


def _mask_names(file: Path, encoding: str) -> dict[int, str]:
    """Return what the values of masks mean, from lines such as ``70:Liver``; nothing if there is no file."""
    if not file.is_file():
        return {}
    names = {}
    for number, line in enumerate(read_text(file, encoding).splitlines(), 1):
        if line.strip():
            match = re.fullmatch(r"\s*(\d{1,5})\s*[::]\s*(.+?)\s*", line)
            if match is None:
                raise ConfigError(f"{file.name}, line {number}: wanted a value and a name, as in 70:Liver")
            names[int(match[1])] = match[2]
    return names
