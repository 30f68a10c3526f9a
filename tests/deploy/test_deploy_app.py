"""From a DICOM folder to a folder of results: choice of series, answers, errors, equality with the bundle."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

pytest.importorskip("highdicom", reason="needs the extra deploy")

from deploy_cases import ASKED, BUNDLE, answers_of_bundle, phantoms, plainly, radiograph, study
from policies import LookingPolicy

from medeyes_monai.deploy.__main__ import main
from medeyes_monai.deploy.model import find_bundle, load_bundle
from medeyes_monai.deploy.pipeline import answer_image, answer_study, write_study
from medeyes_monai.deploy.questions import Question, read_questions
from medeyes_monai.deploy.study import choose_series, read_study
from medeyes_monai.errors import ConfigError, UnreadableImageError
from medeyes_monai.geometry import Box, to_world
from medeyes_monai.io import read_volume

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model():
    """The bundle with its own policy, which reads pictures."""
    return load_bundle(BUNDLE, device="cpu")


def test_the_app_and_the_bundle_give_the_same_answers_and_boxes(tmp_path, model):
    folder = phantoms(tmp_path / "in")
    (answered,) = answer_study(model, folder, [Question(ASKED, slices="each")])
    theirs = answers_of_bundle(folder, tmp_path / "out")
    assert plainly(answered.results) == theirs
    assert all(result.answer for result in answered.results)
    assert any(result.looks for result in answered.results)
    assert all(0 < result.confidence <= 1 for result in answered.results)


def test_the_command_writes_all_results_or_says_in_one_line_why_not(tmp_path, capsys):
    folder = phantoms(tmp_path / "in", number=1)
    words = ["-m", str(BUNDLE), "--question", ASKED, "--set", "device=cpu"]
    assert main(["-i", str(folder), "-o", str(tmp_path / "out"), *words]) == 0
    printed = capsys.readouterr().out.split()
    names = {Path(line).name for line in printed}
    assert names >= {"results.json", "report.pdf", "sr.dcm", "pdf.dcm"}
    assert all(Path(line).is_file() for line in printed)
    (folder / "again.dcm").write_bytes((folder / "000.dcm").read_bytes())
    assert main(["-i", str(folder), "-o", str(tmp_path / "b"), *words]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert "at places that another slice has" in said
    assert not (tmp_path / "b").exists()
    assert main(["-o", "x", *words]) == 2
    assert "HOLOSCAN_INPUT_PATH" in capsys.readouterr().err


@pytest.mark.parametrize("seed", [1, 2])
def test_a_model_of_volumes_answers_about_the_whole_series(tmp_path, checkpoints, seed):
    axes = [np.eye(3)[:2], np.array([[0.0, 1, 0], [0, 0, -1]])][seed - 1]
    folder = study(tmp_path / "in", shape=(40, 36, 20), seed=seed, axes=axes, spacing=(1.0, 1.0, 2.0))
    policy = checkpoints["qwen3_vl"]
    overlay = tmp_path / "volume.yaml"
    overlay.write_text("scene::_target_: medeyes_monai.scenes.VolumeScene\nscene::min_extent: 8\n")
    model = load_bundle(BUNDLE, overlays=[overlay], policy_path=str(policy), device="cpu", max_turn_tokens=8)
    looking = VolumeLooker(policy)
    model = type(model)(looking, model.scene, model.inferer, model.reads_volumes)
    (answered,) = answer_study(model, folder, [Question(ASKED)])
    (result,) = answered.results
    assert (result.slice_index, result.answer) == (None, "solid")
    (look,) = result.looks
    scene = model.scene(read_volume(answered.source.paths), key="a", findings=())
    box = looking.asked.scale(looking.frame(scene), scene.shape).clip(scene.shape)
    theirs = np.sort(
        np.array([to_world(corner, np.asarray(scene.image.affine)) for corner in (box.start, box.stop)]),
        axis=0,
    )
    ours = np.sort(np.array(look.corners_mm(result.grid)), axis=0)
    assert np.abs(theirs - ours).max() < 0.01
    assert result.focused == (look.box,)


class VolumeLooker(LookingPolicy):
    """Looks once at a place in a volume, then answers."""

    def decode(self, token_ids):
        """Read the first turn as a look and the next as an answer."""
        self.asked = Box((4, 6, 5), (20, 24, 12))
        self.turn = getattr(self, "turn", 0) + 1
        if self.turn % 2:
            box = list(self.asked.corners)
            return f'<reasoning>so</reasoning><action>{{"name":"Gaze","coordinate":{box}}}</action>'
        return "<reasoning>so</reasoning><answer>solid</answer>"


def test_a_picture_that_is_not_dicom_is_answered_without_millimetres(model):
    (result,) = answer_image(model, BUNDLE / "docs" / "example.png", Question(ASKED))
    assert (result.grid.placed, result.slice_index) == (False, 0)
    assert result.answer


def test_a_radiograph_is_answered_by_a_model_of_pictures_alone(tmp_path, model):
    radiograph(tmp_path / "in")
    (answered,) = answer_study(model, tmp_path / "in", [Question(ASKED)])
    assert (answered.source.grid.placed, answered.results[0].slice_index) == (False, 0)
    with pytest.raises(ConfigError, match="reads volumes, and this is a radiograph"):
        answer_study(replace(model, reads_volumes=True), tmp_path / "in", [Question(ASKED)])


def test_a_rule_chooses_its_series_and_a_study_may_lie_in_folders(tmp_path):
    (tmp_path / "a").mkdir()
    study(tmp_path / "a" / "one", Modality="CT", SeriesDescription="Thorax 1.0", seed=1)
    study(tmp_path / "a" / "two", Modality="MR", SeriesDescription="T1", seed=2)
    (tmp_path / "notes.txt").write_text("nothing")
    found = read_study(tmp_path)
    assert len(found) == 2
    ct = choose_series(found, Question("a", series={"Modality": "^CT$", "SeriesDescription": "(?i)thorax"}))
    assert {path.parent.name for path in ct.files} == {"one"}
    with pytest.raises(ConfigError, match="none of 2 series fits its rule about Modality"):
        choose_series(found, Question("a", series={"Modality": "US"}))
    with pytest.raises(ConfigError, match=r"2 of 2 series \(with 6, 6 files\) fit"):
        choose_series(found, Question("a"))


def test_messages_about_series_hold_no_values_of_their_headers(tmp_path):
    study(tmp_path / "in", PatientName="Somebody^Known", SeriesDescription="Secret words", PatientID="4711")
    found = read_study(tmp_path)
    with pytest.raises(ConfigError) as caught:
        choose_series(found * 2, Question("a", series={"SeriesDescription": "Secret"}))
    assert not any(secret in str(caught.value) for secret in ("Secret", "Somebody", "4711"))


def test_objects_without_pixels_are_passed_over(tmp_path):
    folder = study(tmp_path / "in")
    report = pydicom.dcmread(sorted(folder.iterdir())[0])
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    report.Modality, report.SeriesInstanceUID = "SR", "1.2.9"
    report.save_as(folder / "sr.dcm")
    assert [len(one.files) for one in read_study(folder)] == [6]
    for file in folder.glob("0*"):
        file.unlink()
    with pytest.raises(UnreadableImageError, match="holds no DICOM image"):
        read_study(folder)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- {question: a, serie: {Modality: CT}}", "question 1: unknown key 'serie'; did you mean 'series'"),
        ("- {question: a, series: {PatientName: x}}", "'PatientName' is none of these"),
        ("- {question: a, series: {Modality: '('}}", "not a regular expression"),
        ("- {question: a, slices: last}", "slices are 'middle', 'each' or numbers"),
        ("- {question: a, slices: [-1]}", "numbers from 0"),
        ("- {question: a, options: [yes, no]}", "put yes and no in quotes"),
        ("- {question: ''}", "needs words"),
        ("- {question: a, name: x}\n- {question: b, name: x}", "'x' is given twice"),
        ("question: a", "has to be a list"),
        ("- [", "neither JSON nor YAML"),
    ],
)
def test_a_list_of_questions_that_is_wrong_is_refused(tmp_path, text, why):
    (tmp_path / "q.yaml").write_text(text)
    with pytest.raises(ConfigError, match=why):
        read_questions(tmp_path / "q.yaml")


def test_questions_may_be_json_and_those_of_the_app_can_be_read(tmp_path):
    (tmp_path / "q.json").write_text('[{"question": "a", "slices": [0, 2], "options": ["b"]}]')
    (question,) = read_questions(tmp_path / "q.json")
    assert (question.name, question.slices, question.options) == ("question 1", (0, 2), ("b",))
    assert question.chosen(3) == [0, 2]
    with pytest.raises(ConfigError, match="slice 2 is asked for, and the series has 2"):
        question.chosen(2)
    assert read_questions(ROOT / "medeyes_monai" / "deploy" / "app" / "questions.yaml")[0].name == "kind"


def test_a_trained_policy_takes_the_place_of_the_bundles_own(tmp_path, checkpoints):
    shutil.copytree(BUNDLE / "configs", tmp_path / "models" / "mine" / "configs")
    shutil.copytree(checkpoints["qwen2_5_vl"], tmp_path / "models" / "mine" / "models" / "tiny_policy")
    found = find_bundle(tmp_path / "models")
    assert found == tmp_path / "models" / "mine"
    assert find_bundle(found) == found
    assert load_bundle(found, device="cpu").policy.core.config.model_type == "qwen2_5_vl"
    with pytest.raises(ConfigError, match="has to be or to hold one bundle"):
        find_bundle(tmp_path)
    with pytest.raises(ConfigError, match="unknown key 'max_look'"):
        load_bundle(BUNDLE, max_look=3)


@pytest.mark.slow
@pytest.mark.parametrize("slices", [5, 120])
def test_a_series_is_answered_and_written_within_twenty_seconds_of_computing(tmp_path, model, slices):
    import resource
    import time

    folder = study(tmp_path / "in", shape=(512, 512, slices), spacing=(0.7, 0.7, 2.0))
    started = time.process_time()
    write_study(tmp_path / "out", answer_study(model, folder, [Question(ASKED)]))
    spent = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n{slices} slices: {spent:.1f} s of computing, peak {peak:.2f} GiB")
    assert spent < 20
    assert peak < 3
