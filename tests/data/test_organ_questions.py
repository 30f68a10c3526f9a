"""Questions from labels of volumes: what they say follows from the label map and the affine alone."""

import json

import nibabel
import numpy as np
import pytest

from medeyes_monai.data.datalist import DatalistVQA
from medeyes_monai.data.organ_questions import TOTALSEGMENTATOR, organ_questions, organs_of
from medeyes_monai.errors import GeometryError
from medeyes_monai.experts import AnnotationExpert
from medeyes_monai.io import read_image
from medeyes_monai.metrics.scoring import answers_match
from medeyes_monai.navigator import Navigator
from medeyes_monai.scenes import VolumeScene

NAMES = {1: "liver", 2: "spleen", 3: "right kidney", 4: "left kidney", 5: "heart"}
BLOCKS = {1: (24, 34, 15, 21), 2: (4, 10, 15, 21), 3: (24, 30, 2, 8), 4: (10, 16, 2, 8)}
"""For each label, first and last voxel to the patient's right, and towards the head."""


@pytest.fixture(params=["RAS", "LPS", "SAL"])
def labelled(request, tmp_path):
    """A CT of blocks, stored with its axes in some order; x grows to the right, z to the head, before."""
    labels = np.zeros((40, 20, 24), np.uint8)
    for value, (low, high, feet, head) in BLOCKS.items():
        labels[low:high, 5:15, feet:head] = value
    image = np.where(labels > 0, 40 + 10 * labels.astype(np.int16), -100).astype(np.int16)
    for name, voxels in (("ct", image), ("seg", labels)):
        ras = nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 5.0, 1.0]))
        codes = nibabel.orientations.axcodes2ornt(request.param)
        nibabel.save(ras.as_reoriented(_turn(codes)), tmp_path / f"{name}.nii.gz")
    return tmp_path


def _turn(codes):
    return nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), codes)


def test_sides_levels_sizes_and_densities_do_not_depend_on_the_order_of_the_array(labelled):
    items = organ_questions("ct.nii.gz", "seg.nii.gz", NAMES, base_dir=labelled)
    said = {(item["family"], *item["labels"]): item["answer"] for item in items}
    assert said["side", "liver"] == "right"
    assert said["side", "spleen"] == "left"
    assert ("side", "right kidney") not in said  # its name says it
    assert (said["level", "liver"], said["level", "left kidney"]) == ("upper", "lower")
    assert said["volume", "liver"] == "12.0 ml"  # 10 x 10 x 6 voxels of 20 mm3
    assert said["density", "spleen"] == "60 HU"
    assert ("presence",) in said
    assert said["presence",] == "no"
    assert {item["metadata"]["templated"] for item in items} == {True}


def test_the_items_are_a_datalist_whose_boxes_enclose_their_organs(labelled):
    items = organ_questions("ct.nii.gz", "seg.nii.gz", NAMES, base_dir=labelled)
    (labelled / "list.json").write_text(json.dumps({"training": items}))
    cases = DatalistVQA(labelled / "list.json", scene=VolumeScene)
    for case, item in zip(cases, items, strict=True):
        assert answers_match(case.answer, case)
        for finding, name in zip(case.scene.findings, item["labels"], strict=True):
            value = next(v for v, n in NAMES.items() if n == name)
            assert (case.scene.image[0][finding.box.slices] == 40 + 10 * value).all()


def test_an_organ_that_is_cut_has_no_volume_and_one_across_the_middle_no_side(labelled):
    image, labels = read_image(labelled / "ct.nii.gz"), read_image(labelled / "seg.nii.gz")
    organs = organs_of(image, labels, NAMES)
    assert not any(organ.is_cut for organ in organs.values())
    box = organs["liver"].box
    crop = tuple(slice(0, stop - 1) for stop in box.stop)
    cut = organs_of(image[(slice(None), *crop)], labels[(slice(None), *crop)], NAMES)
    assert cut["liver"].is_cut
    assert organs["liver"].right_share == 1.0
    alone = organs_of(image, labels, {1: "liver"})
    assert alone["liver"].right_share is None
    with pytest.raises(GeometryError, match="the mask has shape"):
        organs_of(image, labels[:, 1:], NAMES)
    with pytest.raises(GeometryError, match=r"\(1, X, Y, Z\)"):
        organs_of(image[..., 0], labels[..., 0], NAMES)


def test_labels_stored_with_other_axes_say_the_same_and_shifted_ones_are_refused(labelled):
    expected = organ_questions("ct.nii.gz", "seg.nii.gz", NAMES, base_dir=labelled)
    labels = nibabel.load(labelled / "seg.nii.gz")
    other = labels.as_reoriented(_turn(nibabel.orientations.axcodes2ornt("PRI")))
    nibabel.save(other, labelled / "other.nii.gz")
    assert organ_questions("ct.nii.gz", "other.nii.gz", NAMES, base_dir=labelled) == expected
    affine = labels.affine.copy()
    affine[0, 3] += 1
    nibabel.save(nibabel.Nifti1Image(np.asarray(labels.dataobj), affine), labelled / "shifted.nii.gz")
    with pytest.raises(GeometryError, match="another grid than the image, with a corner that is 1 mm off"):
        organ_questions("ct.nii.gz", "shifted.nii.gz", NAMES, base_dir=labelled)


@pytest.fixture(scope="module")
def real_items(data_root):
    """Questions about the real CT."""
    folder = data_root / "totalseg_ct"
    if not folder.is_dir():
        pytest.skip("the labelled CT is not there")
    return folder, organ_questions(
        "example_ct.nii.gz", "example_seg_fast_force_split.nii.gz", base_dir=folder
    )


def test_a_real_ct_has_its_organs_where_they_belong(real_items):
    folder, items = real_items
    said = {(item["family"], *item["labels"]): item["answer"] for item in items}
    sides = {name: said["side", name] for name in ("liver", "spleen") if ("side", name) in said}
    assert sides == {"liver": "right", "spleen": "left"}
    organs = organs_of(
        read_image(folder / "example_ct.nii.gz"),
        read_image(folder / "example_seg_fast_force_split.nii.gz"),
        TOTALSEGMENTATOR,
    )
    assert organs["right kidney"].right_share > 0.9 > 0.1 > organs["left kidney"].right_share
    assert 800 < organs["liver"].volume_ml < 2500  # an adult's
    assert 80 < organs["left kidney"].volume_ml < 400
    assert organs["urinary bladder"].height < organs["liver"].height
    assert 0 < organs["liver"].hu < 150


def test_a_label_expert_with_noise_brings_a_look_onto_each_of_eight_real_organs(real_items, tmp_path):
    folder, items = real_items
    asked = [item for item in items if item["family"] == "density"][:8]
    (tmp_path / "list.json").write_text(json.dumps({"training": asked}))
    cases = DatalistVQA(tmp_path / "list.json", folder, scene=VolumeScene)
    expert = AnnotationExpert(confidence_noise=0.2, false_alarm_rate=0.2, miss_rate=0.0, min_extent=16)
    navigator = Navigator(expert, max_steps=4, min_extent=16)
    assert len(cases) == 8
    for case in cases:
        path = navigator.navigate(case.scene, case.question, lambda regions, confidences: 0)
        assert max(box.iou(case.scene.findings[0].box) for box in path.boxes) >= 0.3, case.question
