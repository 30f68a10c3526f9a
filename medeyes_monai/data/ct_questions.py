"""Questions in CSV files about CT volumes, with masks of organs and disease, as sets over CT-RATE are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from medeyes_monai.data.mmmu import listed
from medeyes_monai.data.releases import About, Question, files_of_splits, is_polar
from medeyes_monai.data.texts import Record, csv_records
from medeyes_monai.data.wording import letter_of
from medeyes_monai.errors import ConfigError, UnreadableImageError

__all__ = ["CtQuestionsRelease"]

FILES = {
    "train": ["train.csv"],
    "validation": ["valid.csv", "validation.csv", "val.csv"],
    "test": ["test.csv"],
}
COLUMNS = {
    "volume": "volume",
    "question": "question",
    "answer": "answer",
    "options": "options",
    "family": "type",
    "organ_mask": "organ_mask",
    "disease_mask": "disease_mask",
    "id": "id",
}
"""What is read, and the column where it stands unless another is named."""
NEEDED = ("volume", "question", "answer")
_CT_RATE = re.compile(r"((?:train|valid)_\d+)_([a-z]+)_\d+\.nii\.gz")
ABOUT = About(
    title="Questions in CSV files about CT volumes",
    licence="that of the data set; CT-RATE itself: CC BY-NC-SA 4.0 (its dataset card)",
    homepage="https://huggingface.co/datasets/ibrahimhamamci/CT-RATE",
    citation=(
        "@article{hamamci2024ctrate,\n"
        "  title={Developing Generalist Foundation Models from a Multimodal Dataset for {3D} Computed "
        "Tomography},\n"
        "  author={Hamamci, Ibrahim Ethem and Er, Sezgin and others},\n"
        "  journal={arXiv preprint arXiv:2403.17834}, year={2024}\n}"
    ),
    traps=(
        "The citation is that of CT-RATE; cite the question set as well.",
        "Question sets over CT-RATE are mostly written by language models from reports; a report may name "
        "what a volume does not show.",
        "Several reconstructions (_1, _2) of one study share a report: split by study.",
    ),
)


class CtQuestionsRelease:
    """``<split>.csv`` beside volumes, one question a row.

    The disease mask gives the regions of a question where there is one, else the organ mask; both are named
    in the metadata. A volume or mask is a path from ``volumes``, or the name of a volume of CT-RATE, which is
    then looked for where that set has it (``train/train_1/train_1_a/train_1_a_1.nii.gz``). Questions of one
    CT-RATE study are one group.

    Args:
        source: The folder of the CSV files.
        volumes: The folder that paths start from; ``source`` if not given.
        columns: Columns that are called otherwise, as ``{"volume": "Volumename"}``.

    Raises:
        ConfigError: If there is no such file, or ``columns`` names something that is not read.
    """

    about = ABOUT

    def __init__(
        self,
        source: str | Path,
        *,
        volumes: str | Path | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        """Look for the files; see the class."""
        if unknown := set(columns or {}) - set(COLUMNS):
            raise ConfigError(f"columns may name {', '.join(COLUMNS)}, not {', '.join(sorted(unknown))}")
        self._columns = COLUMNS | dict(columns or {})
        self._files = files_of_splits(Path(source), FILES)
        self._volumes = Path(source if volumes is None else volumes)
        self.form = f"columns={sorted(self._columns.items())}"

    def splits(self) -> tuple[str, ...]:
        """Return the splits that this copy holds."""
        return tuple(self._files)

    def records(self, split: str) -> list[Record]:
        """Return the rows of a split."""
        return csv_records(self._files[split], [self._columns[key] for key in NEEDED])

    def questions(self, record: Record) -> Sequence[Question]:
        """Return the question of a row."""
        names = {key: self._cell(record, key) for key in ("volume", "disease_mask", "organ_mask")}
        files = {"image": self._file(names["volume"])}
        masks = {key: self._file(name) for key, name in list(names.items())[1:] if name}
        if masks:
            files["mask"] = next(iter(masks.values()))
        volume = PurePosixPath(names["volume"]).name
        item: dict[str, Any] = {
            "question": record.text(self._columns["question"]),
            "family": self._cell(record, "family") or "all",
            "group": _study(volume),
            "metadata": {"volume": volume, **{key: path.name for key, path in masks.items()}},
        }
        if name := self._cell(record, "id"):
            item["id"] = name
        item |= self._answer(record)
        stem = volume.removesuffix(".gz").removesuffix(".nii")
        return [Question(item, (), f"images/{stem}", files=files)]

    def _answer(self, record: Record) -> dict[str, Any]:
        answer, options = record.text(self._columns["answer"]), _options(self._cell(record, "options"))
        if options:
            return {"answer": options[letter_of(answer, options)], "options": options, "scoring": "choice"}
        return {"answer": answer, "scoring": "closed" if is_polar(answer) else "open"}

    def _cell(self, record: Record, key: str) -> str:
        column = self._columns[key]
        return record.text(column) if column in record.fields else ""

    def _file(self, name: str) -> Path:
        """Return a file by its path, or a volume of CT-RATE by its name."""
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise UnreadableImageError(f"the volume's name {name!r} leads out of the data set's folder")
        places = [self._volumes / path]
        if match := _CT_RATE.fullmatch(path.name):
            split = path.name.partition("_")[0]
            within = Path(match[1], f"{match[1]}_{match[2]}", path.name)
            places += [
                self._volumes / part / within for part in (split, f"dataset/{split}", f"{split}_fixed")
            ]
        found = [place for place in places if place.is_file()]
        if not found:
            raise UnreadableImageError(f"the volume {name!r} is missing from {self._volumes}")
        return found[0]


def _study(volume: str) -> str:
    """Return the study of a CT-RATE volume, which its reconstructions share; else the volume.

    Example:
        >>> _study("train_12_a_2.nii.gz"), _study("case7.nii.gz")
        ('train_12_a', 'case7.nii.gz')
    """
    match = _CT_RATE.fullmatch(volume)
    return f"{match[1]}_{match[2]}" if match else volume


def _options(cell: str) -> list[str]:
    """Return options written as a list of texts, or with ``|`` between them.

    Example:
        >>> _options("['left', 'right']"), _options("A: left | B: right"), _options("")
        (['left', 'right'], ['left', 'right'], [])
    """
    parts = listed(cell) if cell.startswith("[") else cell.split("|")
    return [re.sub(r"^\(?[A-Z][).:]\s*", "", part.strip()) for part in parts if part.strip()]
