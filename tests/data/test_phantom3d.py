"""PhantomVQA-3D: what is asked is what the voxels show, and a glance does not tell it."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from medeyes_monai.data.phantom3d import Phantom3D, PhantomVQA3D
from medeyes_monai.data.phantom3d_cases import DENSITIES_HU, DIAMETERS_MM
from medeyes_monai.data.phantom3d_image import SHAPE
from medeyes_monai.data.phantom3d_words import (
    ANSWERS_3D,
    FAMILIES_3D,
    MEASURE_FAMILIES_3D,
    STAGES,
    PhantomReader3D,
)
from medeyes_monai.data.phantom_image import BENIGN, KINDS
from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import AnnotationExpert, Candidate
from medeyes_monai.geometry import spacing_of
from medeyes_monai.metrics.scoring import answers_match
from medeyes_monai.navigator import Navigator
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.huggingface import INSTRUCTION


def candidates_of(case):
    return [Candidate(f.box, 1.0, "candidate" if f.subtle else f.label) for f in case.scene.findings]


def asked_lesion(phantom: Phantom3D, kind: str) -> int:
    """Number of the first lesion of a kind in the label map."""
    return 1 + next(n for n, lesion in enumerate(phantom.lesions) if lesion.kind == kind)


def voxels_of(phantom: Phantom3D, number: int) -> np.ndarray:
    return np.asarray(phantom.labels)[0] == number


def voxel_ml(phantom: Phantom3D) -> float:
    return abs(np.linalg.det(np.asarray(phantom.image.affine)[:3, :3])) / 1000


def ball_ml(diameter_mm: float) -> float:
    return math.pi / 6 * diameter_mm**3 / 1000


def world_of(phantom: Phantom3D, mask: np.ndarray) -> np.ndarray:
    """Mean place of some voxels in the RAS+ world, in millimetres."""
    index = np.argwhere(mask).mean(0)
    return (np.asarray(phantom.image.affine) @ [*index, 1.0])[:3]


@pytest.mark.parametrize("split", ["train", "ood"])
def test_who_has_seen_every_finding_answers_every_question_right(split):
    data = PhantomVQA3D(split, size=3 * len(FAMILIES_3D))
    for case in (data[i] for i in range(len(data))):
        seen = [finding.label for finding in case.scene.findings if finding.subtle]
        reading = PhantomReader3D().read(case.question, seen, candidates_of(case))
        assert answers_match(reading.answer, case), (case.question, seen)
        nothing = PhantomReader3D().read(case.question, [], candidates_of(case))
        assert nothing.decisive == (case.family in STAGES["one glance"])


def test_an_expert_without_errors_leads_to_the_right_answer_through_looks_at_lesions():
    exact = {"miss_rate": 0, "false_alarm_rate": 0, "confidence_noise": 0, "drill_error": 0}
    reader = PhantomReader3D()
    expert = AnnotationExpert(reader, min_extent=32, **exact)
    navigator = Navigator(expert, reader=reader, min_extent=32, conclude=True)
    data = PhantomVQA3D("val", size=len(FAMILIES_3D))
    for case in (data[i] for i in range(len(data))):
        path = navigator.navigate(case.scene, case.question, lambda regions, confidences: 0)
        assert answers_match(path.answer, case)
        lesions = [finding.box for finding in case.scene.findings if finding.subtle]
        for box in path.boxes:
            assert sum(box.contains(lesion.centre) for lesion in lesions) == 1


def test_answers_of_a_family_are_equally_frequent_and_so_are_the_ranges_of_a_measurement():
    data = PhantomVQA3D("val", size=24 * len(FAMILIES_3D))
    for number, family in enumerate(FAMILIES_3D):
        answers = [data._asked(i)[1] for i in range(number, len(data), len(FAMILIES_3D))]
        counts = Counter(answers)
        assert set(counts) == set(ANSWERS_3D[family])
        assert len(set(counts.values())) == 1


@pytest.mark.parametrize(
    ("family", "middles", "tolerance"),
    [("diameter", DIAMETERS_MM, lambda v: 0.1 * v), ("density", DENSITIES_HU, lambda v: 10.0)],
)
def test_a_volume_has_a_lesion_in_each_range_and_no_number_is_right_of_two(family, middles, tolerance):
    for index in range(8):
        phantom = PhantomVQA3D("val", size=8, families=[family]).phantom(index)
        values = sorted(v.diameter_mm if family == "diameter" else v.hu for v in phantom.lesions)
        assert phantom.lesions[asked_lesion(phantom, phantom.words[0]) - 1].kind in KINDS
        assert sum(lesion.kind == phantom.words[0] for lesion in phantom.lesions) == 1
        for low, high in itertools.pairwise(values):
            assert low + tolerance(low) < high - tolerance(high)
        growth = [value / middle for value, middle in zip(values, middles, strict=True)]
        assert max(growth) - min(growth) < 0.05  # one lesion in each range, all of them as large as the body


def test_where_something_is_measured_voxels_do_not_tell_how_large_it_is():
    data = PhantomVQA3D("val", size=40, families=["diameter"])
    found = [
        (phantom.lesions[0], spacing_of(phantom.image.affine)) for phantom in map(data.phantom, range(40))
    ]
    fine = np.array([min(spacing) for _, spacing in found])
    assert fine.min() < 1.8
    assert fine.max() > 3.0
    voxels = np.array([lesion.diameter_mm / mm for (lesion, _), mm in zip(found, fine, strict=True)])
    assert abs(np.corrcoef(voxels, fine)[0, 1]) < 0.4
    labels = [[f.label.split()[3] for f in data.phantom(n).findings if f.subtle] for n in range(4)]
    assert all(sorted(words) == ["large", "large", "small", "small"] for words in labels)
    others = PhantomVQA3D("val", size=10, families=["larger", "kind"])
    assert all(2.2 < min(spacing_of(others.phantom(n).image.affine)) < 2.6 for n in range(10))


def test_a_diameter_is_that_of_the_voxels_within_one_voxel():
    data = PhantomVQA3D("val", size=4, families=["diameter"])
    for index in range(len(data)):
        case, phantom = data[index], data.phantom(index)
        mask = voxels_of(phantom, asked_lesion(phantom, phantom.words[0]))
        spacing = spacing_of(phantom.image.affine)
        stated = float(case.answer.removesuffix(" mm"))
        for axis, mm in enumerate(spacing):
            others = tuple(n for n in range(3) if n != axis)
            width = np.flatnonzero(mask.any(axis=others))
            assert abs((width[-1] - width[0] + 1) * mm - stated) <= max(spacing)
        wide = (6 * mask.sum() * voxel_ml(phantom) * 1000 / math.pi) ** (1 / 3)
        assert abs(wide - stated) <= min(spacing)
        assert answers_match(f"{wide:.1f} mm", case)
        assert answers_match(f"{wide / 10:.2f} cm", case)


def test_a_volume_is_that_of_the_voxels_within_one_voxel_of_the_surface():
    data = PhantomVQA3D("val", size=4, families=["volume"])
    for index in range(len(data)):
        case, phantom = data[index], data.phantom(index)
        number = asked_lesion(phantom, phantom.words[0])
        counted = voxels_of(phantom, number).sum() * voxel_ml(phantom)
        stated = float(case.answer.removesuffix(" ml"))
        wide, mm = (6000 * stated / math.pi) ** (1 / 3), min(spacing_of(phantom.image.affine))
        assert ball_ml(wide - mm) < counted < ball_ml(wide + mm)
        assert answers_match(f"{counted:.1f} ml", case)


def test_a_density_is_the_mean_of_the_voxels_within_the_noise():
    data = PhantomVQA3D("val", size=4, families=["density"])
    for index in range(len(data)):
        case, phantom = data[index], data.phantom(index)
        mask = voxels_of(phantom, asked_lesion(phantom, phantom.words[0]))
        mean = np.asarray(phantom.image)[0][mask].mean()
        stated = float(case.answer.removesuffix(" HU"))
        assert abs(mean - stated) < 0.5 + 4 * data.anatomy.noise / math.sqrt(mask.sum())
        assert answers_match(f"{mean:.0f} HU", case)


def test_a_ratio_is_that_of_the_voxels_and_its_three_sizes_do_not_tell_which():
    data = PhantomVQA3D("val", size=8, families=["ratio"])
    for index in range(len(data)):
        case, phantom = data[index], data.phantom(index)
        first, second = (voxels_of(phantom, asked_lesion(phantom, kind)).sum() for kind in phantom.words)
        assert abs((first / second) ** (1 / 3) - float(case.answer)) < 0.05 * float(case.answer)
        sizes = sorted(lesion.diameter_mm for lesion in phantom.lesions)
        assert [b / a for a, b in itertools.pairwise(sizes)] == pytest.approx([1.27, 1.27])


@pytest.mark.parametrize("family", ["size rule", "density rule"])
def test_a_rule_is_applied_to_what_the_voxels_measure(family):
    data = PhantomVQA3D("val", size=6, families=[family])
    for index in range(len(data)):
        case, phantom = data[index], data.phantom(index)
        kind, threshold = phantom.words
        mask = voxels_of(phantom, asked_lesion(phantom, kind))
        wide = (6 * mask.sum() * voxel_ml(phantom) * 1000 / math.pi) ** (1 / 3)
        value = wide if family == "size rule" else np.asarray(phantom.image)[0][mask].mean()
        assert case.answer == ("yes" if value >= float(threshold) else "no")
        assert f"{threshold} {'mm' if family == 'size rule' else 'HU'}" in case.question


@pytest.mark.parametrize("family", ["larger", "denser", "count"])
def test_comparisons_and_counts_are_true_of_the_voxels(family):
    data = PhantomVQA3D("val", size=8, families=[family])
    for index in range(len(data)):
        case, phantom = data[index], data.phantom(index)
        if family == "count":
            kind, organ = phantom.words
            inside = [v for v in phantom.lesions if v.organ == organ]
            assert (len(inside), str(sum(v.kind == kind for v in inside))) == (3, case.answer)
            continue
        masks = {kind: voxels_of(phantom, asked_lesion(phantom, kind)) for kind in phantom.words}
        image = np.asarray(phantom.image)[0]
        size = {k: image[m].mean() if family == "denser" else m.sum() for k, m in masks.items()}
        assert max(size, key=size.__getitem__) == case.answer


def test_side_and_level_follow_from_the_world_whatever_the_order_of_the_array():
    data = PhantomVQA3D("train", size=24, families=["side", "level"])
    orientations = set()
    for index in range(len(data)):
        case, phantom = data[index], data.phantom(index)
        affine = np.asarray(phantom.image.affine)[:3, :3]
        orientations.add(tuple(np.sign(affine / np.abs(affine).max(0)).round().astype(int).ravel()))
        here = world_of(phantom, voxels_of(phantom, asked_lesion(phantom, phantom.words[0])))
        body = np.asarray(phantom.image)[0] > -500
        middle, low = world_of(phantom, body), world_of(phantom, np.ones_like(body))
        if case.family == "side":
            assert case.answer == ("right" if here[0] > middle[0] else "left")  # RAS+: x grows to the right
            sides = Counter(lesion.side for lesion in phantom.lesions)
            assert sides["left"] == sides["right"]
        else:
            share = (here[2] - low[2]) / _height(phantom) + 0.5
            assert case.answer == ("lower", "middle", "upper")[int(3 * share)]
            assert len({lesion.level for lesion in phantom.lesions}) == 3
    assert len(orientations) > 12


def _height(phantom: Phantom3D) -> float:
    """Height of the volume in millimetres."""
    return float(np.abs(np.asarray(phantom.image.affine)[2, :3]) @ np.asarray(phantom.image.shape[1:]))


def test_findings_enclose_the_labels_in_the_stored_grid():
    for index in range(6):
        phantom = PhantomVQA3D("train", size=6).phantom(index)
        for number, finding in enumerate(phantom.findings[:-1], 1):
            inside = voxels_of(phantom, number)[finding.box.slices]
            assert inside.sum() == voxels_of(phantom, number).sum() > 0
            assert all(
                inside.any(axis=tuple(n for n in range(3) if n != axis)).mean() > 0.7 for axis in range(3)
            )


def test_an_item_is_the_same_each_time_and_differs_between_splits_and_seeds():
    def voxels(split, seed):
        return np.asarray(PhantomVQA3D(split, size=4, seed=seed)[2].scene.image)

    assert np.array_equal(voxels("train", 0), voxels("train", 0))
    assert not np.array_equal(voxels("train", 0), voxels("test", 0))
    assert not np.array_equal(voxels("train", 0), voxels("train", 1))


def pieces_of(volumes: int, split: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Pieces around each candidate, of the sheet and of a look's first slice, and the number of its kind."""
    data = PhantomVQA3D(split, size=volumes, seed=5, families=["presence", "larger"])
    overview, look, labels = [], [], []
    for case in (data[i] for i in range(len(data))):
        whole = case.scene.overview().pixels[..., 0].astype(float)
        for finding in case.scene.findings:
            if not finding.subtle:
                continue
            x, y, z = finding.box.centre
            cell = int(z * 16 / SHAPE[2])
            column, row = cell % 4 * 32 + int(x / 4), cell // 4 * 32 + int(y / 4)
            overview.append(np.pad(whole, 5)[row : row + 11, column : column + 11])
            look.append(case.scene.look(finding.box).pixels[:32, :32, 0].astype(float)[8:])
            labels.append([*KINDS, BENIGN].index(finding.label.split()[5]))
    spectrum = np.abs(np.fft.fft2(np.stack(look) - np.mean(look)))  # the texture's phase does not matter
    return {"overview": np.stack(overview), "look": np.log1p(spectrum)}, np.array(labels)


def probe_accuracy(train, kinds, test, truth) -> float:
    """Accuracy of a ridge regression from pixels to kinds."""

    def flat(pieces):
        return np.column_stack(
            [(pieces.reshape(len(pieces), -1) - train.mean()) / train.std(), np.ones(len(pieces))]
        )

    x = flat(train)
    weights = np.linalg.solve(x.T @ x + 100.0 * np.eye(x.shape[1]), x.T @ np.eye(5)[kinds])
    return float(np.mean((flat(test) @ weights).argmax(1) == truth))


@pytest.mark.slow
def test_a_look_shows_the_kind_and_the_overview_does_not():
    pieces, kinds = pieces_of(120, "train")
    other, truth = pieces_of(48, "val")
    chance = np.bincount(truth).max() / len(truth)
    assert probe_accuracy(pieces["overview"], kinds, other["overview"], truth) < chance + 0.12
    assert probe_accuracy(pieces["look"], kinds, other["look"], truth) > 0.7


def test_a_general_policy_is_told_to_point_at_volumes_with_six_numbers(checkpoints):
    case = PhantomVQA3D("val", size=1)[0]
    policy = HuggingFacePolicy(checkpoints["qwen3_vl"], instruction=INSTRUCTION)
    said = policy.decode(policy.prompt(case).token_ids)
    assert "[x1,y1,z1,x2,y2,z2]" in said
    assert "[x1,y1,x2,y2]" not in said


def test_a_question_or_finding_that_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match="PhantomVQA-3D"):
        PhantomReader3D().read("Is there a pneumothorax?", [], ())
    seen = ["left lower kidney small faint solid"]
    with pytest.raises(ConfigError, match="measurement"):
        PhantomReader3D().read("What is the diameter of the solid lesion in mm?", seen, ())


@pytest.mark.parametrize(
    "arguments", [{"split": "all"}, {"size": 0}, {"families": ["shape"]}, {"families": []}]
)
def test_arguments_that_do_not_fit_are_refused(arguments):
    with pytest.raises(ConfigError):
        PhantomVQA3D(**arguments)


def test_measured_families_state_what_was_measured_and_others_do_not():
    data = PhantomVQA3D("val", size=len(FAMILIES_3D))
    for case in (data[i] for i in range(len(data))):
        spoken = {len(finding.label.split()) for finding in case.scene.findings if finding.subtle}
        assert spoken == ({8} if case.family in MEASURE_FAMILIES_3D else {6})
