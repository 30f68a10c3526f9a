"""MMMU, Health & Medicine: college exam questions with one or several pictures (Yue et al., CVPR 2024)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medeyes_monai.data.blobs import embedded
from medeyes_monai.data.hub import hub_revision
from medeyes_monai.data.parquet import HubTables, ParquetTables, Tables
from medeyes_monai.data.releases import About, Count, Question
from medeyes_monai.data.texts import Record
from medeyes_monai.data.wording import letter_of
from medeyes_monai.errors import ConfigError

__all__ = ["SUBJECTS", "MmmuRelease", "listed"]

HUB = "MMMU/MMMU"
SUBJECTS = (
    "Basic_Medical_Science",
    "Clinical_Medicine",
    "Diagnostics_and_Laboratory_Medicine",
    "Pharmacy",
    "Public_Health",
)
"""The five subjects of the discipline Health & Medicine."""
SPLITS = ("dev", "validation", "test")
IMAGES = tuple(f"image_{number}" for number in range(1, 8))
COLUMNS = ("id", "question", "options", "answer", "question_type", *IMAGES)
MAX_LIST_CHARACTERS = 20_000
WITHHELD = "?"
"""What stands for the answer of a test question; the answers are kept by the benchmark's server."""
ABOUT = About(
    title="MMMU, Health & Medicine",
    licence="Apache 2.0 (dataset card of MMMU/MMMU)",
    homepage="https://mmmu-benchmark.github.io/",
    citation=(
        "@inproceedings{yue2024mmmu,\n"
        "  title={{MMMU}: A Massive Multi-discipline Multimodal Understanding and Reasoning Benchmark for "
        "Expert AGI},\n"
        "  author={Yue, Xiang and Ni, Yuansheng and Zhang, Kai and Zheng, Tianyu and others},\n"
        "  booktitle={Conference on Computer Vision and Pattern Recognition}, year={2024}\n}"
    ),
    traps=(
        "There is no train split. The answers of the 1,752 test questions are withheld: those items have no "
        "answer, and numbers on them come from the benchmark's server.",
        "Several pictures of a question are laid side by side on one sheet, numbered; `<image 2>` in the "
        "text becomes `[image 2]`. Published numbers show the pictures one after the other.",
        "Open questions may accept several answers; the first is the answer, all stand in the metadata.",
    ),
    counts=(
        Count("dev", "questions", (25,)),
        Count("validation", "questions", (150,)),
        Count("test", "questions", (1752,)),
    ),
)


class MmmuRelease:
    """The five subjects from the hub's tables: ``<subject>/<split>-00000-of-00001.parquet``.

    Args:
        source: The folder of the tables, or ``hub``.

    Raises:
        ConfigError: If there are no tables of these subjects.
    """

    about = ABOUT
    form = "tables"

    def __init__(self, source: str | Path) -> None:
        """Look for the tables; see the class."""
        is_hub, revision = hub_revision(source)
        self._tables: Tables = (
            HubTables(HUB, SPLITS, SUBJECTS, revision)
            if is_hub
            else ParquetTables(Path(source), SPLITS, COLUMNS, SUBJECTS)
        )

    def splits(self) -> tuple[str, ...]:
        """Return the splits that this copy holds."""
        return self._tables.splits()

    def records(self, split: str) -> Iterable[Record]:
        """Return the rows of a split, subject by subject."""
        return self._tables.records(split)

    def questions(self, record: Record) -> Sequence[Question]:
        """Return the one question of a row."""
        key = record.text("id")
        cells = [record.fields.get(name) for name in IMAGES]
        pictures = tuple(
            embedded(cell, f"{record.place}, {name}")
            for name, cell in zip(IMAGES, cells, strict=True)
            if cell is not None
        )
        if not pictures:
            raise ConfigError("has no picture in image_1 to image_7")
        kind = record.text("question_type")
        item: dict[str, Any] = {
            "id": key,
            "question": _numbered(record.text("question")),
            "family": "choice" if kind == "multiple-choice" else "open",
            "metadata": {"subject": _subject(key), "pictures": len(pictures)},
        }
        _add_answer(item, record, kind)
        return [Question(item, pictures, f"images/{key}")]


def listed(text: str) -> list[str]:
    r"""Return the list that a string holds, as MMMU writes options: ``"['a', 'b']"``.

    Only literals are read; nothing is evaluated.

    Raises:
        ConfigError: If it holds something else, or is too long.

    Example:
        >>> listed("['2 cm', \"Crohn's disease\"]")
        ['2 cm', "Crohn's disease"]
    """
    if len(text) > MAX_LIST_CHARACTERS:
        raise ConfigError(f"a list of {len(text):,} characters is above the limit of {MAX_LIST_CHARACTERS:,}")
    try:
        values = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ConfigError(f"wanted a list of texts such as ['a', 'b'], got {text[:40]!r}") from error
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"wanted a list of texts such as ['a', 'b'], got {text[:40]!r}")
    return values


def _add_answer(item: dict[str, Any], record: Record, kind: str) -> None:
    answer = record.text("answer")
    if kind == "multiple-choice":
        options = [_numbered(option) for option in listed(record.text("options"))]
        item.update(options=options, scoring="choice")
        if answer != WITHHELD:
            item["answer"] = options[letter_of(answer, options)]
    elif kind == "open":
        item["scoring"] = "open"
        if answer != WITHHELD:
            answers = listed(answer) if answer.startswith("[") else [answer]
            item["answer"] = answers[0]
            item["metadata"]["answers"] = answers
    else:
        raise ConfigError(f"wanted the question type multiple-choice or open, got {kind!r}")


def _numbered(text: str) -> str:
    return re.sub(r"<\s*image\s*(\d)\s*>", r"[image \1]", text).strip()


def _subject(key: str) -> str:
    """Return the subject in a key such as ``validation_Clinical_Medicine_7``."""
    return next((subject for subject in SUBJECTS if subject in key), "")
