"""Tools beyond the gaze: off unless asked for, written and read without loss, and right in millimetres."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from policies import FAMILIES, LookingPolicy, phantom_cases
from test_protocol import boxes, strings

from medeyes_monai.data.phantom3d import PhantomVQA3D
from medeyes_monai.errors import ConfigError, GeometryError, ProtocolError
from medeyes_monai.geometry import Box
from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.metrics.scoring import answers_match
from medeyes_monai.protocol import MAX_COORDINATE, ToolForm, parse, parse_turn, render, render_call
from medeyes_monai.reports import write_report
from medeyes_monai.rewards.grammar import grammar
from medeyes_monai.rollout import rollout
from medeyes_monai.sampler import write_episode
from medeyes_monai.scenes import BlankedScene, Case, ImageScene, VolumeScene
from medeyes_monai.tools import (
    TOOLS,
    Measure,
    Window,
    centre_object,
    make_tools,
    measure,
    nearest_object,
)
from medeyes_monai.trajectory import Fixation, ToolCall, Trajectory

FORMS = [tool.form for tool in make_tools(list(TOOLS))]
SHADE = '<reasoning>r</reasoning><action>{"name":"Window","centre":40,"width":80}</action>'
numbers = st.floats(-MAX_COORDINATE, MAX_COORDINATE) | st.integers(-MAX_COORDINATE, MAX_COORDINATE)


@st.composite
def paths_with_calls(draw):
    ndim = draw(st.sampled_from([2, 3]))
    looks = draw(st.lists(st.builds(Fixation, strings, boxes(ndim)), max_size=3))
    measured = st.builds(ToolCall, st.just("Measure"), strings, boxes(ndim), reply=strings)
    values = st.tuples(st.tuples(st.just("centre"), numbers), st.tuples(st.just("width"), numbers))
    shaded = st.builds(ToolCall, st.just("Window"), strings, values=values, reply=strings)
    calls = draw(st.lists(measured | shaded, max_size=3))
    places = sorted(draw(st.lists(st.integers(0, len(looks)), min_size=len(calls), max_size=len(calls))))
    placed = tuple(replace(call, after=after) for call, after in zip(calls, places, strict=True))
    return Trajectory(tuple(looks), draw(strings), draw(st.none() | strings), placed)


@given(paths_with_calls())
@settings(max_examples=60, deadline=None)
def test_roundtrip_of_any_path_with_calls_is_exact(path):
    parsed = parse(render(path), tools=FORMS)
    assert parsed.trajectory == path
    if path.answer is not None:
        assert parsed.defect is None
    if path.calls:
        assert parse(render(path)).defect is not None  # with the tools off, a call is no action
    for call in path.calls:
        assert parse_turn(render_call(call), tools=FORMS).call == replace(call, reply="", after=0)


@pytest.mark.parametrize(
    "action",
    [
        '{"name":"Window","centre":40}',
        '{"name":"Window","centre":40,"width":80,"coordinate":[1,2,3,4]}',
        '{"name":"Window","centre":"40","width":80}',
        '{"name":"Window","centre":NaN,"width":80}',
        '{"name":"Window","centre":true,"width":80}',
        '{"name":"Window","centre":1e10,"width":80}',
        '{"name":"Measure"}',
        '{"name":"Measure","coordinate":[4,2,3,1]}',
        '{"name":"Ruler","coordinate":[1,2,3,4]}',
        '{"name":["Measure"],"coordinate":[1,2,3,4]}',
        "[]",
        "7",
    ],
)
def test_what_is_not_a_tools_form_is_no_action(action):
    turn = parse_turn(f"<reasoning>r</reasoning><action>{action}</action>", tools=FORMS)
    assert (turn.defect, turn.call, turn.box) == ("bad_action", None, None)


def test_a_box_to_be_measured_lies_inside_the_frame_and_has_its_axes():
    measured = '<reasoning>r</reasoning><action>{"name":"Measure","coordinate":[1,2,9,4]}</action>'
    assert parse_turn(measured, (8, 8), FORMS).defect == "box_outside"
    assert parse_turn(measured, (9, 9, 9), FORMS).defect == "wrong_axes"
    assert parse_turn(measured, (9, 9), FORMS).call == ToolCall("Measure", "r", Box((1, 2), (9, 4)))
    mixed = render(Trajectory((Fixation("", Box((0, 0, 0), (1, 1, 1))),)))
    assert parse(mixed + measured + "<feedback></feedback>", tools=FORMS).defect == "wrong_axes"


@pytest.mark.parametrize("after", ["", "<feedback>", "<feedback><image></feedback>", "<answer>x</answer>"])
def test_a_call_is_followed_by_its_reply(after):
    parsed = parse(SHADE + after, tools=FORMS)
    assert parsed.defect == ("bad_feedback" if after else "no_answer")
    assert len(parsed.trajectory.calls) == 1


def test_names_numbers_and_order_that_cannot_be_written_are_refused():
    with pytest.raises(ProtocolError, match="identifiers"):
        ToolCall("a</action>")
    with pytest.raises(ProtocolError, match="can be written"):
        render_call(ToolCall("Window", values=(("centre", float("nan")), ("width", 1))))
    with pytest.raises(GeometryError, match="in the order"):
        Trajectory(calls=(ToolCall("Window", after=1),))
    with pytest.raises(ConfigError, match="names of their own"):
        ToolForm("a", numbers=("name",))
    with pytest.raises(ConfigError, match="unknown tool 'Ruler'; choose from Measure, Window"):
        EpisodeInferer(tools=["Ruler"])
    with pytest.raises(ConfigError, match="a name of its own"):
        make_tools(["Window", Window()])


SPACINGS = [(0.7, 0.7, 1.5), (0.5, 0.9, 3.0), (1.0, 1.0, 1.0)]


def ellipsoid(spacing, radii=(9.0, 7.0, 12.0), shape_mm=(60, 60, 60), seed=0):
    """A noisy volume with a soft ellipsoid, radii in millimetres, about the middle."""
    shape = tuple(round(mm / step) for mm, step in zip(shape_mm, spacing, strict=True))
    grid = [
        (np.arange(n) + 0.5) * step - mm / 2 for n, step, mm in zip(shape, spacing, shape_mm, strict=True)
    ]
    x, y, z = np.meshgrid(*grid, indexing="ij")
    inside = (x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2 <= 1
    noise = np.random.default_rng(seed).normal(0, 10, shape)
    image = np.where(inside, 60, -80) + noise
    volume = MetaTensor(image[None].astype(np.float32), affine=torch.diag(torch.tensor([*spacing, 1.0])))
    return VolumeScene(volume, key="a"), inside


@pytest.mark.parametrize("spacing", SPACINGS)
def test_lengths_and_volumes_of_a_phantom_are_true_to_a_voxel(spacing):
    scene, _ = ellipsoid(spacing)
    box = Box.whole(scene.shape).expand(scene.shape, factor=0.55)
    found = measure(scene, box, centre_object(scene, box))
    for side, radius, step in zip(found.sides, (9.0, 7.0, 12.0), spacing, strict=True):
        assert abs(side - 2 * radius) <= step
    truth = 4 / 3 * np.pi * 9 * 7 * 12 / 1000
    assert abs(found.volume_ml - truth) / truth < 0.1
    assert abs(found.mean - 60) < 2
    assert 8 < found.sd < 12
    whole = measure(scene, box)
    assert whole.sides == pytest.approx([n * step for n, step in zip(box.extent, spacing, strict=True)])
    assert whole.diagonal == pytest.approx(np.linalg.norm(whole.sides))
    assert whole.volume_ml is None


@settings(max_examples=25, deadline=None)
@given(
    spacing=st.sampled_from(SPACINGS),
    off=st.tuples(*[st.floats(-0.6, 0.6)] * 3),
    wide=st.tuples(*[st.floats(0.8, 1.6)] * 3),
)
def test_an_object_is_measured_whole_from_regions_that_are_off_it_too_small_or_too_large(spacing, off, wide):
    scene, inside = ellipsoid(spacing)
    sides = [2 * radius / step * w for radius, step, w in zip((9, 7, 12), spacing, wide, strict=True)]
    middle = [n / 2 + o * side / 2 for n, o, side in zip(scene.shape, off, sides, strict=True)]
    corners = [m - s / 2 for m, s in zip(middle, sides, strict=True)]
    box = Box.from_corners([*corners, *(c + s for c, s in zip(corners, sides, strict=True))])
    region, mask = nearest_object(scene, box)
    assert region.is_inside(scene.shape)
    assert mask.shape == region.extent
    truth = inside[region.slices]
    assert 2 * (mask & truth).sum() / (mask.sum() + inside.sum()) > 0.9  # Dice with all of it


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("way", [-1, 1])
def test_an_object_at_the_edge_of_a_region_is_found_and_one_beside_it_is_not(axis, way):
    scene, inside = ellipsoid((1.0, 1.0, 1.0))
    tight = Box((21, 23, 18), (39, 37, 42))
    for share, there in ((0.9, True), (1.0, False)):
        shift = [0, 0, 0]
        shift[axis] = way * round(share * tight.extent[axis])
        box = tight.moved(shift)
        assert centre_object(scene, box.expand(scene.shape, 1.5)) is None
        found = nearest_object(scene, box)
        assert (found is not None) == there
        if found is not None:
            assert np.array_equal(found[1], inside[found[0].slices])


def volume_ml(scene, corners):
    """What is measured in a region; None for nothing."""
    found = nearest_object(scene, Box.from_corners(corners))
    return None if found is None else measure(scene, *found).volume_ml


def test_of_two_objects_in_a_region_the_nearer_one_is_measured_and_none_outside_of_it():
    image = np.random.default_rng(0).normal(0, 3, (1, 60, 60, 30)).astype(np.float32)
    image[:, 10:18, 20:28, 10:18] += 90
    image[:, 30:42, 20:32, 10:22] += 90
    scene = VolumeScene(image, key="a", window=(0.0, 200.0))
    assert volume_ml(scene, [2, 12, 4, 36, 36, 26]) == pytest.approx(8**3 / 1000, rel=0.1)
    assert volume_ml(scene, [12, 12, 4, 46, 36, 26]) == pytest.approx(12**3 / 1000, rel=0.1)
    assert volume_ml(scene, [4, 44, 2, 16, 56, 12]) is None  # noise alone
    reply = Measure().use(ToolCall("Measure", box=Box((19, 16, 6), (29, 32, 22))), scene).reply
    assert "object" not in reply  # they lie beside this region, and nothing in it
    for box in (Box((50, 50, 20), (64, 64, 40)), Box((0, 0), (9, 9))):
        with pytest.raises(GeometryError):
            nearest_object(scene, box)


@pytest.mark.parametrize("x", [0, 2, 3, 5, 8, 30])
def test_what_the_border_of_a_scene_cuts_is_measured_up_to_there(x):
    grid = np.stack(np.meshgrid(*[np.arange(40) + 0.5] * 3, indexing="ij"))
    inside = np.linalg.norm(grid - np.array([x, 20, 20]).reshape(3, 1, 1, 1), axis=0) < 5
    noise = np.random.default_rng(0).normal(0, 3, (40, 40, 40))
    scene = VolumeScene((80 * inside + noise)[None].astype(np.float32), key="a", window=(0.0, 200.0))
    for side in (8, 12, 16):
        box = Box(
            (x - side // 2, 20 - side // 2, 20 - side // 2), (x + side // 2, 20 + side // 2, 20 + side // 2)
        )
        region, mask = nearest_object(scene, box.clip(scene.shape))
        truth = inside[region.slices]
        assert 2 * (mask & truth).sum() / (mask.sum() + inside.sum()) > 0.95


def test_what_is_longer_than_its_region_is_followed_and_what_goes_on_to_all_sides_has_no_outline():
    image = np.zeros((1, 90, 40, 40), np.float32)
    image[:, 30:60, 14:26, 14:26] = 100
    scene = VolumeScene(image, key="a", window=(0.0, 200.0))
    region, mask = nearest_object(scene, Box((30, 11, 11), (42, 29, 29)))
    assert measure(scene, region, mask).sides == (30.0, 12.0, 12.0)
    sheet = np.zeros((1, 90, 90, 30), np.float32)
    sheet[:, 5:85, 5:85, 12:18] = 100
    scene = VolumeScene(sheet, key="a", window=(0.0, 200.0))
    assert nearest_object(scene, Box((40, 40, 10), (50, 50, 20))) is None


def test_a_volume_of_one_slice_has_objects_and_their_holes_are_filled():
    image = np.zeros((1, 40, 40, 1), np.float32)
    image[:, 10:24, 10:24] = 100
    image[:, 15:19, 15:19] = 0
    scene = VolumeScene(image, key="a", window=(0.0, 200.0))
    _, mask = nearest_object(scene, Box((9, 9, 0), (25, 25, 1)))
    assert mask.sum() == 14 * 14


def test_an_object_of_a_picture_is_measured_in_pixels():
    image = np.zeros((1, 80, 60), np.uint8)
    image[:, 30:42, 20:30] = 200
    found = measure(scene := ImageScene(image, key="a"), *nearest_object(scene, Box((34, 12), (50, 28))))
    assert (found.sides, found.unit, found.volume_ml) == ((12.0, 10.0), "px", None)


@pytest.mark.parametrize(("family", "least"), [("diameter", 0.8), ("volume", 0.8), ("density", 0.8)])
def test_a_textured_lesion_is_measured_within_the_tolerance_of_its_question(family, least):
    data, right = PhantomVQA3D("val", size=16, families=[family]), []
    for index in range(len(data)):
        case, kind = data[index], data.phantom(index).words[0]
        lesion = next(f.box for f in case.scene.findings if f" {kind} " in f.label)
        off = Box(tuple(v + 1 for v in lesion.start), tuple(v + 1 for v in lesion.stop))
        reply = Measure().use(ToolCall("Measure", box=off), case.scene).reply
        pattern = {"diameter": r"ball of ([\d.]+ mm)", "volume": r"([\d.]+ ml)", "density": r"mean (-?\d+)"}
        said = re.findall(pattern[family], reply)
        right.append(bool(said) and answers_match(said[-1], case))
    assert np.mean(right) > least


def test_where_nothing_stands_out_only_the_region_is_measured():
    scene = VolumeScene(np.full((1, 20, 20, 20), 7, np.int16), key="a")
    call = ToolCall("Measure", box=Box((0, 0, 0), (4, 4, 4)))
    assert Measure().use(call, scene).reply == "box 4.0 x 4.0 x 4.0 mm, diagonal 6.9 mm, mean 7, SD 0"
    plain = ImageScene(np.zeros((1, 90, 90), np.uint8), key="a")
    reply = Measure(outline=None).use(ToolCall("Measure", box=Box((0, 0), (30, 40))), plain).reply
    assert reply == "box 30.0 x 40.0 px, diagonal 50.0 px, mean 0, SD 0"
    with pytest.raises(GeometryError, match="inside a scene"):
        measure(scene, Box((0, 0, 0), (4, 4, 40)))
    with pytest.raises(GeometryError, match="something in it"):
        measure(scene, Box((0, 0, 0), (4, 4, 4)), np.zeros((4, 4, 4), bool))


def test_where_looks_are_blanked_nothing_is_measured_and_nothing_breaks():
    scene, _ = ellipsoid((1.0, 1.0, 1.0))
    call = ToolCall("Measure", box=Box((20, 20, 20), (40, 40, 40)))
    assert Measure().use(call, BlankedScene(scene)).reply == "nothing can be measured in this image"
    assert Measure().use(replace(call, box=None), scene).reply == "a region is measured, give one"


def test_a_window_changes_what_is_shown_and_not_what_is_there():
    scene, _ = ellipsoid((1.0, 1.0, 1.0))
    outcome = Window().use(ToolCall("Window", values=(("centre", 60), ("width", 40))), scene)
    assert outcome.reply == "centre 60, width 40"
    assert torch.equal(outcome.scene.image, scene.image)
    fresh = VolumeScene(scene.image, key="a", window=(60.0, 40.0))
    box = Box((20, 20, 20), (40, 40, 40))
    assert np.array_equal(outcome.scene.look(box).pixels, fresh.look(box).pixels)
    assert np.array_equal(outcome.scene.overview().pixels, fresh.overview().pixels)
    assert outcome.scene.content_digest != scene.content_digest
    narrow = Window().use(ToolCall("Window", values=(("centre", 60), ("width", 0))), scene)
    assert narrow == ("the width of a window is above 0", scene)


class Handy(LookingPolicy):
    """Measures, then looks, then changes the window, then answers; whatever its tokens are."""

    def decode(self, token_ids):
        turns = getattr(self, "turns_said", 0)
        self.turns_said = turns + 1
        box = "[2,2,2,12,14,10]"
        return (
            f'<reasoning>a</reasoning><action>{{"name":"Measure","coordinate":{box}}}</action>',
            f'<reasoning>b</reasoning><action>{{"name":"Gaze","coordinate":{box}}}</action>',
            '<reasoning>c</reasoning><action>{"name":"Window","centre":60,"width":40}</action>',
            f'<reasoning>d</reasoning><action>{{"name":"Gaze","coordinate":{box}}}</action>',
            "<reasoning>e</reasoning><answer>yes</answer>",
        )[turns % 5]


def test_a_policy_uses_tools_where_they_are_on_and_breaks_off_where_they_are_not(checkpoints, tmp_path):
    policy = Handy(checkpoints["qwen3_vl"])
    scene, _ = ellipsoid((1.0, 1.0, 1.0))
    case = Case("q", scene, "How large?")
    tools = make_tools(["Measure", "Window"])
    (episode,) = rollout(policy, [case], draws=1, max_turn_tokens=4, greedy=True, tools=tools)
    path = episode.trajectory
    assert (episode.defect, path.answer, len(path.boxes)) == (None, "yes", 2)
    assert [(call.name, call.after) for call in path.calls] == [("Measure", 0), ("Window", 1)]
    box = path.boxes[0]
    assert path.calls[0].box == box
    assert path.calls[0].reply == Measure().use(path.calls[0], scene).reply
    first, last = episode.pictures[1:]
    assert np.array_equal(first, scene.look(box).pixels)
    assert np.array_equal(last, scene.with_window((60.0, 40.0)).look(box).pixels)
    assert grammar(episode, case) == 1
    assert policy.reply(path.calls[0].reply).token_ids[1:-1]
    said = tuple(episode.token_ids.tolist())
    reply = policy.encode(path.calls[0].reply)
    assert any(said[i : i + len(reply)] == reply for i in range(len(said)))

    page = write_report(tmp_path, title="T", tables={}, episodes=[(episode, case)]).read_text()
    steps = page.split("<li>")[1:]
    assert ['class="crop"' in step for step in steps] == [False, True, False, True, False]
    assert path.calls[0].reply in steps[0]

    policy.turns_said = 0
    (paper,) = rollout(policy, [case], draws=1, max_turn_tokens=4, greedy=True)
    assert (paper.defect, paper.trajectory.calls) == ("bad_action", ())


def test_an_experts_path_with_calls_is_written_as_a_rollout_has_it(checkpoints):
    policy = Handy(checkpoints["qwen3_vl"])
    scene, _ = ellipsoid((1.0, 1.0, 1.0))
    case, tools = Case("q", scene, "How large?"), make_tools(["Measure", "Window"])
    (drawn,) = rollout(policy, [case], draws=1, max_turn_tokens=4, greedy=True, tools=tools)
    written = write_episode(drawn.trajectory, case, policy, tools=tools)
    assert written.trajectory == drawn.trajectory
    assert all(np.array_equal(a, b) for a, b in zip(written.pictures, drawn.pictures, strict=True))
    assert len(written.turns) == len(drawn.turns) == 5
    feedback = [policy.reply(call.reply).token_ids for call in drawn.trajectory.calls]
    for episode in (written, drawn):
        unsaid = episode.token_ids[~episode.response_mask].tolist()
        assert all(set(ids) <= set(unsaid) for ids in feedback)
    assert parse(render(written.trajectory), tools=FORMS).trajectory == written.trajectory


class Mixed(LookingPolicy):
    """Measures, looks or answers, as its tokens fall."""

    def decode(self, token_ids):
        number, box = sum(token_ids) % 4, "[10,10,90,110]"
        if number == 3:
            return "<reasoning>so</reasoning><answer>solid</answer>"
        name = "Gaze" if number == 2 else "Measure"
        return f'<reasoning>so</reasoning><action>{{"name":"{name}","coordinate":{box}}}</action>'


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_of_episodes_with_replies_equal_one_full_pass(checkpoints, family):
    policy = Mixed(checkpoints[family])
    cases = phantom_cases(policy, 2)
    episodes = rollout(policy, cases, draws=4, max_turn_tokens=8, tools=make_tools(["Measure"]))
    assert len({len(episode.trajectory.calls) for episode in episodes}) > 1
    with torch.no_grad():
        full = policy.score(episodes).logprobs
    for row, episode in enumerate(episodes):
        mask = episode.response_mask
        got = full[row, : len(episode)][mask]
        torch.testing.assert_close(episode.behaviour_logprobs[mask], got, atol=1e-5, rtol=0)


def test_calls_have_a_limit_of_their_own(checkpoints):
    class Measuring(LookingPolicy):
        def decode(self, token_ids):
            return '<reasoning>a</reasoning><action>{"name":"Measure","coordinate":[2,2,40,40]}</action>'

    policy = Measuring(checkpoints["qwen3_vl"])
    (case,) = phantom_cases(policy, 1)
    (episode,) = rollout(
        policy, [case], draws=1, max_turn_tokens=4, greedy=True, tools=make_tools(["Measure"])
    )
    assert (episode.defect, len(episode.trajectory.calls)) == ("no_answer", 4)
