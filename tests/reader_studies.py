"""Reader studies to test with: items, keys, and the answers that readers might save."""

import json
from pathlib import Path

import numpy as np

from medeyes_monai.geometry import Box
from medeyes_monai.reports.reader_study import StudyItem, design_study, study_item
from medeyes_monai.scenes import Case, Finding, ImageScene
from medeyes_monai.trajectory import Fixation, Trajectory

HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)> & \"quoted\" </pre>"
ANSWERS = "medeyes reader study answers 1"


def make_case(name="SOURCE-a", question="Is it?", reference="yes", findings=(), side=64):
    pixels = np.full((1, 2 * side, side), 60, np.uint8)
    pixels[0, : side // 2, : side // 4] = 255  # bright at the top left of the picture
    scene = ImageScene(pixels, key=name, findings=findings, min_extent=16)
    return Case(key=name, scene=scene, question=question, answer=reference, scoring="exact")


def make_path(answer="yes", looks=1, said="bright here"):
    boxes = [Box((8 * n, 4), (8 * n + 24, 28)) for n in range(looks)]
    return Trajectory(tuple(Fixation(f"{said} {n}", box) for n, box in enumerate(boxes)), said, answer)


def make_items(number=4, wrong=(1, 3), **path) -> list[StudyItem]:
    """Return items SOURCE-a, SOURCE-b and so on; those at the places of ``wrong`` have a wrong answer."""
    found = [Finding(Box((40, 10), (90, 50)), "SECRET")]
    cases = [make_case(f"SOURCE-{chr(97 + n)}", reference="REFERENCE", findings=found) for n in range(number)]
    paths = [make_path("no" if n in wrong else "reference", **path) for n in range(number)]
    return [study_item(case, one) for case, one in zip(cases, paths, strict=True)]


def make_key(readers=2, **items):
    return design_study(make_items(**items), readers, seed=0)


def answer_rows(key, reader, **ratings):
    """Return the cases of a reader who gave the same ratings throughout, 4 unless said otherwise."""
    rows = []
    for number, shown in enumerate(key.readers[reader], start=1):
        looks = len(key.items[shown.item].boxes) if shown.path else 0
        row = {"case": number, "correctness": 4, "confidence": 4, "trust": 4, "usefulness": [4] * looks}
        rows.append(row | {"comment": "", "left": False} | ratings)
    return rows


def write_answers(folder: Path, key, name, rows, **fields) -> Path:
    path = folder / f"answers-{name}.json"
    content = {"format": ANSWERS, "study": key.study, "reader": name, "cases": rows} | fields
    path.write_text(json.dumps(content))
    return path
