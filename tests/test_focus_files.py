"""What leaves the package: maps, boxes, markups and JSON at the right place; pages; studies on disk."""

import json

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pydicom.data import get_testdata_file
from searched import QUESTION, ball, oriented

from medeyes_monai.errors import GeometryError, UnreadableImageError
from medeyes_monai.experts import BlobExpert
from medeyes_monai.focus import read_markups, write_focus
from medeyes_monai.geometry import Box, to_world
from medeyes_monai.inferers import FocusInferer
from medeyes_monai.io import read_volume
from medeyes_monai.reports import write_focus_report
from medeyes_monai.reports.planes import draw_path, draw_planes
from medeyes_monai.scenes import ImageScene, VolumeScene


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
    return FocusInferer(BlobExpert(min_extent=8), max_looks=looks)(image, question=QUESTION)


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


def test_a_pictures_looks_are_a_volume_one_slice_thick(tmp_path):
    image = np.full((1, 200, 160), 40, np.uint8)
    image[:, 130:150, 40:60] = 250
    focus = FocusInferer(BlobExpert(), max_looks=1)(MetaTensor(image), question=QUESTION)
    heat, _, markups, _ = write_focus(focus, tmp_path)
    assert nibabel.load(heat).shape == (200, 160, 1)
    (roi,) = json.loads(markups.read_text())["markups"]
    assert roi["size"] == [*map(float, focus.boxes[0].extent), 1.0]
    assert read_markups(markups, focus.grid) == focus.boxes


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


def test_pydicoms_own_ct_is_searched_as_a_series_of_one_slice():
    volume = read_volume(get_testdata_file("CT_small.dcm"))
    focus = found(volume)
    assert focus.grid.shape == (128, 128, 1)
    assert focus.boxes
    assert all(box.extent[2] == 1 for box in focus.boxes)
