"""Scenes that deceive the looking: what stays, what changes, and which questions come out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from medeyes_monai.errors import ConfigError, GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import (
    CONDITIONS,
    BlankedScene,
    Case,
    Finding,
    ImageScene,
    OtherImageScene,
    RandomPlaceScene,
    Scene,
    VolumeScene,
    mirror_box,
    mirror_case,
    mirror_scene,
    mirror_text,
    only_regions,
    under_condition,
    without_regions,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(key="a", size=(200, 160), channels=1, **more):
    findings = (Finding(Box((10, 20), (40, 50)), "left mass"),)
    return ImageScene(
        noise(channels, *size, seed=len(key)), key=key, findings=findings, min_extent=32, **more
    )


def volume(key="v", size=(64, 48, 40), **more):
    affine = torch.diag(torch.tensor([-1.0, -1.0, 2.0, 1.0], dtype=torch.float64))
    values = torch.as_tensor(noise(1, *size).astype(np.int16) * 4 - 500)
    findings = (Finding(Box((5, 6, 7), (15, 16, 17)), "right mass"),)
    return VolumeScene(MetaTensor(values, affine=affine), key=key, findings=findings, min_extent=8, **more)


SCENES = {"picture": picture, "colour": lambda: picture(channels=3), "volume": volume}
ALIKE = (BlankedScene, RandomPlaceScene, lambda scene: OtherImageScene(scene, scene))


def some_box(scene):
    return Box(tuple(n // 4 for n in scene.shape), tuple(n // 2 for n in scene.shape))


@pytest.mark.parametrize("make", SCENES.values(), ids=SCENES)
@pytest.mark.parametrize("wrap", ALIKE)
def test_a_scene_whose_looks_deceive_is_the_same_scene_in_all_else(make, wrap):
    scene = make()
    other, box = wrap(scene), some_box(scene)
    assert isinstance(other, Scene)
    assert (other.key, other.shape, other.frame) == (scene.key, scene.shape, scene.frame)
    assert other.findings == scene.findings
    assert np.array_equal(other.overview().pixels, scene.overview().pixels)
    assert other.to_world(box) == scene.to_world(box)
    assert other.look(box).box == scene.look(box).box
    assert other.look(box).pixels.shape == scene.look(box).pixels.shape


@pytest.mark.parametrize("make", SCENES.values(), ids=SCENES)
def test_a_random_place_is_another_place_and_the_same_at_every_look(make):
    scene = make()
    box, other = some_box(scene), RandomPlaceScene(scene)
    place = other.place(box)
    assert place.extent == box.extent
    assert place.is_inside(scene.shape)
    assert place.iou(box) == 0
    assert np.array_equal(other.look(box).pixels, scene.look(place).pixels)
    assert not np.array_equal(other.look(box).pixels, scene.look(box).pixels)
    assert RandomPlaceScene(make()).place(box) == place
    assert RandomPlaceScene(scene, seed=1).place(box) != place


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_a_random_place_lies_inside_whatever_was_asked_for(data):
    scene = picture()
    corners = [data.draw(st.tuples(st.integers(-20, n - 1), st.integers(1, 2 * n))) for n in scene.shape]
    box = Box(tuple(a for a, _ in corners), tuple(max(1, a + side) for a, side in corners))
    place = RandomPlaceScene(scene, seed=3).place(box)
    assert place.extent == box.clip(scene.shape).extent
    assert place.is_inside(scene.shape)
    whole = Box.whole(scene.shape)
    assert RandomPlaceScene(scene).place(whole) == whole  # there is no other place


def test_a_look_at_another_image_shows_the_same_share_of_it():
    scene, other = picture("a", (200, 160)), picture("bb", (400, 320))
    seen = OtherImageScene(scene, other).look(Box((50, 40), (100, 80)))
    assert np.array_equal(seen.pixels, other.look(Box((100, 80), (200, 160))).pixels)
    assert seen.box == Box((50, 40), (100, 80))
    with pytest.raises(GeometryError, match="2 axes cannot show v of 3"):
        OtherImageScene(scene, volume())


def test_a_box_outside_is_refused_as_ever():
    outside = Box((500, 500), (510, 510))
    for scene in (
        RandomPlaceScene(picture()),
        OtherImageScene(picture(), picture("bb")),
        BlankedScene(picture()),
    ):
        with pytest.raises(GeometryError):
            scene.look(outside)


@pytest.mark.parametrize("make", SCENES.values(), ids=SCENES)
def test_deletion_and_insertion_change_what_they_should_and_are_each_others_complement(make):
    scene = make()
    box = some_box(scene)
    gone, only = without_regions(scene, [box]), only_regions(scene, [box])
    inside = torch.zeros(scene.shape, dtype=torch.bool)
    inside[box.slices] = True
    means = scene.image.as_tensor().double().flatten(1).mean(1).round()
    for channel, mean in enumerate(means):
        image, without, alone = (s.image.as_tensor()[channel] for s in (scene, gone, only))
        assert torch.equal(without[~inside], image[~inside])
        assert torch.equal(alone[inside], image[inside])
        assert (without[inside] == mean).all()
        assert (alone[~inside] == mean).all()
    assert without_regions(gone, [box]).key == scene.key


@pytest.mark.parametrize("make", SCENES.values(), ids=SCENES)
def test_deletion_is_seen_in_overview_and_looks_and_leaves_the_scene_as_it_was(make):
    scene = make()
    box, before = some_box(scene), scene.overview().pixels.copy()
    digest = scene.content_digest
    gone = without_regions(scene, [box])
    assert not np.array_equal(gone.overview().pixels, before)
    assert not np.array_equal(gone.look(box).pixels, scene.look(box).pixels)
    assert np.array_equal(scene.overview().pixels, before)
    assert (scene.content_digest, gone.content_digest == digest) == (digest, False)
    assert gone.overview().pixels.shape == before.shape
    assert gone.to_world(box) == scene.to_world(box)


def test_nothing_deleted_is_the_same_image_and_nothing_inserted_is_one_value():
    scene = picture()
    assert torch.equal(without_regions(scene, []).image, scene.image)
    assert len(torch.unique(only_regions(scene, []).image)) == 1


def test_other_voxels_keep_the_scale_of_grey():
    values = torch.linspace(0, 1, 64 * 64).reshape(1, 64, 64) * 1000
    scene = VolumeScene(values[..., None].repeat(1, 1, 1, 8), key="v", min_extent=4)
    box = Box((0, 0, 0), (64, 40, 8))
    kept = Box((0, 48, 0), (8, 60, 8))
    assert np.array_equal(without_regions(scene, [box]).look(kept).pixels, scene.look(kept).pixels)


def test_voxels_of_another_shape_or_type_are_refused():
    for scene in (picture(), volume()):
        with pytest.raises(GeometryError, match="wanted"):
            scene.with_image(scene.image[:, :-1])
        with pytest.raises(GeometryError, match="wanted"):
            scene.with_image(scene.image.float())


def test_a_scene_that_cannot_be_changed_says_so():
    with pytest.raises(ConfigError, match=r"BlankedScene.*with_image"):
        without_regions(BlankedScene(picture()), [])


@pytest.mark.parametrize("make", SCENES.values(), ids=SCENES)
def test_a_mirror_shown_in_a_mirror_is_the_scene(make):
    scene = make()
    mirrored = mirror_scene(scene)
    again = mirror_scene(mirrored)
    assert torch.equal(again.image.as_tensor(), scene.image.as_tensor())
    assert again.findings == scene.findings
    assert not torch.equal(mirrored.image.as_tensor(), scene.image.as_tensor())
    assert again.content_digest == scene.content_digest


def test_what_is_marked_stays_marked_in_the_mirror():
    for scene in (picture(), volume()):
        (found,), (seen,) = scene.findings, mirror_scene(scene).findings
        inside = scene.image.as_tensor()[0][found.box.slices]
        assert torch.equal(mirror_scene(scene).image.as_tensor()[0][seen.box.slices].flip(0), inside)
        assert seen.label == mirror_text(found.label) != found.label


def test_a_mirrored_picture_is_the_picture_turned_over():
    scene = picture(size=(192, 160), patch=16)
    assert (
        np.abs(
            mirror_scene(scene).overview().pixels.astype(int) - scene.overview().pixels[:, ::-1].astype(int)
        ).max()
        <= 1
    )
    box = Box((32, 40), (96, 104))
    there = mirror_box(box, scene.shape)
    seen, was = mirror_scene(scene).look(there).pixels, scene.look(box).pixels
    assert np.abs(seen.astype(int) - was[:, ::-1].astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("left", "right"),
        ("On the LEFT, not the Right", "On the RIGHT, not the Left"),
        ("leftmost; right-sided", "rightmost; left-sided"),
        ("RUL and llq", "LUL and rlq"),
        ("bright copyright", "bright copyright"),
        ("no side", "no side"),
        ("左肺", "右肺"),
    ],
)
def test_sides_in_words_are_exchanged_and_nothing_else(text, mirrored):
    assert mirror_text(text) == mirrored
    assert mirror_text(mirrored) == text


def test_a_mirrored_question_exchanges_sides_in_question_options_and_answer():
    case = Case(
        "q", picture(), "Is the left one larger?", "left lung", ("left lung", "both"), scoring="choice"
    )
    mirrored = mirror_case(case)
    assert (mirrored.question, mirrored.answer) == ("Is the right one larger?", "right lung")
    assert mirrored.options == ("right lung", "both")
    assert (mirrored.key, mirrored.scoring) == ("q", "choice")
    assert mirror_case(Case("q", picture(), "?")).answer is None


def cases():
    return [Case(f"q{n}", picture("ab"[n % 2] * (n % 2 + 1)), "Left?", "left") for n in range(4)]


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_keeps_questions_in_order_and_their_keys(name):
    asked = cases()
    looks = {case.key: [Box((20, 20), (60, 60))] for case in asked}
    changed = under_condition(name, asked, looks)
    assert [case.key for case in changed] == [case.key for case in asked]
    assert [case.scene.key for case in changed] == [case.scene.key for case in asked]
    answers = {case.answer for case in changed}
    assert answers == ({"right"} if name == "mirrored" else {"left"})
    box = Box((20, 20), (60, 60))
    for case, before in zip(changed, asked, strict=True):
        assert case.scene.look(box).pixels.shape == before.scene.look(box).pixels.shape
        same = np.array_equal(case.scene.look(box).pixels, before.scene.look(box).pixels)
        assert same is (name == "insertion")
        kept = np.array_equal(case.scene.overview().pixels, before.scene.overview().pixels)
        assert kept is (name in ("blanked", "random_place", "other_image"))


def test_other_images_go_round_so_that_no_case_keeps_its_own():
    scenes = [picture(key) for key in ("a", "bb", "ccc")]
    asked = [Case(f"q{n}", scenes[n % 3], "?", "x") for n in range(5)]
    shown = [case.scene.other.key for case in under_condition("other_image", asked)]
    assert shown == ["bb", "ccc", "a", "bb", "ccc"]
    with pytest.raises(ConfigError, match="second image for 'v'"):
        under_condition("other_image", [*asked, Case("q9", volume(), "?", "x")])


def test_the_region_that_a_look_showed_is_deleted_context_included():
    scene = picture(context=2.0)
    asked = [Case("q", scene, "?", "x")]
    (changed,) = under_condition("deletion", asked, {"q": [Box((50, 50), (90, 90))]})
    shown = scene.look(Box((50, 50), (90, 90))).box
    assert shown == Box((30, 30), (110, 110))
    assert len(torch.unique(changed.scene.image[0][shown.slices])) == 1


def test_conditions_that_cannot_be_met_say_so():
    with pytest.raises(
        ConfigError, match="blanked, random_place, other_image, deletion, insertion, mirrored"
    ):
        under_condition("dark", cases())
    with pytest.raises(ConfigError, match=r"missing of 4 questions, the first is 'q0'"):
        under_condition("deletion", cases())
