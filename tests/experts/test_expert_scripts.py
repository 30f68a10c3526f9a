"""The programs that train a small expert and measure what experts find."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from expert_scenes import QUERY

from medeyes_monai.data.phantom import PhantomVQA
from medeyes_monai.experts import Candidate, bundle_expert
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Case, Finding, ImageScene
from medeyes_monai.trajectory import Fixation, Trajectory

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def scripts():
    """Import a script or a part of one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module


@pytest.fixture(scope="module")
def trained(scripts, tmp_path_factory):
    """A bundle after a few steps of training, and the command that made it."""
    command = ["--images", "4", "--steps", "6", "--batch", "2", "--output"]
    folder = tmp_path_factory.mktemp("trained") / "expert"
    scripts("train_expert").main([*command, str(folder)])
    return folder, command


def test_a_trained_expert_is_a_bundle_that_can_be_asked(trained):
    folder, _ = trained
    expert = bundle_expert(folder)
    assert expert.labels == (
        "background", "heart", "solid", "calcified", "laminated", "spiculated", "benign",
    )  # fmt: skip
    assert (expert.together, expert.plain) == (True, ("heart",))
    scene = PhantomVQA("val", size=1)[0].scene
    assert expert.drill(scene, Box((0, 0), (64, 64)), QUERY) == expert.drill(
        scene, Box((0, 0), (64, 64)), QUERY
    )


def test_training_again_with_the_same_seed_gives_the_same_weights(trained, scripts, tmp_path):
    folder, command = trained
    scripts("train_expert").main([*command, str(tmp_path / "again")])
    weights = Path("models/model.safetensors")
    assert (tmp_path / "again" / weights).read_bytes() == (folder / weights).read_bytes()
    scripts("train_expert").main([*command, str(tmp_path / "other"), "--seed", "1"])
    assert (tmp_path / "other" / weights).read_bytes() != (folder / weights).read_bytes()


def test_the_shipped_expert_has_the_configuration_that_the_script_writes(trained):
    shipped = SCRIPTS.parent / "bundle" / "models" / "phantom_expert"
    for name in ("inference", "metadata"):
        file = Path("configs") / f"{name}.json"
        written, kept = (json.loads((folder / file).read_text()) for folder in (trained[0], shipped))
        versions = ("monai_version", "pytorch_version", "numpy_version")
        assert {k: v for k, v in written.items() if k not in versions} == {
            k: v for k, v in kept.items() if k not in versions
        }


def test_each_finding_is_an_ellipse_of_its_class_with_small_ones_on_top(scripts):
    findings = (Finding(Box((10, 10), (14, 14)), "small disc"), Finding(Box((0, 0), (40, 20)), "big ring"))
    scene = ImageScene(np.zeros((1, 64, 64), np.uint8), key="a", findings=findings)
    classes = scripts("expert_parts.tasks").label_map(scene, ("background", "ring", "disc"))
    assert [classes[0, 0], classes[20, 10], classes[12, 12], classes[10, 10]] == [0, 1, 2, 1]
    assert (classes > 0).sum() == pytest.approx(np.pi * 20 * 10, rel=0.02)


def test_patches_are_cut_inside_the_image_and_turned_with_their_classes(scripts):
    image = np.arange(40 * 50, dtype=np.int64).reshape(1, 40, 50) % 251
    pairs = [(image.astype(np.uint8), (image[0] % 251 > 200).astype(np.uint8))]
    patches = scripts("train_expert").draw_patches(pairs, 16, np.random.default_rng(0))
    for _ in range(30):
        pixels, classes = next(patches)
        assert (pixels.shape, classes.shape) == ((1, 16, 16), (16, 16))
        assert np.array_equal(classes, pixels[0] > 200)


def test_a_reduced_image_and_its_classes_show_the_same_place(scripts):
    tasks, train = scripts("expert_parts.tasks"), scripts("train_expert")
    image, classes = np.zeros((3, 64, 48), np.uint8), np.zeros((64, 48), np.uint8)
    image[:, 20:40, 10:30], classes[20:40, 10:30] = 200, 1
    task = tasks.task_of("bccd", Path("nowhere"))
    pixels, reduced = train._reduced(image, classes, task)
    assert (pixels.shape, reduced.shape) == ((3, 32, 24), (32, 24))
    assert ((pixels[0] > 100) == (reduced == 1)).mean() > 0.97


# What is measured.


def case_with(question, *labels):
    findings = [Finding(Box((50 * n, 0), (50 * n + 20, 20)), label) for n, label in enumerate(labels)]
    scene = ImageScene(np.zeros((1, 256, 64), np.uint8), key="a", findings=findings)
    return Case("q", scene, question, answer="yes")


def test_a_question_needs_the_lesions_that_it_names_or_any(scripts):
    needed = scripts("expert_parts.paths").needed
    labels = ("left small solid", "right large benign", "left large calcified")
    solid, _, calcified = (Box((50 * n, 0), (50 * n + 20, 20)) for n in range(3))
    assert needed(case_with("Which kind is the lesion?", *labels)) == [solid, calcified]
    assert needed(case_with("Is there a calcified lesion?", *labels)) == [calcified]
    assert needed(case_with("Which is larger, solid or laminated?", *labels)) == [solid]
    assert needed(case_with("Is there a spiculated lesion?", *labels)) == []


def test_a_path_finds_a_lesion_if_a_look_holds_its_centre(scripts):
    finds = scripts("expert_parts.paths").finds
    path = Trajectory((Fixation("", Box((0, 0), (200, 20))), Fixation("", Box((40, 40), (60, 60)))))
    assert finds(path, [Box((10, 0), (20, 20))])
    assert not finds(path, [Box((10, 0), (20, 20))], longest=128)
    assert not finds(path, [Box((10, 15), (20, 35))])  # its centre lies outside


def test_each_box_is_found_once(scripts):
    hits = scripts("expert_parts.boxes").hits
    box, near = Box((0, 0), (10, 10)), Box((0, 0), (10, 8))  # IoU 0.8
    twice = [Candidate(box, 0.9), Candidate(near, 0.8)]
    assert hits(twice, [box]) == 1
    assert hits(twice, [box, Box((20, 20), (30, 30))]) == 1
    assert hits([Candidate(Box((0, 0), (10, 4)), 0.9)], [box]) == 0  # IoU 0.4
    assert hits([], [box]) == 0


def test_the_measurement_prints_and_writes_what_paths_find(scripts, tmp_path, capsys):
    scripts("measure_experts").main(["--questions", "10", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "experts.json").read_text())
    assert set(found) == {
        "phantom, paths over network",
        "phantom, paths over annotations",
        "phantom, paths over random boxes",
        "phantom, drills of the network",
    }
    network = found["phantom, paths over network"]
    assert network["items"] == 10
    assert network["kept paths answered right"] == 100.0
    assert f"{network['paths that find it']:>10}" in capsys.readouterr().out


def test_a_class_without_boxes_or_candidates_has_no_recall_or_precision(scripts):
    """Of two spots one is proposed as a ring; nothing is a disc, in the image or in the scan."""
    rings = [Finding(Box((0, 0), (10, 10)), "ring"), Finding(Box((30, 30), (40, 40)), "ring")]
    scene = ImageScene(np.zeros((1, 64, 64), np.uint8), key="a", findings=rings)
    expert = SimpleNamespace(scan=lambda scene, query: [Candidate(rings[0].box, 0.9, "ring")])
    found = scripts("expert_parts.boxes").measure_boxes("by hand", expert, [scene], ("ring", "disc"))
    assert (found["ring: recall"], found["ring: precision"], found["ring: boxes"]) == (50.0, 100.0, 2)
    assert (found["disc: recall"], found["disc: precision"], found["disc: boxes"]) == (None, None, 0)


def test_cells_are_counted_on_images_of_the_val_split(scripts, tmp_path, data_root, capsys):
    folder = data_root / "bccd"
    if not folder.is_dir():
        pytest.skip("no blood smears")
    arguments = ["--parts", "bccd", "--folder", str(folder), "--images", "2", "--output", str(tmp_path)]
    scripts("measure_experts").main(arguments)
    (found,) = json.loads((tmp_path / "experts.json").read_text()).values()
    assert found["images"] == 2
    assert (found["WBC: boxes"], found["Platelets: boxes"], found["Platelets: recall"]) == (2, 0, None)
    assert f"{'Platelets: recall':<42}{'-':>10}" in capsys.readouterr().out


def test_blood_smears_without_their_folder_are_refused(scripts, capsys):
    with pytest.raises(SystemExit):
        scripts("measure_experts").main(["--parts", "bccd"])
    assert "needs --folder" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="needs --folder"):
        scripts("train_expert").main(["--data", "bccd", "--output", "nowhere"])


@pytest.mark.slow
def test_paths_over_the_network_find_the_lesion_and_random_boxes_do_not(scripts, tmp_path):
    scripts("measure_experts").main(["--questions", "200", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "experts.json").read_text())
    network, control = (found[f"phantom, paths over {name}"] for name in ("network", "random boxes"))
    assert network["paths that find it"] >= 85
    assert network["items of which a path finds it"] >= 85
    assert network["kept paths answered right"] == 100
    shows = "the same with looks up to 128 px"  # a random look of half the image holds much and shows nothing
    assert network[shows] >= 85
    assert control[shows] <= 40


@pytest.mark.slow
def test_a_network_trained_on_blood_smears_finds_white_cells(scripts, tmp_path, data_root):
    folder, expert = str(data_root / "bccd"), str(tmp_path / "expert")
    scripts("train_expert").main(["--data", "bccd", "--folder", folder, "--output", expert, "--steps", "600"])
    arguments = ["--parts", "bccd", "--folder", folder, "--bccd-expert", expert, "--output", str(tmp_path)]
    scripts("measure_experts").main(arguments)
    assert json.loads((tmp_path / "experts.json").read_text())["bccd, network"]["WBC: recall"] >= 90
