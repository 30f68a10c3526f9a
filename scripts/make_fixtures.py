"""Writes a few made-up items of each data set in the layout in which it was published.

    python scripts/make_fixtures.py fixtures
    python scripts/make_fixtures.py fixtures --only slake,mmmu

For tests of readers, and for trying ``scripts/prepare_data.py`` without the data. Pictures are drawn,
questions are invented; nothing comes from the real sets. Each layout is a folder: ``vqa_rad_osf``,
``vqa_rad_tables``, ``slake``, ``path_vqa_tables``, ``path_vqa_first`` (with pickles, which are refused),
``pmc_vqa``, ``mmmu``, ``bccd`` (VOC), ``coco``, ``deep_tumor_vqa``, ``ct_questions`` (CSV over volumes that
are called as CT-RATE's are). Tables need pyarrow.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SUBJECTS = (
    "Basic_Medical_Science",
    "Clinical_Medicine",
    "Diagnostics_and_Laboratory_Medicine",
    "Pharmacy",
    "Public_Health",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(LAYOUTS), help="layouts, with commas between")
    asked = parser.parse_args(arguments)
    for name in asked.only.split(","):
        if name not in LAYOUTS:
            parser.error(f"unknown layout {name!r}; known are {', '.join(LAYOUTS)}")
        LAYOUTS[name](asked.folder / name)
        print(f"written: {asked.folder / name}")
    return 0


def drawn(number: int, size: tuple[int, int] = (96, 80), mode: str = "L") -> Image.Image:
    """Return a picture of two discs on noise, different for each number."""
    noise = np.random.default_rng(number).integers(0, 60, (size[1], size[0]), np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    draw = ImageDraw.Draw(picture)
    x, y = 8 + number % 5 * 4, 10 + number % 3 * 6
    draw.ellipse((x, y, x + 30, y + 36), fill="white")
    draw.ellipse((size[0] - 36, y, size[0] - 12, y + 28), fill="gray")
    return picture


def encoded(picture: Image.Image, kind: str = "PNG") -> bytes:
    """Return the bytes of a picture file."""
    stream = io.BytesIO()
    picture.save(stream, kind)
    return stream.getvalue()


def put(path: Path, content: bytes | str | Image.Image) -> None:
    """Write a file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Image.Image):
        content = encoded(content, "PNG" if path.suffix == ".png" else "JPEG")
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def put_json(path: Path, content: Any) -> None:
    """Write JSON as the releases do, characters of other scripts as they are."""
    put(path, json.dumps(content, ensure_ascii=False, indent=1))


def put_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as parquet."""
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)


def cell(picture: Image.Image, kind: str = "PNG") -> dict[str, Any]:
    """Return a picture as a cell of Hugging Face's tables."""
    return {"bytes": encoded(picture, kind), "path": None}


def vqa_rad_osf(folder: Path) -> None:
    """One JSON file beside an image folder, with what the real one has: repeated rows, trailing spaces."""
    for number in range(4):
        put(folder / "VQA_RAD Image Folder" / f"synpic{number}.jpg", drawn(number))
    asked = [
        (0, "freeform", "Is there a mass in the left lung?", "Yes", "CLOSED"),
        (0, "para", "Where is the mass?", "Left upper lobe", "OPEN"),
        (1, "freeform", "Which side is larger, left or right?", "Right", "CLOSED "),
        (1, "freeform", "How many discs are there?", 2, "OPEN"),
        (2, "freeform", "Is the heart enlarged?", "no", "CLOSED"),
        (2, "freeform", "Is the heart enlarged?", "No", "CLOSED"),
        (0, "test_freeform", "Is this a CT?", "No", "CLOSED"),
        (3, "test_para", "What is shown?", "Two discs", "OPEN"),
        (0, "freeform", "Is this a CT?", "No", "CLOSED"),
    ]
    rows = [
        {
            "qid": qid,
            "phrase_type": phrase,
            "image_name": f"synpic{image}.jpg",
            "image_organ": "CHEST",
            "question": question,
            "question_type": "PRES",
            "answer": answer,
            "answer_type": kind,
        }
        for qid, (image, phrase, question, answer, kind) in enumerate(asked)
    ]
    put_json(folder / "VQA_RAD Dataset Public.json", rows)


def vqa_rad_tables(folder: Path) -> None:
    """Tables of the hub; one picture is in both splits."""
    both = cell(drawn(0), "JPEG")
    train = [
        {"image": both, "question": "is there a mass in the left lung?", "answer": "yes"},
        {"image": both, "question": "where is the mass?", "answer": "left upper lobe"},
        {"image": cell(drawn(1), "JPEG"), "question": "is the heart enlarged?", "answer": "no"},
    ]
    test = [{"image": both, "question": "is this a ct?", "answer": "no"}]
    put_table(folder / "data" / "train-00000-of-00001-eb8844602202be60.parquet", train)
    put_table(folder / "data" / "test-00000-of-00001-e5bc3d208bb4deeb.parquet", test)


def slake(folder: Path) -> None:
    """Slake1.0: a folder for each image, three JSON files, and the meaning of the masks' values."""
    put(folder / "mask.txt", "70:Liver\n135:Left Lung\n140:Right Lung\n200:Lung Cancer\n")
    for number in range(4):
        place = folder / "imgs" / f"xmlab{number}"
        put(place / "source.jpg", drawn(number).convert("RGB"))
        values = np.zeros((80, 96), np.uint8)
        values[10:40, 8:38], values[10:38, 60:84], values[20:26, 64:70] = 140, 135, 200
        put(place / "mask.png", Image.fromarray(values))
        marks = [{"Right Lung": [8.0, 10.0, 30.0, 30.0]}, {"Left Lung": [60.0, 10.0, 24.0, 28.0]}]
        if number != 3:  # not every image has detections
            put_json(place / "detection.json", [*marks, {"Lung Cancer": [64.0, 20.0, 6.0, 6.0]}])
    asked = {
        "train": [
            (0, "en", "Is the left lung healthy?", "No", "CLOSED", "Abnormality"),
            (0, "en", "What diseases are included in the picture?", "Lung Cancer", "OPEN", "Abnormality"),
            (1, "en", "Which is bigger, liver or lung?", "Lung", "CLOSED", "Size"),
            (1, "zh", "图中包含肝脏吗？", "不包含", "CLOSED", "Organ"),  # noqa: RUF001
            (1, "en", "Does the picture contain liver?", "", "OPEN", "Organ"),
        ],
        "validate": [
            (2, "en", "What modality is used to take this image?", "CT", "OPEN", "Modality"),
            (2, "zh", "病变在哪一侧？", "左侧", "OPEN", "Position"),  # noqa: RUF001
        ],
        "test": [(3, "en", "Are the lungs healthy?", "No", "CLOSED", "Abnormality")],
    }
    number = 0
    for split, questions in asked.items():
        rows = []
        for image, language, question, answer, kind, content in questions:
            row = {
                "img_id": image,
                "img_name": f"xmlab{image}/source.jpg",
                "question": question,
                "answer": answer,
            }
            row |= {"q_lang": language, "location": "Lung", "modality": "CT", "answer_type": kind}
            rows.append(
                {
                    **row,
                    "base_type": "vqa",
                    "content_type": content,
                    "triple": ["vhead", "_", "_"],
                    "qid": number,
                }
            )
            number += 1
        put_json(folder / f"{split}.json", rows)


def path_vqa_tables(folder: Path) -> None:
    """Tables of the hub, in shards; one picture is CMYK."""
    rows = [
        {
            "image": cell(drawn(n, mode="CMYK" if n == 1 else "RGB"), "JPEG"),
            "question": question,
            "answer": answer,
        }
        for n, (question, answer) in enumerate(
            [
                ("where are the cells located?", "in the centre"),
                ("are the nuclei lost?", "no"),
                ("what is shown?", "discs"),
            ]
        )
    ]
    put_table(folder / "data" / "train-00000-of-00002.parquet", rows[:2])
    put_table(folder / "data" / "train-00001-of-00002.parquet", rows[2:])
    put_table(folder / "data" / "validation-00000-of-00001.parquet", rows[:1])
    put_table(folder / "data" / "test-00000-of-00001.parquet", rows[1:2])


def path_vqa_first(folder: Path) -> None:
    """The first release: pickled lists beside image folders."""
    for short in ("train", "val", "test"):
        rows = []
        for number in range(2):
            name = f"{short}_{number:04}"
            put(folder / "images" / short / f"{name}.jpg", drawn(number, mode="RGB"))
            rows.append({"image": name, "question": "Is this a disc?", "answer": "yes"})
        put(folder / "qas" / short / f"{short}_qa.pkl", pickle.dumps(rows))


def pmc_vqa(folder: Path) -> None:
    """Both versions: CSV files beside zip archives."""
    for archive, inner, names in (
        ("images.zip", "images", ["PMC1_F1.jpg", "PMC2_F1.jpg"]),
        ("images_2.zip", "figures", ["PMC1_F1_1.jpg", "PMC1_F1_2.jpg", "PMC3_F2_0.jpg"]),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / archive, "w") as pack:
            for number, name in enumerate(names):
                pack.writestr(f"{inner}/{name}", encoded(drawn(number, mode="RGB"), "JPEG"))
    choices = [" A:Diffuse, in both ", " B:Focal uptake", " C:None", " D:Cannot say"]
    first = ["Figure_path", "Question", "Answer", *(f"Choice {c}" for c in "ABCD"), "Answer_label"]
    for name, figure in (("train", "PMC1_F1.jpg"), ("test", "PMC2_F1.jpg"), ("test_clean", "PMC2_F1.jpg")):
        question = "What is the pattern on the left?"
        put_csv(folder / f"{name}.csv", first, [[figure, question, "Focal uptake", *choices, "B"]])
    second = [
        "index",
        "Figure_path",
        "Caption",
        "Question",
        *(f"Choice {c}" for c in "ABCD"),
        "Answer",
        "split",
    ]
    rows = [
        [0, "PMC1_F1_1.jpg", "A disc,\nand another.", "How many discs?", *choices, "A", "train"],
        [1, "PMC1_F1_2.jpg", "Naïve cells (µm).", "Which “stain” is used?", *choices, "C", "train"],
    ]
    put_csv(folder / "train_2.csv", second, rows)
    put_csv(
        folder / "test_2.csv", second, [[0, "PMC3_F2_0.jpg", "A disc.", "What is it?", *choices, "D", "test"]]
    )


def put_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write comma-separated values."""
    stream = io.StringIO()
    table = csv.writer(stream)
    table.writerows([header, *rows])
    put(path, stream.getvalue())


def mmmu(folder: Path) -> None:
    """Five subjects; a question with two pictures, an open one, and withheld answers in test."""
    for subject in SUBJECTS:
        for split in ("dev", "validation", "test"):
            rows = []
            for number in (1, 2):
                pictures = [drawn(number), drawn(number + 5, (50, 40))] if number == 2 else [drawn(number)]
                row: dict[str, Any] = {f"image_{n}": None for n in range(1, 8)}
                row |= {f"image_{n}": cell(picture) for n, picture in enumerate(pictures, 1)}
                is_open = subject == "Pharmacy" and number == 2
                row |= {
                    "id": f"{split}_{subject}_{number}",
                    "question": "Compare <image 1> with <image 2>."
                    if number == 2
                    else "See <image 1>. Which is it?",
                    "options": "[]"
                    if is_open
                    else str(["A disc", "Crohn's disease", "<image 1>", "Nothing"]),
                    "answer": "?" if split == "test" else "['12.5', '12.50']" if is_open else "B",
                    "question_type": "open" if is_open else "multiple-choice",
                    "explanation": "",
                    "img_type": "['Diagrams']",
                    "topic_difficulty": "Easy",
                    "subfield": "Anatomy",
                }
                rows.append(row)
            put_table(folder / subject / f"{split}-00000-of-00001.parquet", rows)


def bccd(folder: Path) -> None:
    """Pascal VOC: XML for each image, lists for each split; one box encloses nothing."""
    for split, numbers in {"train": (0, 1), "val": (2,), "test": (3,)}.items():
        names = [f"BloodImage_{number:05}" for number in numbers]
        put(folder / "ImageSets" / "Main" / f"{split}.txt", "\n".join(names) + "\n")
        for number, name in zip(numbers, names, strict=True):
            put(folder / "JPEGImages" / f"{name}.jpg", drawn(number, mode="RGB"))
            boxes = [("RBC", 1, 11, 40, 46), ("RBC", 61, 11, 96, 38), ("WBC", 20, 30, 90, 80)]
            boxes += [("Platelets", 5, 5, 4, 9)] if number == 1 else []
            put(folder / "Annotations" / f"{name}.xml", annotation(name, boxes))


def annotation(name: str, boxes: Sequence[tuple[str, int, int, int, int]]) -> str:
    """Return a VOC annotation."""
    things = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
        "</bndbox></object>"
        for label, a, b, c, d in boxes
    )
    size = "<size><width>96</width><height>80</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.jpg</filename>{size}{things}</annotation>\n"


def coco(folder: Path) -> None:
    """COCO: one JSON for each split; the two splits call different pictures by one name."""
    for number, split in enumerate(("train", "valid")):
        put(folder / split / "0001.jpg", drawn(number))
        content = {
            "images": [{"id": 7, "file_name": "0001.jpg", "width": 96, "height": 80}],
            "categories": [{"id": 1, "name": "cyst"}, {"id": 2, "name": "nodule"}],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 1, "bbox": [8, 10, 30.4, 36], "iscrowd": 0},
                {"id": 2, "image_id": 7, "category_id": 2, "bbox": [60, 10, 24, 28], "iscrowd": 1},
            ],
        }
        put_json(folder / split / "_annotations.coco.json", content)


def put_volume(path: Path, number: int, *, labels: bool = False) -> None:
    """Write a small volume with a ball in it, or the label map of that ball."""
    import nibabel

    x, y, z = np.ogrid[:40, :36, :12]
    ball = (x - 12 - number) ** 2 + (y - 18) ** 2 + (3 * (z - 6)) ** 2 < 64
    noise = np.random.default_rng(number).integers(0, 30, ball.shape)
    voxels = ball.astype(np.uint8) if labels else np.where(ball, 90, noise).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-0.8, -0.8, 2.5, 1.0])), path)


def deep_tumor_vqa(folder: Path) -> None:
    """The benchmark: one JSON beside a folder for each volume."""
    asked = [
        (1, "recognition", "liver lesion existence", "Is there any lesion in the liver?", "Yes", "Yes", "No"),
        (1, "measurement", "organ volume measurement", "What is the volume of the liver in cm3?",
         "1420.5", "1420.5", "1100.2", "1800.1", "990.0"),
        (2, "visual reasoning", "kidney volume comparison", "Which kidney is larger?", "Left", "Right",
         "Left", "Equal"),
        (2, "medical reasoning", "splenomegaly grading", "How would you grade the spleen?",
         "Normal (no splenomegaly)", "Mild", "Normal (no splenomegaly)", "Moderate", "Severe"),
    ]  # fmt: skip
    rows = []
    for number, (volume, stage, subtype, question, answer, *options) in enumerate(asked):
        listed = " ".join(f"{letter}: {option}" for letter, option in zip("ABCD", options, strict=False))
        rows.append(
            {
                "qid": f"bench_{number:05}",
                "image_id": f"BDMAP_{volume:08}",
                "spacing": "[0.8 0.8 2.5]",
                "shape": "(40, 36, 12)",
                "sex": "F",
                "age": 61,
                "question": question,
                "answer": answer,
                "mc_question": f"{question} {listed}",
                "correct_option": "ABCD"[options.index(answer)],
                "organ": "liver",
                "lesion": False,
                "question_type": stage,
                "question_subtype": subtype,
                "requires_tools": ["segment_organ"],
            }
        )
    put_json(folder / "benchmark" / "test_qa.json", {"version": "2.0", "num_questions": 4, "questions": rows})
    for number in (1, 2):
        put_volume(folder / "benchmark" / "ct" / f"BDMAP_{number:08}" / "ct.nii.gz", number)


def ct_questions(folder: Path) -> None:
    """Two CSV files; volumes lie as CT-RATE's do, masks by their paths."""
    header = ["id", "volume", "question", "answer", "options", "type", "organ_mask", "disease_mask"]
    for split, short in (("train", "train"), ("valid", "valid")):
        study = f"{short}_1_a"
        for number in (1, 2):
            put_volume(folder / split / f"{short}_1" / study / f"{study}_{number}.nii.gz", number)
        put_volume(folder / "masks" / f"{study}_1_lung.nii.gz", 1, labels=True)
        put_volume(folder / "masks" / f"{study}_1_nodule.nii.gz", 1, labels=True)
        organ, disease = (f"masks/{study}_1_{what}.nii.gz" for what in ("lung", "nodule"))
        rows = [
            [f"{short}-1", f"{study}_1.nii.gz", "Is there a nodule?", "Yes", "", "presence", organ, disease],
            [f"{short}-2", f"{study}_1.nii.gz", "Which lobe?", "B", "['Left upper', 'Right upper']", "place",
             organ, ""],
            [f"{short}-3", f"{study}_2.nii.gz", "What is seen?", "A small nodule", "", "open", "", ""],
        ]  # fmt: skip
        put_csv(folder / f"{split}.csv", header, rows)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    layout.__name__: layout
    for layout in (
        vqa_rad_osf,
        vqa_rad_tables,
        slake,
        path_vqa_tables,
        path_vqa_first,
        pmc_vqa,
        mmmu,
        bccd,
        coco,
        deep_tumor_vqa,
        ct_questions,
    )
}


if __name__ == "__main__":
    sys.exit(main())
