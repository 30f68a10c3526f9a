import itertools
import math

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from pydicom.data import get_testdata_file

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.geometry import Box, carry_box, from_world, to_world
from medeyes_monai.io import read_image, read_volume
from medeyes_monai.protocol import parse_turn
from medeyes_monai.scenes import BlankedScene, Finding, ImageScene, Scene, VolumeScene
from medeyes_monai.scenes.planes import DIGITS

NOISE = np.random.default_rng(0).integers(0, 256, (1, 64, 48, 40), dtype=np.uint8)
RADIOLOGICAL = np.diag([-1.0, -1.0, 1.0, 1.0])
DIRECTIONS = {
    "R": (1, 0, 0),
    "L": (-1, 0, 0),
    "A": (0, 1, 0),
    "P": (0, -1, 0),
    "S": (0, 0, 1),
    "I": (0, 0, -1),
}
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*order)
]
TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]]) @ np.array(
    [[1.0, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]]
)


def placed(voxels, codes="LPS", spacing=(1.0, 1.0, 1.0), turn=None):
    """A volume whose stored axes point where the letters say."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([DIRECTIONS[c] for c in codes]).T * spacing
    affine[:3, :3] = affine[:3, :3] if turn is None else turn @ affine[:3, :3]
    affine[:3, 3] = (-31.5, 12.25, 100)
    return MetaTensor(torch.as_tensor(voxels), affine=torch.as_tensor(affine))


def scene_of(voxels=NOISE, **settings):
    return VolumeScene(voxels, key="a", **settings)


@st.composite
def boxes_in(draw, shape=NOISE.shape[1:]):
    start = [draw(st.integers(-5, n - 1)) for n in shape]
    stop = [draw(st.integers(max(a, 0) + 1, n + 5)) for a, n in zip(start, shape, strict=True)]
    return Box(tuple(start), tuple(stop))


def number_in(picture):
    """Read the number in the upper left corner, as somebody would who knows the digits."""
    scale = max(1, min(picture.shape[:2]) // 60)
    dots = picture[::scale, ::scale, 0][1:6, 1:] > 128
    text, known = "", {rows: digit for digit, rows in DIGITS.items()}
    for left in range(0, dots.shape[1] - 3, 4):
        glyph = tuple(int(row @ (4, 2, 1)) for row in dots[:, left : left + 3].astype(int))
        if glyph not in known:
            break
        text += known[glyph]
    return int(text)


# axes


def test_a_volume_is_a_scene():
    assert isinstance(scene_of(), Scene)
    assert isinstance(BlankedScene(scene_of()), Scene)


@pytest.mark.parametrize("turn", [None, TURN], ids=["straight", "oblique"])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_sheet_voxels_and_millimetres_agree_for_every_orientation(codes, turn):
    voxels = np.random.default_rng(1).integers(-1000, 2000, (1, 9, 11, 13), dtype=np.int16)
    given_ = placed(voxels, codes, (0.7, 1.3, 2.9), turn)
    scene = scene_of(given_, window="bone", slabs=9)
    affine, source = scene.image.affine.numpy(), given_.affine.numpy()
    if turn is None:
        assert "".join(nibabel.aff2axcodes(affine)) == "LPS"
    for index in itertools.product((0, 4, 8), (0, 5, 10), (0, 6, 12)):
        mm = to_world([i + 0.5 for i in index], source)
        x, y, z = (math.floor(v) for v in from_world(mm, affine))
        assert scene.image[0, x, y, z] == voxels[(0, *index)]
        centre = (x + 0.5, y + 0.5, z + 0.5)
        assert to_world(centre, affine) == pytest.approx(mm, abs=0.01)
        pixel = scene.sheet.to_pixel(centre)
        back = scene.sheet.to_voxel(pixel)
        half = scene.sheet.panel_at(pixel).region.extent[2] / 2
        assert to_world((*back[:2], centre[2]), affine) == pytest.approx(mm, abs=0.01)
        assert abs(back[2] - centre[2]) < half
        assert scene.sheet.to_pixel(back) == pytest.approx(pixel, abs=1e-6)


@pytest.mark.parametrize("relative", [False, True], ids=["pixels", "thousandths"])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_six_numbers_that_a_policy_says_come_back_from_millimetres_in_every_orientation(codes, relative):
    """Only rounding to voxels moves a corner, by half a voxel at most; from there on all is exact."""
    given_ = placed(np.zeros((1, 35, 39, 44), np.uint8), codes, (0.7, 1.3, 2.9), TURN)
    scene = scene_of(given_)
    frame = (1000,) * 3 if relative else scene.frame
    assert relative or frame == (32, 32, scene.shape[2])  # coarser than the voxels, and along z the same
    affine, source = scene.image.affine.numpy(), given_.affine.numpy()
    rng = np.random.default_rng(0)
    for _ in range(6):
        low = [int(rng.integers(n // 2)) for n in frame]
        spoken = [*low, *(a + int(rng.integers(n // 8, n // 2)) for a, n in zip(low, frame, strict=True))]
        said = f'<reasoning>a</reasoning><action>{{"name":"Gaze","coordinate":{spoken}}}</action>'
        box = parse_turn(said, frame).box.scale(frame, scene.shape)
        for corner, meant in ((box.start, spoken[:3]), (box.stop, spoken[3:])):
            exact = [v * n / f for v, n, f in zip(meant, scene.shape, frame, strict=True)]
            assert np.abs(np.subtract(corner, exact)).max() <= 0.5
        stored = carry_box(box, affine, source)  # where the inferer says that it looked
        ends = [from_world(to_world(end, source), affine) for end in (stored.start, stored.stop)]
        for corner, end in ((box.start, np.minimum(*ends)), (box.stop, np.maximum(*ends))):
            assert to_world(end, affine) == pytest.approx(to_world(corner, affine), abs=0.01)
        again = Box.from_corners([*np.minimum(*ends), *np.maximum(*ends)]).scale(scene.shape, frame)
        if relative:  # a voxel is many thousandths: half of them, and half a thousandth for rounding
            steps = [0.5 * f / n + 0.5 for n, f in zip(scene.shape, frame, strict=True)] * 2
            assert (np.abs(np.subtract(again.corners, spoken)) <= steps).all()
        else:
            assert list(again.corners) == spoken


@given(boxes_in(), st.sampled_from(ORIENTATIONS))
@settings(max_examples=60, deadline=None)
def test_findings_are_carried_to_the_scene_s_axes_and_back(box, codes):
    box = box.clip(NOISE.shape[1:])
    given_ = placed(NOISE, codes, (0.7, 1.3, 2.9))
    scene = scene_of(given_, findings=[Finding(box, "x")])
    (finding,) = scene.findings
    assert torch.equal(scene.image[0][finding.box.slices].unique(), given_[0][box.slices].unique())
    assert carry_box(finding.box, scene.image.affine.numpy(), given_.affine.numpy()) == box
    mine = np.sort(np.array(scene.to_world(finding.box)), axis=0)
    ends = [to_world(corner, given_.affine.numpy()) for corner in (box.start, box.stop)]
    assert np.allclose(mine, np.sort(np.array(ends), axis=0))


def test_right_is_left_front_is_top_and_head_is_top():
    voxels = np.zeros((1, 40, 40, 40), np.uint8)  # RAS: x to the right, y to the front, z to the head
    voxels[0, 30:, 18:22, 18:22] = 255  # a bar on the right
    voxels[0, 18:22, 30:, 18:22] = 255  # in front
    voxels[0, 18:22, 18:22, 30:] = 255  # at the head
    scene = scene_of(placed(voxels, "RAS"), labels=False, look_pixels=128 * 128, look_slices=1)
    whole = Box((0, 0, 0), (40, 40, 40))
    picture = scene.look(whole).pixels[..., 0]
    axial, coronal, sagittal = (panel.place for panel in scene.look_sheet(whole).panels)

    def light(place, side):
        part = picture[place.start[1] : place.stop[1], place.start[0] : place.stop[0]].astype(float)
        quarter = part.shape[0] // 4
        cut = {
            "left": part[:, :quarter],
            "right": part[:, -quarter:],
            "top": part[:quarter],
            "foot": part[-quarter:],
        }
        return cut[side].mean()

    assert light(axial, "left") > 5 > light(axial, "right") == 0
    assert light(axial, "top") > 5 > light(axial, "foot") == 0
    assert light(coronal, "left") > 5 > light(coronal, "right") == 0
    assert light(coronal, "top") > 5 > light(coronal, "foot") == 0
    assert light(sagittal, "left") > 5 > light(sagittal, "right") == 0  # the front
    assert light(sagittal, "top") > 5 > light(sagittal, "foot") == 0


def test_an_array_without_a_place_has_the_scene_s_axes():
    scene = scene_of(NOISE)
    assert np.array_equal(scene.image.numpy(), NOISE)
    assert scene.image.affine.diagonal().tolist() == [-1, -1, 1, 1]
    assert np.array_equal(scene_of(torch.as_tensor(NOISE)).image.numpy(), NOISE)


def test_world_corners_are_the_outer_edges_of_the_voxels():
    affine = np.diag([-2.0, -3.0, 5.0, 1.0])
    affine[:3, 3] = (10, 20, 30)
    scene = scene_of(MetaTensor(torch.zeros(1, 8, 8, 8), affine=torch.as_tensor(affine)))
    # x from 10 + 2 / 2 = 11 down to 11 - 2 * 2 = 7; y from 21.5 to 21.5 - 3; z from 27.5 to 27.5 + 2 * 5
    assert scene.to_world(Box((0, 0, 0), (2, 1, 2))) == ((11, 21.5, 27.5), (7, 18.5, 37.5))


# overview


def test_the_overview_is_a_sheet_of_labelled_slabs_in_whole_patches():
    scene = scene_of(
        placed(np.zeros((1, 60, 50, 40), np.int16)), slabs=12, patch=28, overview_pixels=448 * 448
    )
    view, sheet = scene.overview(), scene.sheet
    assert view.box == Box.whole((60, 50, 40))
    assert view.pixels.shape == (sheet.size[1], sheet.size[0], 3)
    assert sheet.size[0] * sheet.size[1] <= 448 * 448
    assert len(sheet.panels) == 12
    assert [p.region.start[2] for p in sheet.panels] == [40 * i // 12 for i in range(12)]
    assert sheet.panels[-1].region.stop[2] == 40
    for panel in sheet.panels:
        assert all(v % 28 == 0 for v in panel.place.corners)
        assert panel.region.start[2] <= panel.label < panel.region.stop[2]
        left, top, right, bottom = panel.place.corners
        assert number_in(view.pixels[top:bottom, left:right]) == panel.label


@pytest.mark.parametrize(("cell", "slices"), [(32, 10), (64, 999), (96, 4321), (196, 678)])
def test_numbers_can_be_read_at_every_size_of_a_cell(cell, slices):
    scene = scene_of(np.zeros((1, 8, 8, slices), np.uint8), slabs=7, patch=cell, overview_pixels=8 * cell**2,
                     look_pixels=3 * cell**2)  # fmt: skip
    for panel in scene.sheet.panels:
        left, top, right, bottom = panel.place.corners
        assert number_in(scene.overview().pixels[top:bottom, left:right]) == panel.label


def test_numbers_count_relative_places_where_that_is_asked_for():
    scene = scene_of(np.zeros((1, 8, 8, 40), np.uint8), slabs=4, label_extent=1000)
    assert [panel.label for panel in scene.sheet.panels] == [125, 375, 625, 875]


@pytest.mark.parametrize("projection", ["mip", "mean", "central"])
def test_a_cell_shows_its_slab_from_first_to_last_slice(projection):
    voxels = np.zeros((1, 32, 32, 16), np.float32)
    voxels[0, 8:12, 20:28] = np.arange(16)  # a bar that brightens towards the head
    scene = scene_of(voxels, window=(7.5, 15), projection=projection, slabs=4, labels=False)
    # 0..15 become 0..255, 17 a step; slabs of four slices, from slice 4 i
    expected = {"mip": lambda i: 4 * i + 3, "mean": lambda i: 4 * i + 1.5, "central": lambda i: 4 * i + 2}
    for i, panel in enumerate(scene.sheet.panels):
        left, top, right, bottom = panel.place.corners
        cell = scene.overview().pixels[top:bottom, left:right, 0]
        wide, high = panel.place.extent
        x, y = wide * 10 // 32, high * 24 // 32
        assert cell[y, x] == pytest.approx(17 * expected[projection](i), abs=0.51)
        assert cell[high * 4 // 32, x] == cell[y, wide * 20 // 32] == 0


@pytest.mark.parametrize("projection", ["mip", "mean", "central"])
@pytest.mark.parametrize("orientation", ["LPS", "RAI"])
def test_a_thin_projection_shows_the_middle_of_a_slab(projection, orientation):
    voxels = np.zeros((1, 32, 32, 16), np.float32)
    voxels[0] = np.arange(16)[::-1] if orientation == "RAI" else np.arange(16)  # brighter towards the head
    volume = placed(voxels, orientation, (1.0, 1.0, 2.0))
    show = {"window": (7.5, 15), "projection": projection, "slabs": 4, "labels": False}
    scene = scene_of(volume, projection_mm=4.0, **show)  # two slices of 2 mm out of four
    expected = {"mip": lambda i: 4 * i + 2, "mean": lambda i: 4 * i + 1.5, "central": lambda i: 4 * i + 2}
    for i, panel in enumerate(scene.sheet.panels):
        left, top, right, bottom = panel.place.corners
        cell = scene.overview().pixels[top:bottom, left:right]
        assert cell == pytest.approx(np.full(cell.shape, 17 * expected[projection](i)), abs=0.51)
    whole = scene_of(volume, **show).overview().pixels
    assert np.array_equal(scene_of(volume, projection_mm=8.0, **show).overview().pixels, whole)
    assert np.array_equal(scene_of(volume, projection_mm=999.0, **show).overview().pixels, whole)
    thinnest = scene_of(volume, projection_mm=0.1, **show).overview().pixels
    central = scene_of(volume, **show | {"projection": "central"}).overview().pixels
    assert np.array_equal(thinnest, central)
    assert scene.sheet == scene_of(volume, **show).sheet  # every slice still belongs to a cell


@given(boxes_in())
@settings(max_examples=40, deadline=None)
def test_a_box_in_the_frame_is_what_the_cell_shows_there(box):
    scene = scene_of(NOISE)
    spoken = box.clip(scene.shape).scale(scene.shape, scene.frame)
    meant = spoken.scale(scene.frame, scene.shape)
    for panel in scene.sheet.panels:
        in_sheet = [a + b for a, b in zip(panel.place.start, spoken.start[:2], strict=True)]
        assert panel.to_voxel(in_sheet)[:2] == pytest.approx(meant.start[:2], abs=1)
    assert scene.frame[2] == scene.shape[2]
    assert meant.start[2] == spoken.start[2]


def test_a_rectangle_on_the_sheet_is_a_region_of_the_slab_under_its_centre():
    scene = scene_of(np.zeros((1, 64, 64, 40), np.uint8), slabs=4, overview_pixels=128 * 128)
    assert scene.frame == (64, 64, 40)
    assert scene.sheet.region(Box((64 + 8, 16), (64 + 24, 40))) == Box((8, 16, 10), (24, 40, 20))
    assert scene.sheet.region(Box((60, 100), (90, 120))) == Box((0, 36, 30), (26, 56, 40))  # cut to one cell
    with pytest.raises(GeometryError, match="nothing of the volume"):
        scene.sheet.region(Box((500, 500), (600, 600)))
    with pytest.raises(GeometryError):
        scene.sheet.region(Box((0, 0, 0), (5, 5, 5)))
    with pytest.raises(GeometryError, match="no panel"):
        scene.sheet.to_pixel((1, 1, 99))


@pytest.mark.parametrize("shape", [(1, 1, 1), (200, 3, 2), (3, 200, 5), (40, 40, 1), (5, 5, 300)])
@pytest.mark.parametrize("patches", [(1, 3), (5, 4), (16, 9)])
def test_every_shape_fits_every_budget(shape, patches):
    pixels = [n * 32 * 32 for n in patches]
    scene = scene_of(np.zeros((1, *shape), np.int16), overview_pixels=pixels[0], look_pixels=pixels[1])
    for view, budget in zip((scene.overview(), scene.look(Box.whole(shape))), pixels, strict=True):
        assert view.box == Box.whole(shape)
        assert view.pixels.shape[0] * view.pixels.shape[1] <= budget
        assert view.pixels.shape[0] % 32 == view.pixels.shape[1] % 32 == 0


# looks


@given(boxes_in())
@settings(max_examples=60, deadline=None)
def test_a_look_shows_its_region_in_three_planes_within_the_budget(box):
    scene = scene_of(placed(NOISE, spacing=(1, 1, 2)), look_pixels=256 * 256, look_slices=3, min_extent=16)
    view, sheet = scene.look(box), scene.look_sheet(box)
    assert view.pixels.shape == (sheet.size[1], sheet.size[0], 3)
    assert view.pixels.shape[0] * view.pixels.shape[1] <= 256 * 256
    asked = box.clip(scene.shape)
    assert asked.intersection(view.box) == asked
    if asked.extent[2] == 1:
        assert [p.plane for p in sheet.panels] == ["axial"]
        return
    assert [p.plane for p in sheet.panels][-2:] == ["coronal", "sagittal"]
    assert {p.plane for p in sheet.panels[:-2]} == {"axial"}
    for panel in sheet.panels:
        assert panel.region.intersection(view.box) == panel.region
        assert panel.region.intersection(asked) is not None  # each cut passes through what was asked for
        assert panel.to_voxel(panel.to_pixel(panel.region.centre)) == pytest.approx(panel.region.centre)
    places = [p.place for p in sheet.panels]
    assert all(a.intersection(b) is None for a, b in itertools.combinations(places, 2))


def test_a_look_of_the_size_of_its_tiles_brings_native_voxels():
    scene = scene_of(NOISE, labels=False)  # four tiles of 32 x 32 pixels
    box = Box((10, 8, 4), (42, 40, 36))
    pixels = scene.look(box).pixels[..., 0]
    cube = NOISE[0, 10:42, 8:40, 4:36]
    # axial slices at thirds: 4 + 32 / 3 = 14 and 4 + 64 / 3 = 25, that is 10 and 21 of the cube
    assert np.array_equal(pixels[:32, :32], cube[:, :, 10].T)
    assert np.array_equal(pixels[:32, 32:], cube[:, :, 21].T)
    assert np.array_equal(pixels[32:, :32], cube[:, 16, ::-1].T)
    assert np.array_equal(pixels[32:, 32:], cube[16, :, ::-1].T)


def test_a_look_shows_what_the_overview_does_not():
    stripes = np.zeros((1, 96, 96, 96), np.uint8)
    stripes[:, ::2] = 255
    scene = scene_of(stripes, labels=False, projection="central")
    assert scene.overview().pixels.std() < scene.look(Box((0, 0, 0), (32, 32, 32))).pixels.std() / 2


def test_a_ball_is_round_in_every_plane_whatever_the_spacing():
    spacing = np.array((0.5, 1.0, 4.0))
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (80, 40, 10)), indexing="ij"), axis=-1) * spacing
    ball = (np.linalg.norm(grid - np.array((20, 20, 20)), axis=-1) < 14).astype(np.uint8) * 255
    scene = scene_of(placed(ball[None], spacing=spacing), look_pixels=384 * 384, look_slices=1, labels=False)
    sheet, pixels = (
        scene.look_sheet(Box.whole((80, 40, 10))),
        scene.look(Box.whole((80, 40, 10))).pixels[..., 0],
    )
    sides = []
    for panel in sheet.panels:
        left, top, right, bottom = panel.place.corners
        lit = pixels[top:bottom, left:right] > 127
        sides += [int(lit.any(axis=0).sum()), int(lit.any(axis=1).sum())]
    assert min(sides) > 0.85 * max(sides)


@given(boxes_in((64, 48)), st.integers(0, 39))
@settings(max_examples=40, deadline=None)
def test_a_box_with_four_numbers_on_a_slice_is_looked_at_as_in_a_picture(box, index):
    scene = scene_of(NOISE, labels=False, min_extent=16, context=1.2)
    picture = ImageScene(NOISE[..., index], key="b", min_extent=16, context=1.2)
    view, expected = scene.look(scene.on_slice(box, index)), picture.look(box)
    assert (*view.box.start, *view.box.stop) == (*expected.box.start, index, *expected.box.stop, index + 1)
    assert view.pixels.shape == expected.pixels.shape
    assert np.abs(view.pixels.astype(int) - expected.pixels).max() <= 1


def test_the_smallest_region_is_a_cube_in_millimetres():
    scene = scene_of(placed(np.zeros((1, 100, 100, 30), np.uint8), spacing=(0.5, 0.5, 4)), min_extent=32)
    # 32 voxels of 0.5 mm are 16 mm, which are 4 slices
    assert scene.look(Box((50, 50, 14), (52, 52, 16))).box == Box((35, 35, 13), (67, 67, 17))
    assert scene.look(Box((50, 50, 14), (52, 52, 15))).box == Box((35, 35, 14), (67, 67, 15))


def test_blanked_looks_are_grey_and_the_overview_stays():
    scene = scene_of()
    blank, box = BlankedScene(scene), Box((5, 5, 5), (20, 20, 20))
    assert np.unique(blank.look(box).pixels).tolist() == [128]
    assert blank.look(box).pixels.shape == scene.look(box).pixels.shape
    assert blank.overview() is scene.overview()


# intensities


def test_a_window_s_ends_are_black_and_white_and_three_windows_are_colours():
    hounsfield = np.zeros((1, 8, 8, 1), np.int16)
    hounsfield[0, :, :4] = -1000
    grey = scene_of(hounsfield, window="brain", labels=False).look(Box.whole((8, 8, 1))).pixels
    assert grey[0, 0].tolist() == [0, 0, 0]
    assert grey[-1, 0].tolist() == [0, 0, 0]  # 0 HU is where the brain's window begins
    pairs = scene_of(hounsfield, window=[(0, 100), "lung", (-1000, 10)], labels=False)
    colour = pairs.look(Box.whole((8, 8, 1))).pixels
    # 0 HU: middle of the first, (0 + 1350) / 1500 of lung, above the third; -1000: below, 350 / 1500, middle
    assert colour[-1, 0].tolist() == [128, round(255 * 1350 / 1500), 255]
    assert colour[0, 0].tolist() == [0, round(255 * 350 / 1500), 128]


@pytest.mark.parametrize("task", ["chest", "abdomen", "head"])
def test_a_task_s_windows_are_three_colours(task):
    ramp = np.linspace(-1500, 1500, 4096, dtype=np.float32).reshape(1, 16, 16, 16)
    pixels = scene_of(ramp, window=task, labels=False).overview().pixels.astype(int)
    assert all(np.abs(pixels[..., a] - pixels[..., b]).max() > 50 for a, b in ((0, 1), (1, 2), (0, 2)))


def test_without_a_window_other_modalities_are_stretched_over_the_whole_volume():
    rng = np.random.default_rng(1)
    signal = rng.normal(300, 40, (1, 32, 32, 32)).astype(np.float32)
    signal[0, 0, 0, 0] = 1e30  # one voxel beyond all measure does not blacken the rest
    pixels = scene_of(signal, labels=False, projection="central").look(Box.whole((32, 32, 32))).pixels
    assert 100 < pixels.mean() < 155
    assert pixels.std() > 40
    sparse = np.zeros((1, 64, 64, 64), np.int16)
    sparse[0, 5, 5, 5] = 7
    assert scene_of(sparse, labels=False).overview().pixels.max() > 0
    assert scene_of(np.full((1, 9, 9, 9), 3.5), labels=False).overview().pixels.max() == 0


def test_hounsfield_beyond_all_measure_is_white_or_black():
    metal = np.zeros((1, 8, 8, 8), np.float32)
    metal[0, 4:], metal[0, :4] = 3e38, -3e38
    for projection in ("mip", "mean", "central"):
        pixels = scene_of(metal, window="bone", projection=projection, labels=False).overview().pixels
        assert set(np.unique(pixels[:, [0, -1]])) == {0, 255}


# what cannot be shown


def test_what_cannot_be_a_scene_is_refused():
    for shape in ((3, 9, 9, 9), (1, 9, 9), (9, 9, 9), (1, 0, 9, 9)):
        with pytest.raises(GeometryError, match="choose one channel"):
            scene_of(np.zeros(shape))
    with pytest.raises(GeometryError, match="not finite"):
        scene_of(np.full((1, 9, 9, 9), np.nan))
    for box in (Box((0, 0, 0), (9, 9, 10)), Box((0, 0), (5, 5))):
        with pytest.raises(GeometryError, match="not inside"):
            scene_of(np.zeros((1, 9, 9, 9)), findings=[Finding(box, "x")])


def test_an_affine_that_cannot_place_the_volume_is_refused():
    sheared, flat, lost = np.eye(4), np.eye(4), np.eye(4)
    sheared[0, 2], flat[2, 2], lost[0, 3] = 0.2, 0.0, np.nan
    for affine, match in ((sheared, "11.3 degrees"), (flat, "singular"), (lost, "finite")):
        with pytest.raises(GeometryError, match=match):
            scene_of(MetaTensor(torch.zeros(1, 9, 9, 9), affine=torch.as_tensor(affine)))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"overview_pixels": 1000}, "raise"),
        ({"look_pixels": 2 * 32 * 32}, "raise"),
        ({"slabs": 0}, "positive"),
        ({"projection": "sum"}, "mip, mean, central"),
        ({"projection_mm": 0.0}, "above 0"),
        ({"projection_mm": float("nan")}, "above 0"),
        ({"window": "lungs"}, "unknown window"),
        ({"window": ["lung", "bone"]}, "one window"),
        ({"window": (40, 80, 100)}, "one window"),
        ({"window": (40, -80)}, "width > 0"),
    ],
)
def test_settings_that_show_nothing_are_refused(settings, match):
    with pytest.raises(ConfigError, match=match):
        scene_of(**settings)


@pytest.mark.parametrize(
    "box",
    [
        Box((64, 0, 0), (70, 9, 9)),
        Box((0, 0, -9), (9, 9, 0)),
        Box((0, 0, 40), (9, 9, 41)),
        Box((0, 0), (9, 9)),
    ],
)
def test_a_box_outside_or_of_other_axes_is_refused(box):
    with pytest.raises(GeometryError):
        scene_of().look(box)


def test_a_slice_that_is_not_there_is_refused():
    for box, index in ((Box((0, 0), (9, 9)), 40), (Box((0, 0), (9, 9)), -1), (Box((0, 0, 0), (9, 9, 9)), 5)):
        with pytest.raises(GeometryError, match="slice from 0 to 39"):
            scene_of().on_slice(box, index)
    with pytest.raises(GeometryError, match="on_slice"):
        scene_of().to_world(Box((0, 0), (9, 9)))


# real volumes


def test_a_stored_axial_slice_looks_the_same_in_both_scenes():
    path, whole = get_testdata_file("CT_small.dcm"), Box((0, 0), (128, 128))
    picture = ImageScene(read_image(path), key="a", window="soft_tissue").look(whole)
    volume = VolumeScene(read_volume(path), key="b", window="soft_tissue", labels=False)
    assert volume.shape == (128, 128, 1)
    shown = volume.look(volume.on_slice(whole, 0))
    assert np.abs(shown.pixels.astype(int) - picture.pixels).max() <= 1


def labels_of(path, number):
    """Which voxels of a real label map belong to a number, on the grid of the volume as it is read."""
    return read_volume(path) == number


@pytest.mark.parametrize(
    ("number", "side", "name"),
    [(5, "left", "liver"), (1, "right", "spleen"), (2, "left", "right kidney"), (3, "right", "left kidney")],
)
def test_organs_of_a_real_ct_are_where_a_radiologist_expects_them(data_root, number, side, name):
    folder = data_root / "totalseg_ct"
    if not folder.is_dir():
        pytest.skip("no totalseg_ct")
    volume = read_volume(folder / "example_ct.nii.gz")
    mask = labels_of(folder / "example_seg_fast_force_split.nii.gz", number)
    if not mask.any():
        pytest.skip(f"no {name}")
    low, high = (torch.stack(list(mask[0].nonzero().unbind(1))).T.amin(0), mask[0].nonzero().amax(0) + 1)
    box = Box(tuple(low.tolist()), tuple(high.tolist()))
    scene = scene_of(volume, window="soft_tissue", findings=[Finding(box, name)])
    (finding,) = scene.findings
    share = finding.box.centre[0] / scene.shape[0]
    assert share < 0.45 if side == "left" else share > 0.55
    view = scene.look(finding.box)
    assert view.box.intersection(finding.box) == finding.box
    assert finding.box.iou(view.box) > 0.3
