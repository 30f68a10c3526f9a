"""SR, SEG, PDF and JSON of answers: read again by other tools, in the right place, without new identity."""

import io
import json
import shutil
import subprocess

import numpy as np
import pydicom
import pytest

hd = pytest.importorskip("highdicom", reason="needs the extra deploy")

from deploy_cases import radiograph, random_box, result_about, source_of, study, turned  # noqa: E402
from dicom_series import enhanced, save, series  # noqa: E402

from medeyes_monai.deploy.codes import NOTICE  # noqa: E402
from medeyes_monai.deploy.pages import MOST_PAGES, pdf_of  # noqa: E402
from medeyes_monai.deploy.result import Grid, mask_of, on_grid  # noqa: E402
from medeyes_monai.deploy.source import read_source, read_sources  # noqa: E402
from medeyes_monai.deploy.writers import contents_of, write_results  # noqa: E402
from medeyes_monai.errors import ConfigError, GeometryError, UnreadableImageError  # noqa: E402
from medeyes_monai.geometry import Box  # noqa: E402

MM = 0.01
SHAPE = (12, 10, 6)
LPS = np.array([-1.0, -1.0, 1.0])
ORIENTATIONS = [pytest.param(n, marks=pytest.mark.slow) if n % 18 else n for n in range(36)]


def written(tmp_path, *, seed=0, boxes=None, **values):
    """Write the results about a study; return the source, the results and the objects by name."""
    tmp_path.mkdir(exist_ok=True)
    source = source_of(study(tmp_path / "in", seed=seed, **values))
    if boxes is None:
        boxes = [random_box(source.grid.shape, seed, planar=planar) for planar in (True, False)]
    result = result_about(source.grid, *boxes)
    files = write_results(tmp_path / "out", [result], source)
    objects = {file.stem: pydicom.dcmread(file) for file in files if file.suffix == ".dcm"}
    return source, result, objects


def groups_of(report):
    """The measurement groups of looks: planar ones and volumetric ones."""
    content = hd.sr.Comprehensive3DSR.from_dataset(report).content
    planar = content.get_planar_roi_measurement_groups()
    return planar, content.get_volumetric_roi_measurement_groups()


def sizes_of(group):
    return {m.name.meaning: m.value for m in group.get_measurements()}


TOOLS = {"dcmdump": ["-q"], "dciodvfy": [], "dsrdump": []}
"""Tools of others (Debian: dcmtk, dicom3tools); absent ones are left out, and a skipped test says so."""


def is_clean(file):
    """Whether the tools of others that are there read a file and find no error in it."""
    for tool, options in TOOLS.items():
        if shutil.which(tool) is None or (tool == "dsrdump" and file.stem != "sr"):
            continue
        done = subprocess.run([tool, *options, str(file)], capture_output=True, text=True)  # noqa: S603
        said = done.stdout + done.stderr
        lines = [line for line in said.splitlines() if line.startswith(("Error", "E:"))]
        if done.returncode or lines:
            pytest.fail(f"{tool} on {file.name}: {lines or said[:500]}")
    return True


@pytest.mark.parametrize("tool", TOOLS)
def test_objects_are_read_again_by_a_tool_of_others(tmp_path, tool):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (Debian: dcmtk, dicom3tools)")
    written(tmp_path)
    assert is_clean(tmp_path / "out" / "sr.dcm")
    wrong = pydicom.dcmread(tmp_path / "out" / "sr.dcm")
    del wrong.ContentSequence, wrong.ValueType, wrong.ConceptNameCodeSequence
    wrong.save_as(tmp_path / "sr.dcm")
    if tool != "dcmdump":
        with pytest.raises(pytest.fail.Exception):
            is_clean(tmp_path / "sr.dcm")


@pytest.mark.parametrize("seed", ORIENTATIONS)
def test_looks_lie_in_the_objects_where_they_lie_in_the_volume(tmp_path, seed):
    source, result, objects = written(tmp_path, seed=seed, axes=turned(seed))
    for name in ("sr", "seg", "pdf"):
        assert is_clean(tmp_path / "out" / f"{name}.dcm")
    (flat,), (solid,) = groups_of(objects["sr"])
    first, second = result.looks

    # on its image: pixel edges through the header of that very image, read anew
    region = flat.roi
    instance = region.ContentSequence[0].referenced_sop_instance_uid
    image = next(d for d in map(pydicom.dcmread, source.paths) if instance == d.SOPInstanceUID)
    along = np.reshape(np.float64(image.ImageOrientationPatient), (2, 3))
    across, down = np.float64(image.PixelSpacing)[::-1]
    x, y = (region.value - 0.5).T
    points = (
        np.float64(image.ImagePositionPatient) + np.outer(x * across, along[0]) + np.outer(y * down, along[1])
    )
    half = np.cross(*along) * source.grid.spacing_mm[2] / 2
    ours = np.array(first.corners_mm(source.grid)) * LPS + [half, -half]
    assert np.abs(points[[0, 2]] - ours).max() < MM

    # in the patient: the planes through the middle of the first and the last slice
    polygons = solid.roi.graphic_data
    ours = np.array(second.corners_mm(source.grid)) * LPS + [half, -half]
    ends = sorted([polygons[0], polygons[-1]], key=lambda p: float(p[0] @ half))
    assert np.abs(np.array([ends[0][0], ends[1][2]]) - ours).max() < MM
    assert len(polygons) == second.box.extent[2]

    for group, look in ((flat, first), (solid, second)):
        wide, high, deep = look.extent_mm(source.grid)
        want = {"Width": wide, "Height": high}
        want |= {"Area": wide * high} if look.is_planar else {"Depth": deep, "Volume": wide * high * deep}
        assert sizes_of(group) == pytest.approx(want, abs=MM)

    # the segmentation: the same voxels in the world
    volume = hd.seg.Segmentation.from_dataset(objects["seg"]).get_volume(combine_segments=True)
    affine = np.diag([*LPS, 1.0]) @ volume.affine
    where = np.argwhere(volume.array) @ affine[:3, :3].T + affine[:3, 3]
    ours = np.argwhere(result.focus) @ source.grid.affine[:3, :3].T + source.grid.affine[:3, 3]
    assert len(where) == len(ours) == second.box.size
    order = [np.lexsort(points.round(1).T) for points in (where, ours)]
    assert np.abs(where[order[0]] - ours[order[1]]).max() < MM


def test_objects_belong_to_the_study_and_name_the_images_that_they_are_about(tmp_path):
    source, _, objects = written(tmp_path, boxes=[Box((1, 2, 3), (4, 6, 4)), Box((1, 2, 2), (4, 6, 5))])
    header = source.headers[0]
    assert sorted(objects) == ["pdf", "seg", "sr"]
    series_uids = {dataset.SeriesInstanceUID for dataset in objects.values()}
    assert len(series_uids | {header.SeriesInstanceUID}) == 4
    assert {dataset.StudyInstanceUID for dataset in objects.values()} == {header.StudyInstanceUID}
    instances = [h.SOPInstanceUID for h in source.headers]
    assert objects["seg"].FrameOfReferenceUID == header.FrameOfReferenceUID
    (flat,), (solid,) = groups_of(objects["sr"])
    assert flat.roi.ContentSequence[0].referenced_sop_instance_uid == instances[3]
    assert solid.roi.frame_of_reference_uid == header.FrameOfReferenceUID
    named = {image.referenced_sop_instance_uid for image in solid.roi.source_images_for_segmentation}
    assert named == set(instances[2:5])
    frames = objects["seg"].PerFrameFunctionalGroupsSequence
    places = {h.SOPInstanceUID: h.ImagePositionPatient for h in source.headers}
    of_frames = {
        f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID: f.PlanePositionSequence[
            0
        ].ImagePositionPatient
        for f in frames
    }
    assert of_frames == {uid: pytest.approx(list(places[uid]), abs=MM) for uid in instances[2:5]}
    assert {i.ReferencedSOPInstanceUID for i in objects["pdf"].SourceInstanceSequence} == set(instances)


def test_the_report_says_question_answer_certainty_and_what_it_is(tmp_path):
    _, _, objects = written(tmp_path)
    report = objects["sr"]
    texts = {
        item.ConceptNameCodeSequence[0].CodeMeaning: item.TextValue
        for item in report.ContentSequence[-1].ContentSequence
    }
    assert texts["Question asked of the model"] == "Which kind is it?"
    assert (texts["Finding"], texts["Comment"]) == ("solid", NOTICE)
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.CompletionFlag, report.VerificationFlag) == ("PARTIAL", "UNVERIFIED")
    assert all("not for clinical use" in dataset.SeriesDescription for dataset in objects.values())
    content = hd.sr.Comprehensive3DSR.from_dataset(report).content
    (answer,) = content.get_image_measurement_groups()
    assert sizes_of(answer) == {"Certainty of Finding": 75.0}
    assert "medeyes_monai" in str(answer[0].ContentSequence)


def test_what_was_de_identified_stays_so(tmp_path):
    removed = {"PatientIdentityRemoved": "YES", "DeidentificationMethod": "by hand", "PatientID": ""}
    _, _, objects = written(tmp_path, **removed)
    for dataset in objects.values():
        assert (dataset.PatientIdentityRemoved, dataset.DeidentificationMethod) == ("YES", "by hand")
        people = [e for e in dataset.iterall() if e.VR == "PN" and str(e.value)]
        assert people == []
        assert not dataset.PatientID
        assert not dataset.PatientBirthDate
        assert "InstitutionName" not in dataset


@pytest.mark.parametrize(("charset", "name"), [("ISO_IR 100", "Müller^Jörg"), ("ISO_IR 192", "山田^太郎")])
def test_a_name_stays_in_the_headers_alone_and_readable(tmp_path, charset, name):
    _, _, objects = written(tmp_path, SpecificCharacterSet=charset, PatientName=name, PatientID="4711")
    assert {str(dataset.PatientName) for dataset in objects.values()} == {name}
    for file in ("results.json", "report.pdf"):
        content = (tmp_path / "out" / file).read_bytes()
        assert name.split("^")[0].encode() not in content
        assert b"4711" not in content
    if shutil.which("pdftotext"):
        command = ["pdftotext", str(tmp_path / "out" / "report.pdf"), "-"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
        assert "Which kind is it?" in text
        assert NOTICE in text
        assert "4711" not in text


@pytest.mark.parametrize(("tag", "side"), [("Laterality", "L"), ("ImageLaterality", "R")])
def test_the_side_is_the_one_that_the_header_says(tmp_path, tag, side):
    _, _, objects = written(tmp_path, BodyPartExamined="KNEE", **{tag: side})
    planar, solid = groups_of(objects["sr"])
    for group in (*planar, *solid):
        (site,) = group.finding_sites
        assert site.value.meaning == "Knee"
        assert site.laterality.meaning == {"L": "Left", "R": "Right"}[side]


def test_nothing_is_said_of_a_side_that_the_header_leaves_out(tmp_path):
    _, _, objects = written(tmp_path, BodyPartExamined="KNEE")
    assert groups_of(objects["sr"])[0][0].finding_sites[0].laterality is None
    _, _, objects = written(tmp_path / "b", BodyPartExamined="SOMEWHERE")
    assert groups_of(objects["sr"])[0][0].finding_sites == []


def test_without_a_look_there_is_a_report_and_no_segmentation(tmp_path):
    _, _, objects = written(tmp_path, boxes=[])
    assert sorted(objects) == ["pdf", "sr"]
    assert is_clean(tmp_path / "out" / "sr.dcm")


def test_a_pdf_of_many_results_ends_with_how_many_more_there_are(tmp_path):
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed (Debian: poppler-utils)")
    grid = Grid((8, 8, 1), np.eye(4))
    (tmp_path / "a.pdf").write_bytes(pdf_of([result_about(grid, pictures=())] * (MOST_PAGES + 2)))
    command = ["pdftotext", str(tmp_path / "a.pdf"), "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    assert text.count("Which kind is it?") == MOST_PAGES
    assert "2 more results stand in the structured report" in text


def test_json_holds_the_boxes_and_their_millimetres(tmp_path):
    source, result, _ = written(tmp_path)
    content = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    (said,) = content["results"]
    assert (said["answer"], said["confidence"], content["notice"]) == ("solid", 0.75, NOTICE)
    for look, ours in zip(said["looks"], result.looks, strict=True):
        assert (tuple(look["start"]), tuple(look["stop"])) == (ours.box.start, ours.box.stop)
        assert np.allclose(np.array(look["corners_mm"]) * LPS, ours.corners_mm(source.grid))
    assert said["looks"][0]["instances"] == [source.headers[result.looks[0].box.start[2]].SOPInstanceUID]


def test_frames_of_one_file_are_named_by_their_numbers(tmp_path):
    values = {"StudyInstanceUID": "1.2.4", "FrameOfReferenceUID": "1.2.5", "Modality": "CT", "PatientID": "a"}
    voxels = np.zeros(SHAPE, np.int16)
    whole = enhanced(series(voxels, axes=turned(30), spacing=(0.5, 0.75, 2.0)))
    for name, value in values.items():
        setattr(whole, name, value)
    source = source_of(save(tmp_path / "in", [whole]))
    result = result_about(source.grid, Box((1, 1, 2), (5, 5, 3)), Box((1, 1, 1), (5, 5, 4)))
    files = contents_of([result], source)
    report = pydicom.dcmread(io.BytesIO(files["sr.dcm"]))
    (flat,), _ = groups_of(report)
    assert flat.roi.ContentSequence[0].referenced_frame_numbers == [source.frames[2].number + 1]
    assert "seg.dcm" in files


def test_a_radiograph_is_reported_in_pixels_and_without_a_segmentation(tmp_path):
    file = radiograph(tmp_path / "in")
    (source,) = read_sources([file])
    result = result_about(source.grid, Box((3, 4, 0), (20, 14, 1)), slice_index=0)
    files = write_results(tmp_path / "out", [result], source)
    assert [path.name for path in files] == ["pdf.dcm", "report.pdf", "results.json", "sr.dcm"]
    assert is_clean(tmp_path / "out" / "sr.dcm")
    assert is_clean(tmp_path / "out" / "pdf.dcm")
    (flat,), () = groups_of(pydicom.dcmread(tmp_path / "out" / "sr.dcm"))
    assert flat.roi.value[0].tolist() == [3, 4]
    assert flat.roi.value[2].tolist() == [20, 14]
    assert flat.get_measurements() == []
    assert flat.finding_sites[0].value.meaning == "Chest"
    content = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    assert content["frame_of_reference"] is content["results"][0]["spacing_mm"] is None
    assert "corners_mm" not in content["results"][0]["looks"][0]


def test_radiographs_of_a_series_are_taken_one_by_one(tmp_path):
    files = [radiograph(tmp_path / name) for name in ("a", "b")]
    assert [source.paths for source in read_sources(files)] == [[file] for file in files]
    volume = sorted(study(tmp_path / "in").iterdir())
    assert [source.grid.shape for source in read_sources(volume)] == [SHAPE]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"FrameOfReferenceUID": ""}, "no FrameOfReferenceUID"),
        ({"StudyInstanceUID": ""}, "without StudyInstanceUID"),
        ({"ImagePositionPatient": None}, "no ImagePositionPatient"),
        ({"PixelSpacing": None}, "no PixelSpacing"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary capture"),
    ],
)
def test_a_series_that_results_could_not_refer_to_is_refused_without_its_values(tmp_path, values, why):
    folder = study(tmp_path / "in", PatientName="Somebody^Known", PatientID="4711")
    for file in sorted(folder.iterdir()):
        data = pydicom.dcmread(file)
        for name, value in values.items():
            setattr(data, name, value)
        data.save_as(file)
    with pytest.raises(UnreadableImageError, match=why) as caught:
        source_of(folder)
    assert not any(secret in str(caught.value) for secret in ("Somebody", "4711"))


def test_slices_of_two_coordinate_systems_are_no_volume(tmp_path):
    folder = study(tmp_path / "in")
    last = sorted(folder.iterdir())[-1]
    data = pydicom.dcmread(last)
    data.FrameOfReferenceUID = "1.2.3.4"
    data.save_as(last)
    with pytest.raises(UnreadableImageError, match="different values of FrameOfReferenceUID"):
        source_of(folder)


def test_results_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    source = source_of(study(tmp_path / "in"))
    result = result_about(source.grid, Box((1, 1, 1), (3, 3, 2)))
    with pytest.raises(ConfigError, match="no question was answered"):
        write_results(tmp_path / "none", [], source)
    write_results(tmp_path / "out", [result], source)
    with pytest.raises(ConfigError, match="holds something already"):
        write_results(tmp_path / "out", [result], source)

    def full(self, target):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_results(tmp_path / "other", [result], source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("seed", [0, 5, 17, 30])
def test_a_mask_on_turned_axes_comes_back_to_the_axes_of_the_series(seed):
    generator = np.random.default_rng(seed)
    order, flips = generator.permutation(3), generator.integers(0, 2, 3)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(generator.normal(size=(3, 3)))[0] * generator.uniform(0.5, 3, 3)
    affine[:3, 3] = generator.normal(size=3) * 100
    mask = generator.random((4, 5, 6)) > 0.5
    turned_mask = mask[tuple(slice(None, None, -1 if f else 1) for f in flips)].transpose(order)
    way = np.zeros((4, 4))  # from voxels of the turned mask to those of the series
    way[3, 3] = 1
    for axis, source in enumerate(order):
        way[source, axis] = -1 if flips[source] else 1
        way[source, 3] = mask.shape[source] - 1 if flips[source] else 0
    grid = Grid(mask.shape, affine)
    assert (on_grid(turned_mask, affine @ way, grid) == mask).all()
    with pytest.raises(GeometryError, match="another grid"):
        on_grid(turned_mask, affine @ way @ np.diag([1.1, 1, 1, 1]), grid)


def test_what_lies_outside_the_series_is_no_result():
    grid = Grid((4, 4, 2), np.eye(4))
    for wrong in (
        {"looks": result_about(Grid((9, 9, 9), np.eye(4)), Box((1, 1, 1), (8, 8, 8))).looks},
        {"focus": mask_of(Box((0, 0, 0), (1, 1, 1)), Grid((4, 4, 3), np.eye(4)))},
        {"slice_index": 2},
    ):
        values = {"name": "a", "question": "b", "answer": "c", "confidence": 1.0, "grid": grid} | wrong
        with pytest.raises(GeometryError):
            type(result_about(grid))(**values)


def test_files_of_no_series_are_refused():
    with pytest.raises(UnreadableImageError, match="at least one file"):
        read_source([])
