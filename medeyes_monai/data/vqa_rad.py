"""VQA-RAD: 314 radiology images with questions by clinicians (Lau et al., Scientific Data 2018)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from medeyes_monai.data.blobs import PictureStore, embedded
from medeyes_monai.data.datalist import ItemVQA, OnUnreadable, SceneFactory
from medeyes_monai.data.hub import hub_revision
from medeyes_monai.data.parquet import HubTables, ParquetTables, Tables
from medeyes_monai.data.prepared import split_items
from medeyes_monai.data.releases import About, Count, Question, files_of_splits, is_polar
from medeyes_monai.data.texts import Record, json_records
from medeyes_monai.errors import ConfigError
from medeyes_monai.io import DEFAULT_MAX_VOXELS
from medeyes_monai.scenes import ImageScene

__all__ = ["VqaRad", "VqaRadRelease"]

HUB = "flaviagiammarino/vqa-rad"
OSF_NAMES = ("VQA_RAD Dataset Public.json", "VQA_RAD_Dataset_Public.json")
OSF_FOLDERS = ("VQA_RAD Image Folder", "VQA_RAD_Image_Folder", "images")
COLUMNS = ("image", "question", "answer")
ABOUT = About(
    title="VQA-RAD",
    licence="CC0 1.0 (dataset card of flaviagiammarino/vqa-rad; osf.io/89kps)",
    homepage="https://osf.io/89kps/",
    citation=(
        "@article{lau2018vqarad,\n"
        "  title={A dataset of clinically generated visual questions and answers about radiology images},\n"
        "  author={Lau, Jason J. and Gayen, Soumya and Ben Abacha, Asma and Demner-Fushman, Dina},\n"
        "  journal={Scientific Data}, volume={5}, pages={180251}, year={2018}\n}"
    ),
    traps=(
        "The official split is by question: 202 of the 203 test images also occur in train. "
        "`drop_test_images` leaves them out of training.",
        "Closed questions are more than yes and no: of the 451 test questions, 251 have the answer yes or "
        "no, and 272 (or 271) have the answer type CLOSED. Say which is meant. Tables of the hub hold no "
        "answer type; there, closed means yes or no.",
        "The OSF file repeats three questions of train and one of test in train; they are left out of train.",
        "Some images carry burnt-in text of those who uploaded them.",
    ),
    counts=(
        Count("train", "questions", (1793,)),
        Count("train", "images", (313,)),
        Count("test", "questions", (451,)),
        Count("test", "images", (203,)),
        Count("test", "yes/no", (251,)),
        Count("test", "closed", (272, 271, 251)),
        Count("test", "open", (179, 180, 200)),
    ),
)


class VqaRad(ItemVQA):
    """VQA-RAD from a folder with ``train.jsonl`` (and ``test.jsonl``, if it is at hand) beside its images.

    ``scripts/prepare_data.py vqa_rad`` makes such a folder of the OSF release or of the hub's tables.

    **The trap.** The official split is by question, not by image: 202 of the 203 test images also occur in
    train, so a model can be right about a test image that it has learned by heart. Numbers on the official
    test split compare with published ones, which share the flaw; they do not tell how a new image fares.
    Here, ``val`` is cut from the official train split with every image on one side, and ``drop_test_images``
    leaves the images of the test split out of ``train`` and ``val``, for a test on images never seen.

    A question's family is its ``answer_type``, ``closed`` or ``open``. Closed questions are more than yes
    and no ("left or right"): 1,025 of 1,793 are closed, 940 have the answer yes or no. Scoring is ``closed``
    where the answer is yes or no, else ``exact`` for closed questions and ``open`` for open ones.

    Args:
        root: The folder.
        split: Which questions.
        val_fraction: Share of the official train split that is ``val``.
        seed: Another seed gives another ``val``.
        drop_test_images: Whether questions about images of the test split are left out of train and val.
        scene: Makes a scene of an image.
        on_unreadable: Whether an unreadable image ends the run or is skipped.
        max_voxels: Largest image that is read.
        keep_scenes: Number of scenes that are kept in memory.

    Raises:
        ConfigError: If the folder or the file of the split is missing, or a row is wrong.
    """

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "val", "test"] = "train",
        *,
        val_fraction: float = 0.15,
        seed: int = 0,
        drop_test_images: bool = False,
        scene: SceneFactory = ImageScene,
        on_unreadable: OnUnreadable = "raise",
        max_voxels: int = DEFAULT_MAX_VOXELS,
        keep_scenes: int = 16,
    ) -> None:
        """Read the rows and split them; see the class."""
        if split not in ("train", "val", "test"):
            raise ConfigError(f"split is 'train', 'val' or 'test', got {split!r}")
        items = split_items(
            Path(root),
            split,
            val_fraction=val_fraction,
            seed=seed,
            drop_test_images=drop_test_images,
            as_item=_as_item,
        )
        super().__init__(
            items,
            root,
            scene=scene,
            on_unreadable=on_unreadable,
            max_voxels=max_voxels,
            keep_scenes=keep_scenes,
        )


class VqaRadRelease:
    """VQA-RAD as it was released: OSF's JSON beside an image folder, the hub's tables, or JSON lines.

    Args:
        source: The folder, or ``hub``.
        encoding: Encoding of the JSON.

    Raises:
        ConfigError: If the folder holds none of these forms.
    """

    about = ABOUT

    def __init__(self, source: str | Path, *, encoding: str = "utf-8-sig") -> None:
        """See which form it is; see the class."""
        is_hub, revision = hub_revision(source)
        folder = Path(source)
        self._tables: Tables | None = None
        self._rows: dict[str, list[Record]] = {}
        if is_hub:
            self.form, self._tables = "tables", HubTables(HUB, ("train", "test"), revision=revision)
        elif found := [folder / name for name in OSF_NAMES if (folder / name).is_file()]:
            self.form, self._rows = "OSF", _osf_splits(json_records(found[0], encoding))
            self._store = PictureStore([folder / name for name in OSF_FOLDERS])
        elif (folder / "train.jsonl").is_file() or (folder / "test.jsonl").is_file():
            files = files_of_splits(folder, {"train": ["train.jsonl"], "test": ["test.jsonl"]})
            self.form = "JSON lines"
            self._rows = {split: json_records(file, encoding) for split, file in files.items()}
            self._store = PictureStore([folder])
        elif any(folder.glob("*.parquet")) or any(folder.glob("data/*.parquet")):
            self.form, self._tables = "tables", ParquetTables(folder, ("train", "test"), COLUMNS)
        else:
            names = {"OSF": OSF_NAMES, "lines": ["train.jsonl"], "tables": ["data/train-*.parquet"]}
            files_of_splits(folder, names)  # says what is there instead

    def splits(self) -> tuple[str, ...]:
        """Return the splits that this copy holds."""
        return self._tables.splits() if self._tables else tuple(s for s in self._rows if self._rows[s])

    def records(self, split: str) -> Iterable[Record]:
        """Return the rows of a split."""
        return self._tables.records(split) if self._tables else self._rows[split]

    def questions(self, record: Record) -> Sequence[Question]:
        """Return the one question of a row."""
        question, answer = record.text("question"), record.text("answer")
        if self._tables:
            kind = "closed" if is_polar(answer) else "open"
            picture = embedded(record.fields.get("image"), record.place)
            return [Question(_item(question, answer, kind), (picture,), "images/")]
        name = record.text("image_name" if self.form == "OSF" else "image")
        item = _item(question, answer, record.text("answer_type").lower())
        keys = {"organ": ("image_organ", "organ"), "question_type": ("question_type",)}
        item["metadata"] = {
            key: record.text(field)
            for key, fields in keys.items()
            for field in fields
            if field in record.fields
        }
        if record.fields.get("image_in_other_split"):  # said by a copy that lacks the other split
            item["metadata"]["in_other_splits"] = ["test"]
        if "id" in record.fields or "qid" in record.fields:
            number = record.fields.get("qid")
            item["id"] = record.text("id") if "id" in record.fields else f"vqa_rad-{number}"
        return [Question(item, (self._store.blob(name),), f"images/{Path(name).stem}")]


def _item(question: str, answer: str, kind: str) -> dict[str, Any]:
    if kind not in ("closed", "open"):
        raise ConfigError(f"wanted the answer type CLOSED or OPEN, got {kind!r}")
    scoring = "closed" if is_polar(answer) else "exact" if kind == "closed" else "open"
    return {"question": question, "answer": answer, "family": kind, "scoring": scoring}


def _osf_splits(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Return test and train of OSF's one list; what train repeats of itself or of test is left out."""
    splits: dict[str, list[Record]] = {"train": [], "test": []}
    seen: set[tuple[str, ...]] = set()
    for is_test in (True, False):
        for record in records:
            if str(record.fields.get("phrase_type", "")).strip().startswith("test") == is_test:
                what = tuple(
                    str(record.fields.get(key)).strip().lower()
                    for key in ("image_name", "question", "answer")
                )
                if is_test or what not in seen:
                    splits["test" if is_test else "train"].append(record)
                seen.add(what)
    return splits


def _as_item(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row as a datalist has it: prepared rows are, others name the answer type."""
    if "answer_type" not in row:
        return row
    item = _item(row["question"], row["answer"], row["answer_type"].lower())
    metadata = {"in_other_splits": ["test"] if row["image_in_other_split"] else []}
    return {**item, "id": row["id"], "image": row["image"], "metadata": metadata}
