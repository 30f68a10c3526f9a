"""Question sets about volumes, in their own layouts: references, tolerance, options, regions and groups."""

import json
from dataclasses import replace

import pytest

from medeyes_monai.data.catalogue import open_release
from medeyes_monai.data.datalist import DatalistVQA
from medeyes_monai.data.prepare import prepare
from medeyes_monai.data.prepared import PreparedVQA
from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.scoring import answers_match
from medeyes_monai.scenes import VolumeScene


def rows_of(folder, split):
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture
def tumours(fixtures, tmp_path):
    """The layout of DeepTumorVQA 2.0."""
    fixtures.deep_tumor_vqa(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def chests(fixtures, tmp_path):
    """The layout of CSV files over CT-RATE."""
    fixtures.ct_questions(tmp_path / "source")
    return tmp_path / "source"


def test_a_number_of_deep_tumor_vqa_is_right_within_a_tenth_or_the_band_that_is_set(tumours, tmp_path):
    for band in (0.1, 0.05):
        target = tmp_path / str(band)
        prepare(open_release("deep_tumor_vqa", tumours, tolerance=band), "deep_tumor_vqa", target, quiet=True)
        case = PreparedVQA(target, "test", scene=VolumeScene)[1]
        assert (case.family, case.scoring, case.answer) == ("measurement", "numeric", "1420.5")
        edge = 1420.5 * (1 + band)
        assert answers_match(f"{edge - 0.01:.2f}", case)
        assert answers_match("1420.5 cm3", replace(case, answer="1420.5 cm3"))
        assert not answers_match(f"{edge + 0.1:.1f}", case)


def test_deep_tumor_vqa_has_its_stages_and_leaves_sex_and_age_out(tumours, tmp_path):
    done = prepare(open_release("deep_tumor_vqa", tumours), "deep_tumor_vqa", tmp_path / "out", quiet=True)
    rows = rows_of(done.folder, "test")
    assert [row["family"] for row in rows] == [
        "recognition",
        "measurement",
        "visual reasoning",
        "medical reasoning",
    ]
    assert [row["scoring"] for row in rows] == ["closed", "numeric", "exact", "exact"]
    assert rows[0]["metadata"]["question_subtype"] == "liver lesion existence"
    assert not {"sex", "age"} & set(rows[0]["metadata"])
    assert any("10,000" in warning or "10000" in warning for warning in done.warnings)


def test_the_multiple_choice_form_has_the_options_of_the_question_and_its_letter(tumours, tmp_path):
    release = open_release("deep_tumor_vqa", tumours, form="choice")
    prepare(release, "deep_tumor_vqa", tmp_path / "out", quiet=True)
    row = rows_of(tmp_path / "out", "test")[3]
    assert row["question"] == "How would you grade the spleen?"
    assert row["options"] == ["Mild", "Normal (no splenomegaly)", "Moderate", "Severe"]
    assert row["answer"] == "Normal (no splenomegaly)"
    case = PreparedVQA(tmp_path / "out", "test", scene=VolumeScene)[3]
    assert answers_match("B", case)
    assert not answers_match("A", case)


def test_volumes_are_linked_and_named_after_their_study(tumours, tmp_path):
    prepare(open_release("deep_tumor_vqa", tumours), "deep_tumor_vqa", tmp_path / "out", quiet=True)
    rows = rows_of(tmp_path / "out", "test")
    assert {row["image"] for row in rows} == {"images/BDMAP_00000001.nii.gz", "images/BDMAP_00000002.nii.gz"}
    source = tumours / "benchmark" / "ct" / "BDMAP_00000001" / "ct.nii.gz"
    assert (tmp_path / "out" / rows[0]["image"]).samefile(source)
    again = prepare(open_release("deep_tumor_vqa", tumours), "deep_tumor_vqa", tmp_path / "out", quiet=True)
    assert again.was_done


@pytest.mark.parametrize("both", [False, True])
def test_volumes_that_lie_beside_each_other_are_found_and_come_before_folders(tumours, tmp_path, both):
    volumes = tumours / "benchmark" / "ct"
    for folder in sorted(volumes.iterdir()):
        (folder / "ct.nii.gz").rename(volumes / f"{folder.name}.nii.gz")
        if both:
            (folder / "ct.nii.gz").write_bytes(b"another")
    prepare(open_release("deep_tumor_vqa", tumours), "deep_tumor_vqa", tmp_path / "out", quiet=True)
    for row in rows_of(tmp_path / "out", "test"):
        name = row["image"].removeprefix("images/")
        assert (tmp_path / "out" / row["image"]).samefile(volumes / name)
    assert PreparedVQA(tmp_path / "out", "test", scene=VolumeScene)[0].scene.shape == (40, 36, 12)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("image_id", "../secret", "no name of a volume"),
        ("image_id", "BDMAP_00000009", "missing from"),
        ("question_type", "guessing", "wanted one of recognition"),
        ("answer", "large", "needs a number"),
    ],
)
def test_a_wrong_row_of_deep_tumor_vqa_is_named_with_what_is_wrong(tumours, tmp_path, key, value, said):
    file = tumours / "benchmark" / "test_qa.json"
    content = json.loads(file.read_text())
    content["questions"][1][key] = value
    file.write_text(json.dumps(content))
    with pytest.raises(Exception, match=rf"(?s)row 2.*{said}") as caught:
        prepare(open_release("deep_tumor_vqa", tumours), "deep_tumor_vqa", tmp_path / "out", quiet=True)
    assert type(caught.value).__name__ in ("ConfigError", "UnreadableImageError")


def test_settings_and_folders_that_do_not_fit_are_refused(tumours, chests, tmp_path):
    with pytest.raises(ConfigError, match=r"tolerance one of 0\.05"):
        open_release("deep_tumor_vqa", tumours, tolerance=0.3)
    with pytest.raises(ConfigError, match="neither"):
        open_release("deep_tumor_vqa", tmp_path)
    with pytest.raises(ConfigError, match="columns may name"):
        open_release("ct_questions", chests, columns={"picture": "a"})


def test_csv_questions_find_ct_rates_volumes_and_take_regions_from_the_disease_mask(chests, tmp_path):
    prepare(open_release("ct_questions", chests), "ct_questions", tmp_path / "out", quiet=True)
    train = rows_of(tmp_path / "out", "train")
    assert [row["scoring"] for row in train] == ["closed", "choice", "open"]
    assert train[1]["answer"] == "Right upper"
    assert {row["group"] for row in train} == {"train_1_a"}  # two reconstructions of one study
    assert train[0]["metadata"]["disease_mask"] == "train_1_a_1_nodule.nii.gz"
    assert "mask" not in train[2]
    cases = DatalistVQA(tmp_path / "out" / "train.jsonl", scene=VolumeScene)
    (finding,) = cases[0].scene.findings
    ball = cases[0].scene.image[0][finding.box.slices].float()
    assert ball.mean() > 40 > cases[0].scene.image.float().mean()
    assert cases[2].scene.findings == ()


def test_columns_of_other_names_are_read_when_they_are_named(chests, tmp_path):
    for name in ("train", "valid"):
        file = chests / f"{name}.csv"
        file.write_text(file.read_text().replace("volume,question", "Volumename,Q", 1))
    with pytest.raises(ConfigError, match="lacks the column 'volume'"):
        prepare(open_release("ct_questions", chests), "ct_questions", tmp_path / "a", quiet=True)
    named = open_release("ct_questions", chests, columns={"volume": "Volumename", "question": "Q"})
    prepare(named, "ct_questions", tmp_path / "b", quiet=True)
    assert len(rows_of(tmp_path / "b", "validation")) == 3
