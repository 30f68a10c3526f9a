"""PathVQA: questions about pictures of pathology textbooks (He et al., 2020)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from medeyes_monai.data.blobs import PictureStore, embedded
from medeyes_monai.data.hub import hub_revision
from medeyes_monai.data.parquet import HubTables, ParquetTables, Tables
from medeyes_monai.data.releases import About, Count, Question, files_of_splits, is_polar
from medeyes_monai.data.texts import Record, json_records
from medeyes_monai.errors import ConfigError

__all__ = ["PathVqaRelease"]

HUB = "flaviagiammarino/path-vqa"
SPLITS = ("train", "validation", "test")
COLUMNS = ("image", "question", "answer")
SHORT = {"train": "train", "validation": "val", "test": "test"}
"""Names of the splits in the layout of the first release."""
FILES = {split: (f"qas/{short}/{short}_qa.json", f"{short}_qa.json") for split, short in SHORT.items()}
ABOUT = About(
    title="PathVQA",
    licence=(
        "MIT for the questions (dataset card of flaviagiammarino/path-vqa); the pictures belong to the "
        "publishers of two textbooks and to the PEIR digital library"
    ),
    homepage="https://github.com/UCSD-AI4H/PathVQA",
    citation=(
        "@article{he2020pathvqa,\n"
        "  title={{PathVQA}: 30000+ Questions for Medical Visual Question Answering},\n"
        "  author={He, Xuehai and Zhang, Yichen and Mou, Luntian and Xing, Eric and Xie, Pengtao},\n"
        "  journal={arXiv preprint arXiv:2003.10286}, year={2020}\n}"
    ),
    traps=(
        "Questions were made from captions by a program; closed means that the answer is yes or no.",
        "Some pictures are CMYK or hold labels and arrows that give the answer away.",
    ),
    counts=(
        Count("train", "questions", (19654,)),
        Count("validation", "questions", (6259,)),
        Count("test", "questions", (6719,)),
        Count("test", "closed", (3362,)),
        Count("test", "open", (3357,)),
    ),
)


class PathVqaRelease:
    """PathVQA from the hub's tables, or from JSON beside the image folders of the first release.

    The first release holds its questions in pickles. Reading a pickle runs whatever program it contains, so
    they are refused; see the message for the two ways out.

    Args:
        source: The folder, or ``hub``.
        encoding: Encoding of JSON files.

    Raises:
        ConfigError: If the folder holds only pickles, or none of these forms.
    """

    about = ABOUT

    def __init__(self, source: str | Path, *, encoding: str = "utf-8-sig") -> None:
        """See which form it is; see the class."""
        is_hub, revision = hub_revision(source)
        folder = Path(source)
        self.form, self._encoding = "tables", encoding
        self._tables: Tables | None = None
        if is_hub:
            self._tables = HubTables(HUB, SPLITS, revision=revision)
        elif any((folder / name).is_file() for names in FILES.values() for name in names):
            self.form, self._files = "JSON", files_of_splits(folder, FILES)
            self._store = PictureStore([folder / "images", folder / "images.zip"])
        else:
            _refuse_pickles(folder)
            self._tables = ParquetTables(folder, SPLITS, COLUMNS)

    def splits(self) -> tuple[str, ...]:
        """Return the splits that this copy holds."""
        return self._tables.splits() if self._tables else tuple(self._files)

    def records(self, split: str) -> Iterable[Record]:
        """Return the rows of a split."""
        return (
            self._tables.records(split) if self._tables else json_records(self._files[split], self._encoding)
        )

    def questions(self, record: Record) -> Sequence[Question]:
        """Return the one question of a row."""
        answer = record.text("answer")
        kind = "closed" if is_polar(answer) else "open"
        item = {"question": record.text("question"), "answer": answer, "family": kind, "scoring": kind}
        if self._tables:
            return [Question(item, (embedded(record.fields.get("image"), record.place),), "images/")]
        name = record.text("image")
        blob = self._store.blob(f"{name.rsplit('_', 1)[0]}/{name}.jpg")
        return [Question(item, (blob,), f"images/{name}")]


def _refuse_pickles(folder: Path) -> None:
    for pattern in ("*.pkl", "qas/*/*.pkl", "*/qas/*/*.pkl"):
        if found := sorted(folder.glob(pattern)):
            raise ConfigError(
                f"{found[0].relative_to(folder)} is a pickle, and reading one runs the program that it "
                f"contains, so pickles are never read. Take the tables of {HUB} (source: hub, or a copy of "
                f"its parquet files); or, where you trust the file, write its list as JSON beside it "
                f"({found[0].with_suffix('.json').name})"
            )
