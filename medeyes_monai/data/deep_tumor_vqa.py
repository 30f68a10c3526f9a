"""DeepTumorVQA 2.0: questions in four stages about abdominal CT volumes (Chen et al., 2026)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from medeyes_monai.data.releases import About, Count, Question
from medeyes_monai.data.texts import Record, json_records, read_text
from medeyes_monai.errors import ConfigError

__all__ = ["BINARY", "NUMERIC", "DeepTumorVqaRelease"]

NUMERIC = frozenset(
    {
        "organ volume measurement",
        "organ HU measurement",
        "lesion volume measurement",
        "organ HU ratio",
        "tumor burden percentage",
        "largest lesion diameter",
        "largest lesion slice",
        "lesion counting",
        "lesion count by location",
        "organ aggregation",
        "tumor organ HU difference",
    }
)
"""Subtypes whose answer is a number; from the benchmark's own evaluator, as :data:`BINARY`."""
BINARY = frozenset(
    {
        "pancreatic lesion existence",
        "liver lesion existence",
        "kidney lesion existence",
        "kidney tumor existence",
        "kidney cyst existence",
        "colon lesion existence",
        "PDAC existence",
        "PNET existence",
        "lesion outlier",
        "organ enlargement",
        "pancreatic steatosis",
        "pancreatic cyst resectability",
        "pseudocyst determination",
        "splenomegaly detection",
        "portal hypertension assessment",
    }
)
"""Subtypes whose answer is yes or no."""
STAGES = ("recognition", "measurement", "visual reasoning", "medical reasoning")
BANDS = (0.05, 0.10, 0.20, 0.50)
"""Relative errors at which the benchmark counts a number as right, one column each."""
KEPT = ("question_subtype", "organ", "spacing", "shape", "requires_tools")
"""What of a row is kept beside the question. Sex and age are not."""
_NUMBER = re.compile(r"-?\d+\.?\d*")
_OPTION = re.compile(r"(?:(?<=\s)|^)([A-D])\s*:\s*")
ABOUT = About(
    title="DeepTumorVQA 2.0, benchmark",
    licence="CC BY 4.0 (dataset card of tumor-vqa/DeepTumorVQA_2.0)",
    homepage="https://github.com/Schuture/DeepTumorVQA",
    citation=(
        "@article{chen2026deeptumorvqa,\n"
        "  title={{DeepTumorVQA}: A Hierarchical {3D} {CT} Benchmark for Stage-Wise Evaluation of Medical "
        "{VLMs} and Tool-Augmented Agents},\n"
        "  author={Chen, Yixiong and Xiao, Wenjie and Bassi, Pedro R. A. S. and others},\n"
        "  journal={arXiv preprint arXiv:2605.09679}, year={2026}\n}"
    ),
    traps=(
        "Questions are made by programs from masks and reports, not asked by clinicians.",
        "Of numbers, the benchmark reports the mean relative accuracy and the share within 5, 10, 20 and "
        "50 %; an item here is right within one of these (`tolerance`, 10 % unless set).",
        "The reference of a number is the first number in its text, as in the benchmark's evaluator.",
        "Free-form and multiple-choice figures are different tables; say which (`form`).",
        "Volumes are linked, or copied where links are not possible: 991 volumes have about 70 GB.",
    ),
    counts=(Count("test", "questions", (10000,)), Count("test", "images", (991,))),
)


class DeepTumorVqaRelease:
    """The benchmark in its own layout: ``benchmark/test_qa.json`` beside the volumes.

    A volume is ``benchmark/ct/<id>.nii.gz`` or ``benchmark/ct/<id>/ct.nii.gz``; the first counts where both
    are there. A question's family is its stage; its subtype stands in the metadata.

    Args:
        source: The folder that holds ``benchmark``, or that folder itself.
        form: ``open``, the free-form questions; ``choice``, the same with four options.
        tolerance: Largest relative error of a number, one of the benchmark's bands.

    Raises:
        ConfigError: If the folder holds another layout, or a setting is unknown.
    """

    about = ABOUT

    def __init__(
        self, source: str | Path, *, form: Literal["open", "choice"] = "open", tolerance: float = 0.10
    ) -> None:
        """Look for the files; see the class."""
        if form not in ("open", "choice") or tolerance not in BANDS:
            raise ConfigError(
                f"form is open or choice and tolerance one of {', '.join(map(str, BANDS))}; got {form!r} and "
                f"{tolerance}"
            )
        folder = Path(source)
        self._folder = folder / "benchmark" if (folder / "benchmark").is_dir() else folder
        found = [self._folder / name for name in ("test_qa.json", "test_qa.jsonl")]
        files = [file for file in found if file.is_file()]
        if not files:
            raise ConfigError(f"{folder} holds neither benchmark/test_qa.json nor test_qa.jsonl")
        self._file, self._form, self._tolerance = files[0], form, tolerance
        self.form = f"form={form}, tolerance={tolerance}"

    def splits(self) -> tuple[str, ...]:
        """Return the only split: ``test``."""
        return ("test",)

    def records(self, split: str) -> list[Record]:
        """Return the rows."""
        if self._file.suffix == ".jsonl":
            return json_records(self._file)
        try:
            rows = json.loads(read_text(self._file))["questions"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(f'{self._file.name}: wanted {{"questions": [...]}}: {error!r}') from error
        return [
            Record(f"{self._file.name}, row {number}", row if isinstance(row, dict) else {})
            for number, row in enumerate(rows, 1)
        ]

    def questions(self, record: Record) -> Sequence[Question]:
        """Return the question of a row."""
        image, subtype = record.text("image_id"), record.text("question_subtype")
        stage = record.text("question_type").lower()
        if stage not in STAGES:
            raise ConfigError(f"wanted one of {', '.join(STAGES)} in 'question_type', got {stage!r}")
        item: dict[str, Any] = {
            "id": record.text("qid"),
            "family": stage,
            "metadata": {key: record.fields[key] for key in KEPT if key in record.fields},
        }
        item |= self._choice(record) if self._form == "choice" else self._open(record, subtype)
        return [Question(item, (), f"images/{image}", files={"image": self._volume(image)})]

    def _volume(self, name: str) -> Path:
        """Return the file of a volume, in a folder of its own unless it lies beside the others."""
        if not re.fullmatch(r"[\w-]+", name):
            raise ConfigError(f"{name!r} is no name of a volume; wanted letters, digits, _ and -")
        flat = self._folder / "ct" / f"{name}.nii.gz"
        return flat if flat.is_file() else self._folder / "ct" / name / "ct.nii.gz"

    def _open(self, record: Record, subtype: str) -> dict[str, Any]:
        answer = record.text("answer")
        item: dict[str, Any] = {"question": record.text("question"), "answer": answer, "scoring": "exact"}
        if subtype in BINARY:
            item["scoring"] = "closed"
        if subtype in NUMERIC:
            number = _NUMBER.search(answer)
            if number is None:
                raise ConfigError(f"a question of {subtype!r} needs a number as its answer")
            value = float(number[0])
            tolerance = math.nextafter(self._tolerance * abs(value), math.inf)
            item |= {"answer": number[0].rstrip("."), "scoring": "numeric", "tolerance": tolerance}
        return item

    def _choice(self, record: Record) -> dict[str, Any]:
        question, *parts = _OPTION.split(record.text("mc_question"))
        letters, options = parts[::2], [text.strip() for text in parts[1::2]]
        correct = record.text("correct_option")
        if letters != list("ABCD")[: len(letters)] or len(letters) < 2 or correct not in letters:
            raise ConfigError(f"wanted options A: ... B: ... in order, one of them correct; got {letters}")
        answer = options[letters.index(correct)]
        return {"question": question.strip(), "answer": answer, "options": options, "scoring": "choice"}
