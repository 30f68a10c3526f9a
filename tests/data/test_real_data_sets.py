"""The readers on what there is of the real data: train and validation, never test."""

import json
import re
from collections import Counter

import pytest

from medeyes_monai.data.catalogue import open_release
from medeyes_monai.data.prepare import prepare
from medeyes_monai.data.prepared import PreparedVQA
from medeyes_monai.data.vqa_rad import VqaRad


def test_vqa_rad_train_is_whole_and_reads_the_same_prepared_or_not(data_root, tmp_path):
    done = prepare(open_release("vqa_rad", data_root / "vqa_rad"), "vqa_rad", tmp_path, quiet=True)
    found = done.found["train"]
    assert (found.questions, found.images, found.polar) == (1793, 313, 940)
    assert found.families == {"closed": 1025, "open": 768}
    assert [warning for warning in done.warnings if not warning.startswith("test is missing")] == []
    for split in ("train", "val"):
        direct, prepared = VqaRad(data_root / "vqa_rad", split), VqaRad(tmp_path, split)
        same = ("key", "question", "answer", "family", "scoring")
        assert [[getattr(item, name) for name in same] for item in direct.items] == [
            [getattr(item, name) for name in same] for item in prepared.items
        ]
    unseen = VqaRad(tmp_path, "train", drop_test_images=True)
    assert len(unseen) == len(VqaRad(data_root / "vqa_rad", "train", drop_test_images=True)) < 1793 * 0.6


@pytest.fixture
def slake_copy(data_root, tmp_path, fixtures):
    """SLAKE's real questions with drawn pictures and detections."""
    folder, picture = tmp_path / "Slake1.0", fixtures.encoded(fixtures.drawn(1), "JPEG")
    marks = [{"Liver": [1, 2, 30, 40]}, {"Left Lung": [5, 5, 20, 20]}, {"Right Lung": [40, 5, 20, 20]}]
    for split, file in (("train", "train_en.json"), ("validate", "validate_en.json")):
        text = (data_root / "slake_text" / file).read_text("utf-8")
        fixtures.put(folder / f"{split}.json", text)
        for name in {row["img_name"] for row in json.loads(text)}:
            fixtures.put(folder / "imgs" / name, picture)
            fixtures.put_json((folder / "imgs" / name).with_name("detection.json"), marks)
    return folder


def test_slake_text_is_whole_and_every_question_is_read(slake_copy, tmp_path):
    done = prepare(open_release("slake", slake_copy), "slake", tmp_path / "out", quiet=True)
    assert (done.found["train"].questions, done.found["train"].images) == (4919, 450)
    assert (done.found["validation"].questions, done.found["validation"].images) == (1053, 96)
    assert done.found["train"].answered == 4918  # one answer is empty
    assert [warning for warning in done.warnings if not warning.startswith("test is missing")] == []
    train = PreparedVQA(tmp_path / "out", "train")
    assert len(train) == 4918
    scorings = Counter(item.scoring for item in train.items)
    assert scorings == {"open": 2976 - 1, "closed": 1681, "exact": 1943 - 1681}
    for item in train.items:
        named = re.search(r"(?<![a-z])livers?(?![a-z])", f"{item.question} {item.answer}".lower())
        assert ("Liver" in item.labels) == bool(named)


def test_bccd_boxes_of_the_real_cells_become_questions(data_root, tmp_path):
    done = prepare(open_release("bccd", data_root / "bccd"), "bccd", tmp_path, quiet=True)
    assert {split: found.images for split, found in done.found.items()} == {"train": 205, "validation": 87}
    assert list(done.warnings) == ["test is missing, a whole copy has 72 images"]
    cases = PreparedVQA(tmp_path, "validation", keep_scenes=1)
    counts = [item for item in cases.items if item.family == "count"]
    assert all(int(item.answer) == len(item.boxes) for item in counts)
    for place in range(0, len(cases), 40):
        assert all(finding.box.is_inside(cases[place].scene.shape) for finding in cases[place].scene.findings)
