"""SR, SEG, PDF and JSON of answers: read again by other tools, in the right place, without new identity."""

import io
import json
import shutil
import subprocess
import tracemalloc

import numpy as np
import pydicom
import pytest

hd = pytest.importorskip("highdicom", reason="needs the extra deploy")

from deploy_cases import (  # noqa: E402
    TOOLS,
    focus_of,
    is_clean,
    radiograph,
    random_box,
    result_about,
    source_of,
    study,
    turned,
)
from dicom_series import enhanced, save, series  # noqa: E402

from medeyes_monai.deploy.codes import NOTICE  # noqa: E402
from medeyes_monai.deploy.focus_seg import segmentation_of  # noqa: E402
from medeyes_monai.deploy.pages import MOST_PAGES, pdf_of  # noqa: E402
from medeyes_monai.deploy.result import Grid  # noqa: E402
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
    for name in ("sr", "seg", "pdf", "pr_1"):
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
    ours = np.argwhere(focus_of(result)) @ source.grid.affine[:3, :3].T + source.grid.affine[:3, 3]
    assert len(where) == len(ours) == second.box.size
    order = [np.lexsort(points.round(1).T) for points in (where, ours)]
    assert np.abs(where[order[0]] - ours[order[1]]).max() < MM


def test_objects_belong_to_the_study_and_name_the_images_that_they_are_about(tmp_path):
    source, _, objects = written(tmp_path, boxes=[Box((1, 2, 3), (4, 6, 4)), Box((1, 2, 2), (4, 6, 5))])
    header = source.headers[0]
    assert sorted(objects) == ["pdf", "pr_1", "seg", "sr"]
    series_uids = {dataset.SeriesInstanceUID for dataset in objects.values()}
    assert len(series_uids | {header.SeriesInstanceUID}) == 5
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


def drawn_on(state):
    """Outlines and labels by image, and the images under the notice."""
    drawn, noticed = {}, []
    for annotation in state.GraphicAnnotationSequence:
        images = [item.ReferencedSOPInstanceUID for item in annotation.ReferencedImageSequence]
        texts = [item.UnformattedTextValue for item in annotation.TextObjectSequence]
        if annotation.GraphicLayer == "NOTICE":
            noticed += images
            assert texts == [NOTICE]
            continue
        outlines = [
            np.reshape(item.GraphicData, (-1, 2)).tolist() for item in annotation.GraphicObjectSequence
        ]
        assert {item.GraphicAnnotationUnits for item in annotation.GraphicObjectSequence} == {"PIXEL"}
        drawn[images[0]] = dict(zip(texts, outlines, strict=True))
    return drawn, noticed


def test_the_path_is_drawn_on_each_image_that_it_lies_on(tmp_path):
    about = {"WindowCenter": [40, 60], "WindowWidth": [400, 300], "RescaleSlope": 2, "RescaleIntercept": -9}
    source, result, objects = written(tmp_path, PatientName="Somebody^Known", **about)
    state = objects["pr_1"]
    drawn, noticed = drawn_on(state)
    wanted = {}
    for order, look in enumerate(result.looks, start=1):
        (x1, y1, z1), (x2, y2, z2) = look.box.start, look.box.stop
        for k in range(z1, z2):
            outline = [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]
            wanted.setdefault(source.headers[k].SOPInstanceUID, {})[f"1.{order}"] = outline
    assert drawn == wanted
    assert sorted(noticed) == sorted(wanted)
    assert (state.RescaleSlope, state.RescaleIntercept, state.PresentationLUTShape) == (2, -9, "IDENTITY")
    assert state.SoftcopyVOILUTSequence[0].WindowWidth == 400  # a state has one window
    if shutil.which("dcmpschk"):  # wants a name, which the standard does not
        command = ["dcmpschk", str(tmp_path / "out" / "pr_1.dcm")]
        said = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
        assert "Test passed" in said.stdout + said.stderr


def test_images_that_are_shown_differently_get_states_of_their_own(tmp_path):
    folder = study(tmp_path / "in", PhotometricInterpretation="MONOCHROME1", WindowWidth=0, WindowCenter=4)
    for number, file in enumerate(sorted(folder.iterdir())):
        data = pydicom.dcmread(file)
        data.RescaleSlope, data.RescaleIntercept = 1 + number // 4, 0
        data.save_as(file)
    source = source_of(folder)
    files = write_results(tmp_path / "out", [result_about(source.grid, Box((1, 1, 2), (5, 5, 6)))], source)
    states = [file for file in files if file.name.startswith("pr_")]
    assert all(map(is_clean, states))
    first, second = map(pydicom.dcmread, states)
    assert (first.RescaleSlope, second.RescaleSlope) == (1, 2)
    assert (len(drawn_on(first)[0]), len(drawn_on(second)[0])) == (2, 2)
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)
    for state in (first, second):
        assert state.PresentationLUTShape == "INVERSE"
        assert "SoftcopyVOILUTSequence" not in state  # a window of no width is none


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
    segmentation = pydicom.dcmread(io.BytesIO(files["seg.dcm"]))
    told = {
        int(item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber): item
        for item in segmentation.PerFrameFunctionalGroupsSequence
    }
    wanted = {source.frames[k].number + 1: source.frames[k].position for k in (1, 2, 3)}
    assert told.keys() == wanted.keys()
    for number, item in told.items():
        assert np.allclose(item.PlanePositionSequence[0].ImagePositionPatient, wanted[number])
    assert "pr_1.dcm" not in files  # its rescaling may change from frame to frame


def test_memory_of_a_segmentation_goes_with_its_slices_and_not_with_the_number_of_results(tmp_path):
    source = source_of(study(tmp_path / "in", shape=(256, 256, 24)))
    results = [
        result_about(source.grid, Box((9, 9, k), (99, 80, k + 1)), slice_index=k, pictures=())
        for k in range(24)
    ]
    tracemalloc.start()
    segmentation = segmentation_of(source, results)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (segmentation.number_of_segments, segmentation.NumberOfFrames) == (1, 24)
    mask = 256 * 256 * 24
    assert peak < 12 * mask < len(results) * mask  # one mask for each result would take the latter


def test_a_radiograph_is_reported_in_pixels_and_without_a_segmentation(tmp_path):
    file = radiograph(tmp_path / "in")
    (source,) = read_sources([file])
    result = result_about(source.grid, Box((3, 4, 0), (20, 14, 1)), slice_index=0)
    files = write_results(tmp_path / "out", [result], source)
    assert [path.name for path in files] == ["pdf.dcm", "pr_1.dcm", "report.pdf", "results.json", "sr.dcm"]
    for name in ("sr", "pdf", "pr_1"):
        assert is_clean(tmp_path / "out" / f"{name}.dcm")
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


def test_what_lies_outside_the_series_is_no_result():
    grid = Grid((4, 4, 2), np.eye(4))
    for wrong in (
        {"looks": result_about(Grid((9, 9, 9), np.eye(4)), Box((1, 1, 1), (8, 8, 8))).looks},
        {"slice_index": 2},
    ):
        values = {"name": "a", "question": "b", "answer": "c", "confidence": 1.0, "grid": grid} | wrong
        with pytest.raises(GeometryError):
            type(result_about(grid))(**values)


def test_files_of_no_series_are_refused():
    with pytest.raises(UnreadableImageError, match="at least one file"):
        read_source([])
