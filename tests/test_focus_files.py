"""What leaves the package: maps, boxes, markups and JSON at the right place; pages; studies on disk."""

import itertools
import json
import tracemalloc
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pydicom.data import get_testdata_file
from searched import QUESTION, Counting, ball, oriented

from medeyes_monai.errors import GeometryError, UnreadableImageError
from medeyes_monai.experts import BlobExpert
from medeyes_monai.focus import Focus, Grid, read_markups, world_of, write_focus
from medeyes_monai.geometry import Box, to_world
from medeyes_monai.inferers import FocusInferer
from medeyes_monai.io import as_stored, open_volume, read_volume
from medeyes_monai.navigator import Navigator
from medeyes_monai.reports import write_focus_report
from medeyes_monai.reports.planes import draw_path, draw_planes
from medeyes_monai.scenes import Case, ImageScene, StreamedScene, VolumeScene
from medeyes_monai.trajectory import Fixation, Trajectory


def turned_affine(degrees=(20, -15, 10), spacing=(0.8, 1.1, 2.5)):
    """An oblique affine with right angles."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one, other = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[one, one] = turn[other, other] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix * spacing, (31.0, -12.5, 400.0)
    return affine


def found(image, looks=2):
    """Looks that get closer and closer."""
    closer = partial(Navigator, min_extent=2, delta=-1.0)
    return FocusInferer(Counting(), max_looks=looks, navigator=closer)(image, question=QUESTION)


@pytest.mark.parametrize("flips", [(), (0,), (1, 2)])
def test_markups_maps_and_json_come_back_to_the_same_place(tmp_path, flips):
    upright, box = ball()
    image = MetaTensor(upright.as_tensor(), affine=torch.as_tensor(turned_affine()))
    image, _ = oriented(image, box, (1, 0, 2), flips)
    focus = found(image)
    heat, numbers, markups, told = write_focus(focus, tmp_path, "case")
    affine = image.affine.numpy()

    rois = json.loads(markups.read_text())["markups"]
    assert {roi["coordinateSystem"] for roi in rois} == {"LPS"}
    for roi, there in zip(rois, focus.boxes, strict=True):
        axes = np.reshape(roi["orientation"], (3, 3))
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
        assert np.linalg.det(axes) == pytest.approx(1)
        lps = np.array([-1, -1, 1])
        corners = {tuple(np.round(lps * to_world(corner, affine), 3)) for corner in (there.start, there.stop)}
        half = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, -1).T * roi["size"]
        ends = roi["center"] + half @ axes.T
        assert all(np.linalg.norm(ends - corner, axis=1).min() < 0.01 for corner in corners)
    assert read_markups(markups, focus.grid) == focus.boxes

    loaded = nibabel.load(heat)
    np.testing.assert_allclose(loaded.affine, affine, atol=1e-4)
    assert np.array_equal(loaded.get_fdata(dtype=np.float32), focus.focus_map()[0].numpy())
    labelled = np.asarray(nibabel.load(numbers).dataobj)
    assert {*np.unique(labelled)} - {0} <= {1, 2}
    assert labelled[focus.boxes[-1].slices].max() >= 1

    content = json.loads(told.read_text())
    assert content["coordinate_system"] == "RAS"
    for look, there in zip(content["looks"], focus.boxes, strict=True):
        assert look["box"] == list(there.corners)
        np.testing.assert_allclose(look["centre_mm"], to_world(there.centre, affine), atol=0.01)
        np.testing.assert_allclose(look["corners_mm"][1], to_world(there.stop, affine), atol=0.01)


WAYS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


@pytest.mark.parametrize("as_scene", [False, True], ids=["volume", "scene"])
@pytest.mark.parametrize("codes", ["PIR", "LPS", "RAS", "IRP"])
def test_all_files_are_on_the_grid_of_the_file_that_was_read(tmp_path, codes, as_scene):
    voxels, box = np.full((40, 30, 20), -900, np.int16), Box((10, 5, 6), (18, 13, 12))
    voxels[box.slices] = 200
    affine = np.eye(4)
    affine[:3, :3] = np.array([WAYS[letter] for letter in codes]).T * (0.8, 1.1, 2.5)
    affine[:3, 3] = (31.0, -12.5, 400.0)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    focus = found(VolumeScene(volume, key="a") if as_scene else volume)
    heat, numbers, markups, told = write_focus(focus, tmp_path, "case")
    content = json.loads(told.read_text())
    for file in (heat, numbers):
        loaded = nibabel.load(file)
        assert loaded.shape == voxels.shape
        np.testing.assert_allclose(loaded.affine, affine, atol=1e-4)
    assert content["shape"] == list(voxels.shape)
    np.testing.assert_allclose(content["affine"], affine, atol=1e-6)

    values = nibabel.load(heat).get_fdata(dtype=np.float32)
    assert values[tuple(int(c) for c in box.centre)] > 0
    turned = focus.focus_map()
    back = as_stored(turned)
    assert turned.shape[1:] == focus.grid.shape
    assert np.array_equal(back[0].numpy(), values)
    np.testing.assert_allclose(back.affine, affine, atol=1e-6)

    grid = Grid(voxels.shape, affine)
    assert focus.boxes
    for look, there, handed in zip(content["looks"], read_markups(markups, grid), focus.boxes, strict=True):
        assert Box.from_corners(look["box"]) == there
        assert (values[there.slices] > 0).all()
        ends = eight(there, loaded.affine)
        for end in eight(handed, focus.grid.affine):
            assert np.linalg.norm(np.subtract(ends, end), axis=1).min() < 0.01
        np.testing.assert_allclose(look["centre_mm"], to_world(there.centre, affine), atol=0.01)
    page = write_focus_report(tmp_path, [focus], title="T").read_text()
    assert ", ".join(map(str, content["looks"][0]["box"])) in page


def eight(box, affine):
    """The corners of a box in millimetres."""
    return [to_world(corner, affine) for corner in itertools.product(*zip(box.start, box.stop, strict=True))]


def test_a_pictures_looks_are_a_volume_one_slice_thick(tmp_path):
    image = np.full((1, 200, 160), 40, np.uint8)
    image[:, 130:150, 40:60] = 250
    focus = FocusInferer(BlobExpert(), max_looks=1)(MetaTensor(image), question=QUESTION)
    heat, _, markups, _ = write_focus(focus, tmp_path)
    assert nibabel.load(heat).shape == (200, 160, 1)
    (roi,) = json.loads(markups.read_text())["markups"]
    assert roi["size"] == [*map(float, focus.boxes[0].extent), 1.0]
    assert read_markups(markups, focus.grid) == focus.boxes


def test_of_nested_looks_the_map_has_the_surer_and_the_labels_have_the_smaller(tmp_path):
    image = np.zeros((1, 90, 90), np.uint8)
    inner, outer = Box((10, 10), (20, 20)), Box((0, 0), (40, 40))
    path = Trajectory((Fixation("", inner, confidence=0.9), Fixation("", outer, confidence=0.4)))
    case = Case("q", ImageScene(image, key="a"), QUESTION)
    heat, numbers, *_ = write_focus(Focus(case, Grid.of(image), path, "max_steps", 0.0), tmp_path)
    values, labels = nibabel.load(heat).get_fdata(), np.asarray(nibabel.load(numbers).dataobj)
    assert np.allclose([values[15, 15, 0], values[30, 30, 0], values[50, 50, 0]], [0.9, 0.4, 0])
    assert [labels[15, 15, 0], labels[30, 30, 0], labels[50, 50, 0]] == [1, 2, 0]


class Empty:
    """A large study in which nothing is, on no disk."""

    shape, affine = (192, 192, 200), np.diag([-1.0, -1.0, 2.0, 1.0])

    def read(self, start, stop):
        affine = self.affine.copy()
        affine[2, 3] += 2.0 * start
        image = torch.zeros(1, 192, 192, stop - start, dtype=torch.int16)
        return MetaTensor(image, affine=torch.as_tensor(affine))


def test_the_files_of_a_study_larger_than_memory_are_packed_a_few_slices_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("medeyes_monai.focus.export.AT_ONCE", 7 * 192 * 192)
    scene = StreamedScene(Empty(), key="a", window="lung")
    looks = Box((20, 30, 60), (90, 70, 190)), Box((40, 40, 100), (60, 60, 120))
    path = Trajectory(tuple(Fixation("", box, confidence=0.25 * n) for n, box in enumerate(looks, start=1)))
    focus = Focus(Case("q", scene, QUESTION), Grid(scene.shape, scene.affine), path, "max_steps", seconds=0.0)
    tracemalloc.start()
    heat, numbers, _, told = write_focus(focus, tmp_path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * 2**20  # the map has 28 MiB
    assert json.loads(told.read_text()) == world_of(focus)
    values, labels = nibabel.load(heat), np.asarray(nibabel.load(numbers).dataobj)
    assert values.get_data_dtype() == np.float32
    assert np.array_equal(values.dataobj, focus.focus_map()[0].numpy())
    assert np.array_equal(labels > 0, np.asarray(values.dataobj) > 0)
    assert (labels[looks[1].slices] == 2).all()


def test_the_page_of_a_study_on_disk_has_the_planes_of_one_in_memory(tmp_path):
    volume, _ = ball()
    nibabel.save(nibabel.Nifti1Image(volume[0].numpy(), volume.affine.numpy()), tmp_path / "a.nii")
    window = {"window": (-400, 1200)}
    whole = VolumeScene(read_volume(tmp_path / "a.nii"), key="a", **window)
    streamed = StreamedScene(open_volume(tmp_path / "a.nii"), key="a", **window)
    (look,) = found(whole, 1).trajectory.boxes
    assert np.array_equal(draw_planes(streamed, look, 1), draw_planes(whole, look, 1))
    assert np.array_equal(draw_path(streamed, [look]), draw_path(whole, [look]))
    focus = found(streamed)
    page = write_focus_report(tmp_path, [focus], title="T").read_text()
    assert page.count('class="planes"') == 1 + len(focus.boxes)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"type": "Line"}, UnreadableImageError),
        ({"roiType": "Sphere"}, UnreadableImageError),
        ({"coordinateUnits": "cm"}, UnreadableImageError),
        ({"coordinateSystem": "IJK"}, UnreadableImageError),
        ({"size": [1, 1, float("nan")]}, UnreadableImageError),
        ({"size": [1, 1]}, UnreadableImageError),
        ({"center": [9999, 0, 0]}, GeometryError),
        ({"orientation": [0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, 1]}, GeometryError),
    ],
)
def test_markups_that_are_no_boxes_of_the_image_are_refused(tmp_path, change, error):
    volume, _ = ball()
    focus = found(volume, 1)
    *_, markups, _ = write_focus(focus, tmp_path)
    content = json.loads(markups.read_text())
    content["markups"][0] |= change
    markups.write_text(json.dumps(content))
    with pytest.raises(error, match=r"^focus\.mrk\.json: "):
        read_markups(markups, focus.grid)
    for text in ("", "[]", "{}", '{"markups": 7}', "[" * 9999):
        markups.write_text(text)
        with pytest.raises(UnreadableImageError):
            read_markups(markups, focus.grid)
    with pytest.raises(UnreadableImageError):
        read_markups(tmp_path / "missing.mrk.json", focus.grid)


def test_planes_show_a_box_where_the_volume_has_it():
    volume, _box = ball(shape=(60, 40, 50), box=((44, 4, 36), (52, 12, 46)))
    scene = VolumeScene(volume, key="a", window=(-400, 1200))
    focus = found(scene, 1)
    (look,) = focus.trajectory.boxes
    picture = draw_planes(scene, look, 1)
    orange = (picture == (0xE6, 0x9F, 0x00)).all(axis=2)
    assert orange.any()
    # the stored volume is RAS, so x of the scene runs the other way: the block at high x is the patient's
    # right and lies in the left half of the axial plane, front (low y of the scene) on top
    _rows, columns = np.nonzero(orange[:, : picture.shape[1] // 3])
    assert columns.mean() < 0.4 * picture.shape[1] / 3
    path = draw_path(scene, [look, look])
    assert path.shape[2] == 3
    with pytest.raises(GeometryError, match="inside the volume"):
        draw_path(scene, [Box((0, 0, 0), (99, 9, 9))])


def test_the_page_holds_planes_places_and_no_markup_of_the_model(tmp_path):
    volume, _ = ball()
    image = np.full((1, 200, 160), 40, np.uint8)
    image[:, 130:150, 40:60] = 250
    infer = FocusInferer(BlobExpert(min_extent=8), max_looks=2)
    focus = infer(volume, question="<script>alert(1)</script>")
    flat = infer(ImageScene(image, key="b"), question=QUESTION)
    page = write_focus_report(tmp_path, [focus, flat], title="T & T").read_text()
    assert "<script>" not in page
    assert page.count('class="planes"') == 1 + len(focus.boxes)
    assert page.count('class="crop"') == len(flat.boxes)
    x, y, z = focus.places[0].centre_mm
    assert f"{x:.1f}, {y:.1f}, {z:.1f}" in page


def test_pydicoms_own_ct_slices_are_searched_as_volumes():
    single = Path(get_testdata_file("CT_small.dcm"))
    series = single.parent / "dicomdirtests" / "98892001" / "CT5N"
    for path, shape in ((single, (128, 128, 1)), (series, (16, 16, 5))):
        volume = read_volume(path)
        focus = FocusInferer(BlobExpert(min_extent=4), max_looks=2)(volume, question=QUESTION)
        assert focus.grid.shape == shape
        assert focus.boxes
        assert all(box.is_inside(shape) for box in focus.boxes)
    streamed = open_volume(series)
    assert torch.equal(streamed.read(0, 5).as_tensor(), volume.as_tensor())
    assert torch.allclose(torch.as_tensor(streamed.affine), volume.affine)


def test_the_example_of_the_page_on_focus_runs(tmp_path):
    page = Path(__file__).resolve().parents[1] / "docs" / "focus.md"
    (code,) = (part.split("```")[0] for part in page.read_text("utf-8").split("```python\n")[1:])
    volume, box = ball()
    nibabel.save(nibabel.Nifti1Image(volume[0].numpy(), volume.affine.numpy()), tmp_path / "a.nii")
    names = {"folder": tmp_path / "a.nii", "output": tmp_path / "out"}
    exec(compile(code, "focus.md", "exec"), names)  # noqa: S102  # the page's own example
    assert any(there.contains(box.centre) for there in names["focus"].boxes)
    assert sorted(file.name for file in names["output"].iterdir()) == [
        "focus.json", "focus.mrk.json", "focus_boxes.nii.gz", "focus_map.nii.gz", "index.html",
    ]  # fmt: skip
