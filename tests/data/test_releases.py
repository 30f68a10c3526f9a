"""Each official layout becomes the datalist that it should: made-up items, worked out by hand."""

import json
from collections import Counter

import numpy as np
import pytest

from medeyes_monai.data.catalogue import RELEASES, open_release
from medeyes_monai.data.datalist import DatalistVQA
from medeyes_monai.data.prepare import prepare
from medeyes_monai.data.prepared import PreparedVQA
from medeyes_monai.data.vqa_rad import VqaRad
from medeyes_monai.errors import ConfigError
from medeyes_monai.io import read_image
from medeyes_monai.metrics.scoring import answers_match
from medeyes_monai.scenes import ImageScene, VolumeScene

OFFICIAL = [
    ("vqa_rad", "vqa_rad_osf", {}),
    ("vqa_rad", "vqa_rad_tables", {}),
    ("slake", "slake", {}),
    ("slake", "slake", {"language": "both", "regions": "all"}),
    ("path_vqa", "path_vqa_tables", {}),
    ("pmc_vqa", "pmc_vqa", {}),
    ("pmc_vqa", "pmc_vqa", {"version": 1}),
    ("mmmu", "mmmu", {}),
    ("bccd", "bccd", {}),
    ("detection", "coco", {}),
    ("deep_tumor_vqa", "deep_tumor_vqa", {}),
    ("deep_tumor_vqa", "deep_tumor_vqa", {"form": "choice"}),
    ("ct_questions", "ct_questions", {}),
]


def scene_of(image, **more):
    """A scene of a picture or of a volume."""
    return VolumeScene(image, **more) if image.ndim == 4 else ImageScene(image, **more)


@pytest.fixture(scope="module")
def prepared(layouts, tmp_path_factory):
    """Prepare a layout once; returns the folder, or a split's rows by their ids."""
    done = {}

    def get(name, layout, split=None, **settings):
        key = (name, layout, *settings.items())
        if key not in done:
            done[key] = tmp_path_factory.mktemp(name)
            prepare(open_release(name, layouts / layout, **settings), name, done[key], quiet=True)
        return done[key] if split is None else rows_of(done[key], split)

    return get


def rows_of(folder, split):
    lines = (folder / f"{split}.jsonl").read_text("utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


@pytest.mark.parametrize(("name", "layout", "settings"), OFFICIAL)
def test_every_item_can_be_looked_at_and_its_own_answer_is_right(prepared, name, layout, settings):
    folder = prepared(name, layout, **settings)
    splits = [file.stem for file in folder.glob("*.jsonl")]
    assert splits
    for split in splits:
        cases = DatalistVQA(folder / f"{split}.jsonl", require_answers=False, scene=scene_of)
        assert {type(item.metadata["names_a_side"]) for item in cases.items} == {bool}
        if (folder / "validation.jsonl").exists() or split != "train":  # else val is cut from train
            items = PreparedVQA(folder, split, require_answers=False).items
            assert [item.key for item in items] == [item.key for item in cases.items]
        for case in cases:
            assert case.scene.overview().pixels.dtype == np.uint8
            if case.answer is not None:
                assert answers_match(case.answer, case)


def test_the_catalogue_holds_what_the_tests_prepare():
    assert {name for name, _, _ in OFFICIAL} == set(RELEASES)


def test_vqa_rad_of_osf_is_split_by_phrase_type_and_repeated_questions_go(prepared):
    train = prepared("vqa_rad", "vqa_rad_osf", "train")
    test = prepared("vqa_rad", "vqa_rad_osf", "test")
    assert list(train) == [f"vqa_rad-{n}" for n in range(5)]  # 5 repeats 4; 8 repeats 6, of test
    assert list(test) == ["vqa_rad-6", "vqa_rad-7"]
    assert [train[f"vqa_rad-{n}"]["scoring"] for n in range(5)] == [
        "closed",
        "open",
        "exact",
        "open",
        "closed",
    ]
    assert [train[f"vqa_rad-{n}"]["family"] for n in range(5)] == [
        "closed",
        "open",
        "closed",
        "open",
        "closed",
    ]
    assert train["vqa_rad-3"]["answer"] == "2"
    assert train["vqa_rad-0"]["metadata"] == {
        "organ": "CHEST",
        "question_type": "PRES",
        "source": "VQA_RAD Dataset Public.json, row 1",
        "names_a_side": True,
        "in_other_splits": ["test"],
    }


def test_a_picture_in_several_rows_of_a_table_is_one_image_and_splits_share_it(prepared):
    train = prepared("vqa_rad", "vqa_rad_tables", "train")
    test = prepared("vqa_rad", "vqa_rad_tables", "test")
    images = [row["image"] for row in train.values()]
    assert images[0] == images[1] == test["vqa_rad-test-0"]["image"] != images[2]
    shared = [row["metadata"]["in_other_splits"] for row in train.values()]
    assert shared == [["test"], ["test"], []]


def test_images_of_the_test_split_can_be_left_out_of_train(prepared):
    folder = prepared("vqa_rad", "vqa_rad_osf")
    # images 0 (questions 0, 1; also in test), 1 (2, 3) and 2 (4)
    for data in (VqaRad, PreparedVQA):
        kept = data(folder, "train", drop_test_images=True, val_fraction=0.4)
        held = data(folder, "val", drop_test_images=True, val_fraction=0.4)
        assert {item.key for item in (*kept.items, *held.items)} == {"vqa_rad-2", "vqa_rad-3", "vqa_rad-4"}
        assert len(data(folder, "test", drop_test_images=True)) == 2


def test_slake_gives_the_regions_that_the_words_name(prepared):
    train = prepared("slake", "slake", "train")
    left, right, lesion = [60, 10, 84, 38], [8, 10, 38, 40], [64, 20, 70, 26]
    assert train["slake-0"]["boxes"] == [left]  # "Is the left lung healthy?"
    assert train["slake-0"]["labels"] == ["Left Lung"]
    assert train["slake-1"]["labels"] == ["Right Lung", "Left Lung", "Lung Cancer"]  # the answer names a lung
    assert train["slake-1"]["boxes"] == [right, left, lesion]
    assert train["slake-1"]["metadata"]["mask_values"] == [135, 140, 200]
    assert train["slake-2"]["boxes"] == [right, left]  # "liver or lung", and there is no liver
    assert "boxes" not in train["slake-4"]  # "Does the picture contain liver?"


def test_slake_without_detections_takes_regions_from_the_mask(prepared):
    row = prepared("slake", "slake", "test")["slake-7"]
    assert row["labels"] == ["Left Lung", "Right Lung"]  # by ascending value
    assert row["boxes"] == [[60, 10, 84, 38], [8, 10, 38, 40]]
    folder = prepared("slake", "slake")
    mask = read_image(folder / row["metadata"]["mask"]).as_tensor()
    assert set(mask.unique().tolist()) == {0, 135, 140, 200}


def test_an_empty_answer_is_kept_as_a_question_and_left_out_of_training(prepared, caplog):
    folder = prepared("slake", "slake")
    assert "answer" not in prepared("slake", "slake", "train")["slake-4"]
    assert [item.key for item in PreparedVQA(folder, "train").items] == ["slake-0", "slake-1", "slake-2"]
    assert "1 of 4 questions have no answer" in caplog.text
    assert len(PreparedVQA(folder, "train", require_answers=False)) == 4


@pytest.mark.parametrize(("language", "questions"), [("en", 6), ("zh", 2), ("both", 8)])
def test_slake_is_taken_in_the_language_that_is_asked_for(layouts, tmp_path, language, questions):
    release = open_release("slake", layouts / "slake", language=language, regions="none")
    prepare(release, "slake", tmp_path, quiet=True)
    rows = {k: row for file in tmp_path.glob("*.jsonl") for k, row in rows_of(tmp_path, file.stem).items()}
    assert len(rows) == questions
    assert not any("boxes" in row or "mask" in row["metadata"] for row in rows.values())
    if language != "en":
        assert rows["slake-3"]["question"] == "图中包含肝脏吗？"  # noqa: RUF001
        assert (rows["slake-3"]["answer"], rows["slake-3"]["scoring"]) == ("不包含", "exact")
        assert rows["slake-6"]["metadata"]["names_a_side"]  # left, in Chinese


def test_path_vqa_reads_all_shards_and_colour_of_print(prepared):
    folder = prepared("path_vqa", "path_vqa_tables")
    rows = list(prepared("path_vqa", "path_vqa_tables", "train").values())
    assert [(row["family"], row["scoring"]) for row in rows] == [
        ("open",) * 2,
        ("closed",) * 2,
        ("open",) * 2,
    ]
    assert {tuple(read_image(folder / row["image"]).shape) for row in rows} == {(3, 96, 80)}


def test_path_vqa_of_the_first_release_is_read_once_its_pickles_are_json(copied):
    folder = copied("path_vqa_first")
    with pytest.raises(ConfigError, match=r"qas/test/test_qa\.pkl is a pickle.*hub.*test_qa\.json"):
        open_release("path_vqa", folder)
    rows = [{"image": f"train_000{n}", "question": "Is this a disc?", "answer": "yes"} for n in range(2)]
    (folder / "qas" / "train" / "train_qa.json").write_text(json.dumps(rows))
    done = prepare(open_release("path_vqa", folder), "path_vqa", folder / "out", quiet=True)
    assert done.found["train"].questions == done.found["train"].polar == 2
    assert list(done.found) == ["train"]


def test_a_pickle_is_refused_without_being_opened(tmp_path):
    place = tmp_path / "qas" / "train"
    place.mkdir(parents=True)
    (place / "train_qa.pkl").write_bytes(b"cos\nsystem\n(S'touch broken'\ntR.")
    with pytest.raises(ConfigError, match="pickles are never read"):
        open_release("path_vqa", tmp_path)


def test_pmc_vqa_has_options_without_letters_and_groups_by_article(prepared):
    train = prepared("pmc_vqa", "pmc_vqa", "train")
    options = ["Diffuse, in both", "Focal uptake", "None", "Cannot say"]
    assert [row["options"] for row in train.values()] == [options, options]
    assert [row["answer"] for row in train.values()] == ["Diffuse, in both", "None"]
    assert {row["group"] for row in train.values()} == {"PMC1"}
    captions = [row["metadata"]["caption"] for row in train.values()]
    assert captions == ["A disc,\nand another.", "Naïve cells (µm)."]
    folder = prepared("pmc_vqa", "pmc_vqa")
    with pytest.raises(ConfigError, match="too few to split"):
        PreparedVQA(folder, "val", val_fraction=0.5)  # one article cannot be on both sides


def test_the_versions_of_pmc_vqa_are_kept_apart(prepared):
    assert list(prepared("pmc_vqa", "pmc_vqa", version=1).glob("test*.jsonl")) != []
    row = prepared("pmc_vqa", "pmc_vqa", "test", version=1)["pmc_vqa-test-0"]
    assert (row["answer"], row["image"]) == ("Focal uptake", "images/PMC2_F1.jpg")
    stems = {file.stem for file in prepared("pmc_vqa", "pmc_vqa").glob("*.jsonl")}
    assert stems == {"train", "test_2", "test_clean"}


def test_mmmu_lays_several_pictures_side_by_side_and_withholds_answers(prepared):
    folder = prepared("mmmu", "mmmu")
    rows = prepared("mmmu", "mmmu", "validation")
    one, two = rows["validation_Pharmacy_1"], rows["validation_Clinical_Medicine_2"]
    assert tuple(read_image(folder / one["image"]).shape) == (1, 96, 80)
    # 96 and 64 columns (50, but a number needs 64), 8 around each; 24 rows above for the numbers
    assert tuple(read_image(folder / two["image"]).shape) == (3, 8 + 96 + 8 + 64 + 8, 8 + 24 + 80 + 8)
    assert two["question"] == "Compare [image 1] with [image 2]."
    assert two["options"] == ["A disc", "Crohn's disease", "[image 1]", "Nothing"]
    assert (two["answer"], two["metadata"]["subject"]) == ("Crohn's disease", "Clinical_Medicine")
    number = rows["validation_Pharmacy_2"]
    assert (number["answer"], number["metadata"]["answers"]) == ("12.5", ["12.5", "12.50"])
    assert number["scoring"] == "open"
    assert not any("answer" in row for row in prepared("mmmu", "mmmu", "test").values())
    assert Counter(row["metadata"]["subject"] for row in rows.values()).keys() >= {
        "Pharmacy",
        "Public_Health",
    }


def test_bccd_boxes_count_from_nought_and_empty_ones_go(prepared):
    rows = prepared("bccd", "bccd", "train")
    cells, white = [[0, 10, 40, 46], [60, 10, 96, 38]], [19, 29, 90, 80]
    boxes = {tuple(box) for row in rows.values() for box in row.get("boxes", ())}
    assert boxes == {tuple(box) for box in (*cells, white)}
    assert all(row["metadata"]["templated"] for row in rows.values())
    counts = [row for row in rows.values() if row["family"] == "count"]
    assert all(int(row["answer"]) == len(row["boxes"]) for row in counts)


def test_pictures_of_one_name_in_two_splits_stay_two(prepared):
    folder = prepared("detection", "coco")
    train = prepared("detection", "coco", "train")["0001-presence"]
    val = prepared("detection", "coco", "validation")["0001-presence"]
    assert train["image"] != val["image"]
    assert (folder / train["image"]).read_bytes() != (folder / val["image"]).read_bytes()
    assert train["metadata"]["in_other_splits"] == []


def test_coco_boxes_are_rounded_and_crowds_are_not_counted(prepared):
    rows = prepared("detection", "coco", "train")
    assert rows["0001-count"]["boxes"] == [[8, 10, 38, 46]]  # 8 + 30.4
    assert rows["0001-comparison"]["answer"] == (
        "yes" if "more cysts" in rows["0001-comparison"]["question"] else "no"
    )


def test_an_unknown_data_set_or_setting_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean slake"):
        open_release("slak", tmp_path)
    with pytest.raises(ConfigError, match="takes encoding, version, not 'lang'"):
        open_release("pmc_vqa", tmp_path, lang="en")
    with pytest.raises(ConfigError, match="language is en, zh or both"):
        open_release("slake", tmp_path, language="fr")
    with pytest.raises(ConfigError, match="versions of PMC-VQA are 1 and 2"):
        open_release("pmc_vqa", tmp_path, version=3)


def test_a_prepared_row_of_another_form_is_named(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"image": "a.png", "question": "?", "metadata": 5}\n')
    with pytest.raises(ConfigError, match=r"train\.jsonl, row 1: is not in the expected form"):
        PreparedVQA(tmp_path, "train")
    row = {"image": "a.png", "question": "?", "id": "q"}
    (tmp_path / "test.jsonl").write_text("\n".join([json.dumps(row)] * 2))
    with pytest.raises(ConfigError, match=r"test\.jsonl: items 0 and 1 have the same id 'q'"):
        PreparedVQA(tmp_path, "test")
