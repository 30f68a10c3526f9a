"""Every kind of bad input through the command: one clear line, an exit code, nothing left, no value told."""

import re

import pydicom
import pytest

pytest.importorskip("highdicom", reason="needs the extra deploy")

from deploy_cases import ASKED, BUNDLE, result_about, source_of, study

from medeyes_monai.deploy.__main__ import main
from medeyes_monai.deploy.model import load_bundle
from medeyes_monai.deploy.pipeline import Answered, write_study
from medeyes_monai.errors import ConfigError

SECRETS = ("Somebody", "Known", "4711", "Secret")
QUESTIONS = f"- question: {ASKED}\n  series: {{Modality: CT}}\n"


@pytest.fixture(scope="module")
def model():
    return load_bundle(BUNDLE, device="cpu")


def changed(**values):
    """Change or remove tags of each file."""

    def change(folder):
        for file in folder.iterdir():
            data = pydicom.dcmread(file)
            for name, value in values.items():
                delattr(data, name) if value is None else setattr(data, name, value)
            data.save_as(file)

    return change


def other_modality(folder):
    changed(Modality="MR")(folder)


def second_series(folder):
    study(folder / "more", PatientName="Somebody^Known", PatientID="4711", seed=1)


def cut(folder):
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:-50])


def emptied(folder):
    for file in folder.iterdir():
        file.unlink()


def gone(folder):
    emptied(folder)
    folder.rmdir()


BAD = {
    "no series": (other_modality, "none of 1 series fits its rule about Modality"),
    "two series": (second_series, r"2 of 2 series \(with 6, 6 files\) fit"),
    "no spacing": (changed(PixelSpacing=None), "no PixelSpacing"),
    "no orientation": (changed(ImageOrientationPatient=None), "no ImageOrientationPatient"),
    "no position": (changed(ImagePositionPatient=None), "no ImagePositionPatient"),
    "no frame of reference": (changed(FrameOfReferenceUID=None), "no FrameOfReferenceUID"),
    "no study": (changed(StudyInstanceUID=None), "without StudyInstanceUID"),
    "no series instance": (changed(SeriesInstanceUID=None), "without SeriesInstanceUID"),
    "no class": (changed(SOPClassUID=None), "without SOPClassUID"),
    "secondary capture": (changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "secondary capture"),
    "captures of colour": (changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.7.4"), "secondary capture"),
    "ten gigabytes": (changed(Rows=50000, Columns=50000, NumberOfFrames=2), "above"),
    "cut short": (cut, "cannot be read"),
    "empty": (emptied, "holds no DICOM image"),
    "gone": (gone, "no such folder"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_ends_with_one_line_an_exit_code_and_nothing_left(
    tmp_path, model, monkeypatch, capsys, kind
):
    spoil, why = BAD[kind]
    folder = study(
        tmp_path / "in", PatientName="Somebody^Known", PatientID="4711", SeriesDescription="Secret"
    )
    spoil(folder)
    (tmp_path / "q.yaml").write_text(QUESTIONS)
    monkeypatch.setattr("medeyes_monai.deploy.model.load_bundle", lambda *_, **__: model)
    words = ["-m", str(BUNDLE), "--questions", str(tmp_path / "q.yaml")]
    before = sorted(tmp_path.iterdir())
    assert main(["-i", str(folder), "-o", str(tmp_path / "out"), *words]) == 2
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("error: ")
    assert re.search(why, line), line
    assert not any(secret in told.out + told.err for secret in SECRETS)
    assert sorted(tmp_path.iterdir()) == before


def test_a_wrong_question_or_a_full_output_folder_ends_the_same_way(tmp_path, model, monkeypatch, capsys):
    folder = study(tmp_path / "in")
    (tmp_path / "q.yaml").write_text("- {question: a, serie: {Modality: CT}}\n")
    monkeypatch.setattr("medeyes_monai.deploy.model.load_bundle", lambda *_, **__: model)
    words = ["-i", str(folder), "-o", str(tmp_path / "out"), "-m", str(BUNDLE)]
    assert main([*words, "--questions", str(tmp_path / "q.yaml")]) == 2
    assert "unknown key 'serie'; did you mean 'series'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "out" / "series_1").mkdir(parents=True)
    (tmp_path / "out" / "series_1" / "mine").touch()
    assert main([*words, "--question", ASKED]) == 2
    assert "holds something already" in capsys.readouterr().err
    (tmp_path / "file").touch()
    words[3] = str(tmp_path / "file" / "out")
    assert main([*words, "--question", ASKED]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_of_several_series_all_are_written_or_none(tmp_path):
    one = source_of(study(tmp_path / "in", shape=(8, 8, 2)))
    answered = [Answered(one, (result_about(one.grid),))] * 2
    (tmp_path / "out" / "series_2").mkdir(parents=True)
    (tmp_path / "out" / "series_2" / "mine").touch()
    with pytest.raises(ConfigError, match="holds something already"):
        write_study(tmp_path / "out", answered)
    assert [path.name for path in tmp_path.joinpath("out").rglob("*")] == ["series_2", "mine"]
    (tmp_path / "out" / "series_2" / "mine").unlink()
    assert len(write_study(tmp_path / "out", answered)) == 2 * 4
