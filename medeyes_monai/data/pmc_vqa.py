"""PMC-VQA: multiple-choice questions about figures of PubMed Central (Zhang et al., 2023)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medeyes_monai.data.blobs import PictureStore
from medeyes_monai.data.hub import fetched
from medeyes_monai.data.releases import About, Count, Question, files_of_splits
from medeyes_monai.data.texts import Record, csv_records
from medeyes_monai.data.wording import letter_of
from medeyes_monai.errors import ConfigError

__all__ = ["PmcVqaRelease"]

HUB = "RadGenome/PMC-VQA"
CHOICES = ("Choice A", "Choice B", "Choice C", "Choice D")
COLUMNS = ("Figure_path", "Question", *CHOICES)
FILES = {
    2: {"train": ["train_2.csv"], "test_2": ["test_2.csv"], "test_clean": ["test_clean.csv"]},
    1: {"train": ["train.csv"], "test": ["test.csv"], "test_clean": ["test_clean.csv"]},
}
ABOUT = About(
    title="PMC-VQA",
    licence=(
        "CC BY-SA 4.0 as copies on the hub state it; the figures carry the licences of their articles "
        "(oa_comm_use_file_list.csv of the release). Check the card of the copy that you use"
    ),
    homepage="https://huggingface.co/datasets/RadGenome/PMC-VQA",
    citation=(
        "@article{zhang2023pmcvqa,\n"
        "  title={{PMC-VQA}: Visual Instruction Tuning for Medical Visual Question Answering},\n"
        "  author={Zhang, Xiaoman and Wu, Chaoyi and Zhao, Ziheng and Lin, Weixiong and Zhang, Ya and Wang, "
        "Yanfeng and Xie, Weidi},\n"
        "  journal={arXiv preprint arXiv:2305.10415}, year={2023}\n}"
    ),
    traps=(
        "Two test sets: `test_clean` (2,000 questions checked by hand, compound figures of version 1) and "
        "`test_2` (33,430 questions, parts of figures). Say which.",
        "Questions and options were made by a language model from captions; the caption is kept in the "
        "metadata and must not be shown to the policy.",
        "One article has many figures; items are grouped by article, and `in_other_splits` names the splits "
        "in which the article also occurs.",
        "Some questions repeat an option, so that two letters are right. An option without text is written "
        "as its letter.",
    ),
    counts=(Count("test_clean", "questions", (2000,)), Count("test_2", "questions", (33430,))),
)


class PmcVqaRelease:
    """PMC-VQA in its own layout: CSV files beside ``images.zip`` and ``images_2.zip``, unpacked or not.

    Args:
        source: The folder, or ``hub``.
        version: 2 takes ``train_2.csv``, ``test_2.csv`` and ``test_clean.csv``; 1 takes ``train.csv``,
            ``test.csv`` and ``test_clean.csv``.
        encoding: Encoding of the CSV files.

    Raises:
        ConfigError: If none of the files is there, or no picture.
    """

    about = ABOUT

    def __init__(
        self, source: str | Path, *, version: Literal[1, 2] = 2, encoding: str = "utf-8-sig"
    ) -> None:
        """Look for the files; see the class."""
        if version not in FILES:
            raise ConfigError(f"the versions of PMC-VQA are 1 and 2, got {version!r}")
        folder = fetched(source, HUB, ["*.csv", "*.zip"])
        self.form, self._encoding = f"version={version}", encoding
        self._files = files_of_splits(folder, FILES[version])
        places = ("images", "figures", "images_2/figures", "images.zip", "images_2.zip")
        self._store = PictureStore([folder / place for place in places])

    def splits(self) -> tuple[str, ...]:
        """Return the splits that this copy holds."""
        return tuple(self._files)

    def records(self, split: str) -> list[Record]:
        """Return the rows of a split."""
        return csv_records(self._files[split], COLUMNS, self._encoding)

    def questions(self, record: Record) -> Sequence[Question]:
        """Return the one question of a row."""
        options = [_without_letter(record.text(name), name[-1]) or name[-1] for name in CHOICES]
        name = record.text("Figure_path")
        item = {
            "question": record.text("Question"),
            "options": options,
            "answer": options[_right(record, options)],
            "scoring": "choice",
            "family": "choice",
            "group": re.split(r"[_.]", name)[0],
            "metadata": {"caption": record.fields.get("Caption") or ""},
        }
        return [Question(item, (self._store.blob(name),), f"images/{Path(name).stem}")]


def _without_letter(choice: str, letter: str) -> str:
    """Return an option without the letter before it, ``A:Maxilla`` or ``A. Maxilla``."""
    return re.sub(rf"^\s*{letter}\s*[:.)]\s*", "", choice).strip()


def _right(record: Record, options: Sequence[str]) -> int:
    """Return the number of the right option: version 1 gives text and letter, version 2 the letter."""
    for key in ("Answer_label", "Answer", "Anwser"):  # the last is how version 1 spells it
        if record.fields.get(key):
            return letter_of(record.text(key), options)
    raise ConfigError("has no answer in 'Answer_label', 'Answer' or 'Anwser'")
