import json
import logging
import pickle
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from PIL import Image

from medeyes_monai.data.datalist import DatalistVQA, ItemVQA
from medeyes_monai.data.items import DatalistItem, item_from, read_datalist
from medeyes_monai.data.splits import split_by_group
from medeyes_monai.data.vqa_rad import VqaRad
from medeyes_monai.errors import ConfigError, UnreadableImageError
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import ImageScene, VolumeScene

sys.path.insert(0, str(Path(__file__).parents[1] / "io"))
from dicom_series import save, series

ITEM = {"image": "a.png", "question": "Is it?", "answer": "yes"}


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "b", "c"):
        Image.new("L", (90, 60), ord(name)).save(tmp_path / f"{name}.png")
    return tmp_path


def written(folder, *items, name="list.json", section="training"):
    path = folder / name
    if name.endswith(".jsonl"):
        path.write_text("\n".join(map(json.dumps, items)) + "\n")
    else:
        path.write_text(json.dumps({section: list(items)}))
    return path


@pytest.mark.parametrize("name", ["list.json", "list.jsonl"])
def test_an_item_becomes_a_case_with_everything_it_says(folder, name):
    item = {
        "image": "a.png",
        "question": "How wide?",
        "answer": 12.5,
        "boxes": [[1, 2, 30, 40], [5, 5, 90, 60]],
        "labels": ["cyst", "nodule"],
        "family": "size",
        "scoring": "numeric",
        "tolerance": 0.5,
        "id": "q1",
        "metadata": {"source": "mine"},
    }
    (case,) = list(map(DatalistVQA(written(folder, item, name=name)).__getitem__, range(1)))
    assert (case.key, case.question, case.answer) == ("q1", "How wide?", "12.5")
    assert (case.family, case.scoring, case.tolerance) == ("size", "numeric", 0.5)
    assert [(f.box.corners, f.label) for f in case.scene.findings] == [
        ((1, 2, 30, 40), "cyst"),
        ((5, 5, 90, 60), "nodule"),
    ]
    assert case.scene.shape == (90, 60)


def test_scoring_follows_from_options_and_answer():
    rules = [item_from({**ITEM, **extra}, 0).scoring for extra in (
        {}, {"answer": "No"}, {"answer": "the left"}, {"options": ["yes", "no"]}, {"scoring": "exact"}
    )]  # fmt: skip
    assert rules == ["closed", "closed", "exact", "choice", "exact"]


def test_an_answer_that_names_a_file_stays_an_answer(folder):
    assert DatalistVQA(written(folder, {**ITEM, "answer": "b.png"}))[0].answer == "b.png"


def test_a_line_separator_inside_a_question_does_not_break_jsonl(folder):
    text = json.dumps({**ITEM, "question": "one\u2028two"}, ensure_ascii=False)
    (folder / "list.jsonl").write_text(text, encoding="utf-8")
    assert read_datalist(folder / "list.jsonl")[0].question == "one\u2028two"


@pytest.mark.parametrize("name", ["list.json", "list.jsonl"])
def test_a_datalist_is_utf8_with_or_without_a_mark_and_never_guessed(folder, name):
    path = written(folder, {**ITEM, "question": "Où est l'épanchement? 左肺"}, name=name)
    text = json.dumps(json.loads(path.read_text()), ensure_ascii=False)
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text(text, encoding=encoding)
        assert read_datalist(path)[0].question == "Où est l'épanchement? 左肺"
    path.write_bytes(b"\n" + text.replace("左肺", "").encode("latin-1"))
    with pytest.raises(ConfigError, match=rf"{name}, line 2: is not utf-8-sig \(byte 0xf9\)"):
        read_datalist(path)


def test_a_mask_gives_one_box_for_each_label(folder):
    mask = np.zeros((60, 90), np.uint8)
    mask[10:20, 30:45] = 1
    mask[40:60, 0:5] = 7
    Image.fromarray(mask).save(folder / "mask.png")
    item = {**ITEM, "mask": "mask.png", "labels": ["cyst", "nodule"]}
    findings = DatalistVQA(written(folder, item))[0].scene.findings
    assert [(f.box, f.label) for f in findings] == [
        (Box((30, 10), (45, 20)), "cyst"),
        (Box((0, 40), (5, 60)), "nodule"),
    ]


def test_questions_about_one_image_share_a_scene_while_it_is_kept(folder):
    items = [
        ITEM,
        {**ITEM, "question": "Else?"},
        {**ITEM, "image": "b.png"},
        {**ITEM, "boxes": [[0, 0, 9, 9]]},
    ]
    cases = DatalistVQA(written(folder, *items), keep_scenes=2)
    first = cases[0].scene
    assert cases[1].scene is first
    assert cases[3].scene is not first
    assert cases[3].scene.key != first.key
    assert cases[0].scene is first
    cases[2], cases[3]
    assert cases[0].scene is not first
    assert cases[0].scene.key == first.key == "a.png"


def test_the_scene_is_what_the_factory_makes(folder):
    cases = DatalistVQA(written(folder, ITEM), scene=partial(ImageScene, overview_pixels=64 * 64))
    assert cases[0].scene.frame == (64, 64)


def test_sections_and_base_directory_are_the_callers(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists")
    path = written(elsewhere, ITEM, section="validation")
    assert DatalistVQA(path, folder, "validation")[0].scene.shape == (90, 60)
    with pytest.raises(ConfigError, match=r"wanted \{'training': \[items\]\}, got sections \['validation'\]"):
        DatalistVQA(path, folder)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"questoin": "?"}, "item 1: unknown key 'questoin'; did you mean 'question'"),
        ({"zzz": 1}, "item 1: unknown key 'zzz'; known are"),
        ({"image": ""}, "item 1: image must be text"),
        ({"question": 3}, "item 1: question must be text, got int"),
        ({"answer": True}, "item 1: answer must be words or a number"),
        ({"answer": " "}, "item 1: answer must be words or a number"),
        ({"options": "yes"}, "item 1: options must be a list"),
        ({"boxes": [[1, 2, 3]]}, "item 1: a box needs 4 or 6"),
        ({"boxes": [[5, 5, 1, 1]]}, "item 1: a box must enclose"),
        ({"boxes": ["1234"]}, "item 1: wanted numbers"),
        ({"boxes": [[0, 0, 1, float("nan")]]}, "item 1: a box needs 4 or 6 finite"),
        ({"labels": ["x"]}, "item 1: has 1 labels for 0 boxes"),
        ({"mask": "m.png", "boxes": [[0, 0, 1, 1]]}, "item 1: has boxes and a mask"),
        ({"scoring": "fuzzy"}, "item 1: unknown scoring 'fuzzy'; choose one of exact"),
        ({"tolerance": -1}, "item 1: tolerance must be"),
        ({"id": "a.png-0"}, "items 0 and 1 have the same id"),
    ],
)
def test_a_wrong_item_is_named_with_its_number(folder, wrong, message):
    with pytest.raises(ConfigError) as caught:
        DatalistVQA(written(folder, ITEM, {**ITEM, **wrong}))
    assert message in str(caught.value)
    assert "list.json" in str(caught.value)


def test_what_is_no_datalist_is_refused(folder):
    with pytest.raises(ConfigError, match="does not exist"):
        DatalistVQA(folder / "absent.json")
    with pytest.raises(ConfigError, match="holds no items"):
        DatalistVQA(written(folder))
    with pytest.raises(ConfigError, match="holds no items"):
        DatalistVQA(written(folder, name="list.jsonl"))
    with pytest.raises(ConfigError, match="data directory"):
        DatalistVQA(written(folder, ITEM), folder / "absent")
    with pytest.raises(ConfigError, match="item 0: wanted an object"):
        DatalistVQA(written(folder, "a.png"))
    (folder / "list.json").write_text("{")
    with pytest.raises(ConfigError, match=r"list\.json"):
        DatalistVQA(folder / "list.json")
    (folder / "list.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"list\.json"):
        DatalistVQA(folder / "list.json")
    with pytest.raises(ConfigError, match="on_unreadable"):
        DatalistVQA(written(folder, ITEM), on_unreadable="ignore")


def test_a_question_without_answer_is_refused_in_training_only(folder):
    path = written(folder, ITEM, {"image": "a.png", "question": "Is it?"})
    with pytest.raises(ConfigError, match="item 1 has no answer"):
        DatalistVQA(path)
    assert DatalistVQA(path, require_answers=False)[1].answer is None


def test_regions_that_do_not_fit_the_image_name_the_item(folder):
    outside = DatalistVQA(written(folder, ITEM, {**ITEM, "boxes": [[0, 0, 91, 60]]}))
    with pytest.raises(
        ConfigError, match=r"item 1 \(a\.png\): box \(0, 0, 91, 60\) is not inside .*\(90, 60\)"
    ):
        outside[1]
    Image.new("L", (60, 90), 1).save(folder / "turned.png")
    with pytest.raises(ConfigError, match=r"item 0 \(a\.png\): the mask has shape \(1, 60, 90\)"):
        DatalistVQA(written(folder, {**ITEM, "mask": "turned.png"}))[0]
    Image.new("L", (90, 60), 1).save(folder / "mask.png")
    with pytest.raises(ConfigError, match="2 labels for 1 regions"):
        DatalistVQA(written(folder, {**ITEM, "mask": "mask.png", "labels": ["x", "y"]}))[0]


def test_an_unreadable_image_ends_the_run_unless_skipping_was_asked_for(folder):
    (folder / "b.png").write_bytes(b"broken")
    path = written(folder, ITEM, {**ITEM, "image": "b.png"})
    with pytest.raises(UnreadableImageError, match=r"^item 1 \(b\.png-1\): b\.png"):
        DatalistVQA(path)[1]
    (folder / "b.png").unlink()
    with pytest.raises(UnreadableImageError, match=r"^item 1 \(b\.png-1\): b\.png: no such file"):
        DatalistVQA(path)[1]


def test_a_skipped_item_is_replaced_by_the_next_counted_and_logged_once(folder, caplog):
    (folder / "b.png").write_bytes(b"broken")
    images = {"a": "a.png", "b": "b.png", "c": "c.png", "d": "b.png"}
    path = written(folder, *({**ITEM, "id": key, "image": image} for key, image in images.items()))
    cases = DatalistVQA(path, on_unreadable="skip")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert [cases[i].key for i in range(len(cases))] == ["a", "c", "c", "a"]
    assert cases.skipped == 2
    assert [record.message.split(":")[0] for record in caplog.records] == ["item 1 skipped", "item 3 skipped"]
    (folder / "a.png").unlink()
    (folder / "c.png").unlink()
    with pytest.raises(UnreadableImageError, match="none of the 4 items"):
        DatalistVQA(path, on_unreadable="skip")[0]


def test_a_data_set_iterates_once_and_travels_to_worker_processes(folder):
    cases = DatalistVQA(written(folder, ITEM, {**ITEM, "image": "b.png"}))
    assert [case.scene.key for case in cases] == ["a.png", "b.png"]
    assert cases[-1].scene.key == "b.png"
    assert pickle.loads(pickle.dumps(cases))[1].scene.key == "b.png"  # noqa: S301


# volumes

AFFINE = np.array([[-2.0, 0, 0, 40], [0, -2, 0, 30], [0, 0, 5, -10], [0, 0, 0, 1]])
BOX = Box((3, 4, 5), (7, 9, 8))


def volume_of(folder):
    """A CT of 20 x 16 x 12 voxels, stored LPS, in which one box is bright; a mask of that box."""
    mask = np.zeros((20, 16, 12), np.uint8)
    mask[BOX.slices] = 1
    ct = nibabel.Nifti1Image(np.where(mask > 0, 300, -1000).astype(np.int16), AFFINE)
    nibabel.save(ct, folder / "ct.nii.gz")
    return ct, nibabel.Nifti1Image(mask, AFFINE)


def scene_of(folder, **item):
    path = written(folder, {**ITEM, "image": "ct.nii.gz", **item})
    return DatalistVQA(path, scene=partial(VolumeScene, window="bone"))[0].scene


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SAL", "PIR"])
def test_a_mask_stored_with_other_axes_marks_the_same_place(tmp_path, codes):
    ct, mask = volume_of(tmp_path)
    turn = ornt_transform(io_orientation(ct.affine), axcodes2ornt(codes))
    nibabel.save(mask.as_reoriented(turn), tmp_path / "mask.nii.gz")
    scene = scene_of(tmp_path, mask="mask.nii.gz")
    (finding,) = scene.findings
    assert finding.box.size == BOX.size
    assert (scene.image[0][finding.box.slices] == 300).all()
    assert scene.findings == scene_of(tmp_path, boxes=[list(BOX.corners)], labels=["finding"]).findings


@pytest.mark.parametrize("by_mm", [1, 2, -10])
def test_a_mask_on_another_grid_is_refused(tmp_path, by_mm):
    _, mask = volume_of(tmp_path)
    shifted = AFFINE.copy()
    shifted[0, 3] += by_mm
    nibabel.save(nibabel.Nifti1Image(np.asarray(mask.dataobj), shifted), tmp_path / "mask.nii.gz")
    with pytest.raises(ConfigError, match=r"item 0 \(ct\.nii\.gz\): the mask lies on another grid"):
        scene_of(tmp_path, mask="mask.nii.gz")


def test_a_folder_of_dicom_slices_is_one_image_with_the_numbers_of_its_files(tmp_path):
    ct, _ = volume_of(tmp_path)
    save(tmp_path / "ct", series(np.asarray(ct.dataobj), spacing=(2, 2, 5)))
    scene = scene_of(tmp_path, image="ct", boxes=[list(BOX.corners)])
    assert scene.image.dtype == torch.int16
    (finding,) = scene.findings
    assert (scene.image[0][finding.box.slices] == 300).all()
    assert (scene.image == 300).sum() == BOX.size


def test_a_volume_that_cannot_be_placed_or_is_several_names_the_item(tmp_path):
    ct, _ = volume_of(tmp_path)
    sheared = AFFINE.copy()
    sheared[1, 2] = 2
    voxels = np.asarray(ct.dataobj)
    for image, words in (
        (nibabel.Nifti1Image(np.stack([voxels, voxels], -1), AFFINE), "holds 2 volumes"),
        (nibabel.Nifti1Image(voxels, sheared), "tilted gantry"),
        (nibabel.Nifti1Image(voxels, None), "does not say how its axes lie"),
    ):
        nibabel.save(image, tmp_path / "ct.nii.gz")
        with pytest.raises(UnreadableImageError, match=rf"^item 0 \(ct\.nii\.gz-0\): ct\.nii\.gz: .*{words}"):
            scene_of(tmp_path)


# splits


@given(
    st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=1, max_size=200).filter(
        lambda g: len(set(g)) > 9
    ),
    st.integers(0, 5),
)
@settings(max_examples=30, deadline=None)
def test_no_group_is_in_two_parts_and_order_does_not_matter(groups, seed):
    items = [DatalistItem(n, str(n), "i", "q", group=group) for n, group in enumerate(groups)]
    try:
        parts = split_by_group(items, [0.6, 0.4], seed)
    except ConfigError:
        return
    assert sorted(item.number for part in parts for item in part) == list(range(len(items)))
    assert not {item.group for item in parts[0]} & {item.group for item in parts[1]}
    largest = max(Counter(groups).values())
    assert abs(len(parts[0]) - 0.6 * len(items)) <= largest
    backwards = split_by_group(items[::-1], [0.6, 0.4], seed)
    assert [{item.key for item in part} for part in parts] == [
        {item.key for item in part} for part in backwards
    ]


def test_another_seed_gives_another_split():
    items = [DatalistItem(n, str(n), "i", "q", group=str(n)) for n in range(50)]
    assert split_by_group(items, [0.5, 0.5], 0) == split_by_group(items, [0.5, 0.5], 0)
    assert split_by_group(items, [0.5, 0.5], 0) != split_by_group(items, [0.5, 0.5], 1)


@pytest.mark.parametrize("fractions", [[], [0.5, 0.4], [1.5, -0.5], [0.0, 1.0]])
def test_fractions_that_are_no_split_are_refused(fractions):
    with pytest.raises(ConfigError, match="fractions"):
        split_by_group([DatalistItem(0, "a", "i", "q")], fractions)


def test_too_few_groups_for_a_split_are_refused():
    with pytest.raises(ConfigError, match="too few"):
        split_by_group([DatalistItem(0, "a", "i", "q", group="x")], [0.5, 0.5])


# real data


def test_vqa_rad_splits_by_image_and_every_question_is_in_one_split(data_root):
    train, val = VqaRad(data_root / "vqa_rad", "train"), VqaRad(data_root / "vqa_rad", "val")
    assert len(train) + len(val) == 1793
    assert 0.12 < len(val) / 1793 < 0.18
    assert not {item.image for item in train.items} & {item.image for item in val.items}
    families = Counter(item.family for item in (*train.items, *val.items))
    assert families == {"closed": 1025, "open": 768}
    scorings = Counter(item.scoring for item in (*train.items, *val.items))
    assert scorings == {"closed": 940, "open": 768, "exact": 85}


def test_vqa_rad_can_leave_out_images_of_the_test_split(data_root):
    rows = [json.loads(line) for line in (data_root / "vqa_rad" / "train.jsonl").read_text().splitlines()]
    kept = {row["image"] for row in rows if not row["image_in_other_split"]}
    train = VqaRad(data_root / "vqa_rad", drop_test_images=True)
    assert {item.image for item in train.items} < kept


def test_images_of_vqa_rad_can_be_looked_at(data_root):
    cases = VqaRad(data_root / "vqa_rad", "val", keep_scenes=1)
    first = {item.image: place for place, item in reversed(list(enumerate(cases.items)))}
    for place in list(first.values())[::4]:
        scene = cases[place].scene
        assert scene.look(Box.whole(scene.shape)).pixels.dtype == np.uint8


def test_vqa_rad_without_its_files_says_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.jsonl does not exist; give the folder"):
        VqaRad(tmp_path)
    (tmp_path / "train.jsonl").write_text('{"id": "x"}')
    with pytest.raises(ConfigError, match=r"train\.jsonl: item 0: image must be text, got nothing"):
        VqaRad(tmp_path)
    with pytest.raises(ConfigError, match="split is"):
        VqaRad(tmp_path, "all")


def test_bccd_boxes_come_through_a_datalist(data_root, tmp_path):
    rows = [json.loads(line) for line in (data_root / "bccd" / "train.jsonl").read_text().splitlines()[:3]]
    items = [
        {
            "image": row["image"],
            "question": "How many cells?",
            "answer": len(row["boxes"]),
            "scoring": "numeric",
            "boxes": [box["box"] for box in row["boxes"]],
            "labels": [box["label"] for box in row["boxes"]],
        }
        for row in rows
    ]
    for case, row in zip(DatalistVQA(written(tmp_path, *items), data_root / "bccd"), rows, strict=True):
        assert [list(finding.box.corners) for finding in case.scene.findings] == [
            b["box"] for b in row["boxes"]
        ]


def test_a_volume_names_the_item_until_a_scene_for_volumes_is_given(data_root):
    item = item_from({**ITEM, "image": "totalseg_ct/example_ct_sm.nii.gz"}, 0)
    with pytest.raises(ConfigError, match=r"item 0 \(example_ct_sm\.nii\.gz\): .*needs \(1 or 3, X, Y\)"):
        ItemVQA([item], data_root)[0]

    def middle_slice(image, *, key, findings):
        return ImageScene(image[..., image.shape[-1] // 2], key=key, findings=findings, window="soft_tissue")

    scene = ItemVQA([item], data_root, scene=middle_slice)[0].scene
    assert scene.shape == (122, 101)
    assert torch.unique(scene.image).numel() > 50


def test_a_volumes_mask_gives_the_published_bounding_box(data_root):
    # pyradiomics' notes: x 162-208, y 84-153, z 11-17, both ends inside
    folder = data_root / "pyradiomics_tumour"
    item = item_from({**ITEM, "image": "brain1_image.nrrd", "mask": "brain1_label.nrrd"}, 0)
    seen = []
    cases = ItemVQA([item], folder, scene=lambda image, *, key, findings: seen.extend(findings))
    cases[0]
    assert [finding.box.corners for finding in seen] == [(162, 84, 11, 209, 154, 18)]
