"""Policies that look into volumes: with an expert, into studies on disk, with tools, and within a time."""

from functools import partial

import nibabel
import numpy as np
import pytest
import torch
from policies import LookingPolicy
from searched import QUESTION, Counting, ball, oriented

from medeyes_monai.focus import world_of, write_focus
from medeyes_monai.geometry import carry_box
from medeyes_monai.inferers import FocusInferer
from medeyes_monai.io import open_volume, read_volume
from medeyes_monai.navigator import Navigator
from medeyes_monai.protocol import render_call
from medeyes_monai.scenes import StreamedScene, VolumeScene
from medeyes_monai.tools import Measure

WINDOW = (-400.0, 1200.0)
PLACE = "[4,2,3,14,12,12]"


class InDepth(LookingPolicy):
    """Looks at two boxes with six numbers, then answers; whatever its tokens are."""

    turns = (
        '<reasoning>a</reasoning><action>{"name":"Gaze","coordinate":[4,2,3,14,12,12]}</action>',
        '<reasoning>b</reasoning><action>{"name":"Gaze","coordinate":[8,9,20,30,31,22]}</action>',
        "<reasoning>c</reasoning><answer>yes</answer>",
    )

    def decode(self, token_ids):
        said = getattr(self, "said", 0)
        self.said = said + 1
        return self.turns[said % len(self.turns)]


class Handy(InDepth):
    """Measures, looks, changes the window, looks at the same place again, and answers."""

    turns = (
        f'<reasoning>a</reasoning><action>{{"name":"Measure","coordinate":{PLACE}}}</action>',
        f'<reasoning>b</reasoning><action>{{"name":"Gaze","coordinate":{PLACE}}}</action>',
        '<reasoning>c</reasoning><action>{"name":"Window","centre":-700,"width":300}</action>',
        f'<reasoning>d</reasoning><action>{{"name":"Gaze","coordinate":{PLACE}}}</action>',
        "<reasoning>e</reasoning><answer>yes</answer>",
    )


def test_a_policy_goes_on_from_an_experts_looks_into_a_volume(checkpoints):
    policy = InDepth(checkpoints["qwen3_vl"])
    volume, box = ball()
    image, there = oriented(volume, box, (2, 0, 1), (0, 2))
    infer = FocusInferer(
        Counting(), max_looks=4, expert_looks=1, max_turn_tokens=6, slab_mm=50,
        volume_scene=partial(VolumeScene, patch=policy.patch, window=WINDOW),
        navigator=partial(Navigator, min_extent=8),
    )  # fmt: skip
    focus = infer(image, policy, question=QUESTION)
    assert (focus.answer, focus.ended) == ("yes", "answered")
    assert [look.confidence for look in focus.trajectory.fixations] == [0.5, None, None]
    assert focus.boxes[0].contains(there.centre)  # the expert's, seen by the policy
    scene, frame = focus.case.scene, policy.frame(focus.case.scene)
    said = [look.box.scale(scene.shape, frame).corners for look in focus.trajectory.fixations[1:]]
    assert said == [(4, 2, 3, 14, 12, 12), (8, 9, 20, 30, 31, 22)]
    for look, stored in zip(focus.trajectory.fixations, focus.boxes, strict=True):
        assert carry_box(stored, image.affine.numpy(), np.asarray(scene.image.affine)) == look.box
    shown = [scene.overview(), *(scene.look(look.box) for look in focus.trajectory.fixations)]
    for picture, view in zip(focus.episode.pictures, shown, strict=True):
        assert np.array_equal(picture, view.pixels)
    values = focus.focus_map()[0]
    assert values[focus.boxes[1].slices].min() == 1
    assert values[tuple(int(c) for c in there.centre)] >= 0.5


@pytest.fixture
def both(tmp_path):
    """How a study is shown from disk, and how from memory."""
    volume, _ = ball()
    affine = np.array([[-1.0, 0, 0, 9], [0, 1, 0, -20], [0, 0, -2, 30], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(volume[0].numpy(), affine), tmp_path / "a.nii")
    return (
        partial(StreamedScene, open_volume(tmp_path / "a.nii"), key="a", window=WINDOW),
        partial(VolumeScene, read_volume(tmp_path / "a.nii"), key="a", window=WINDOW),
    )


@pytest.mark.parametrize("expert", [None, Counting])
def test_a_policy_looks_into_a_study_on_disk_as_into_one_in_memory(checkpoints, both, expert):
    policy = InDepth(checkpoints["qwen3_vl"])
    infer = FocusInferer(expert and expert(), expert_looks=1, max_turn_tokens=6, slab_mm=50)
    streamed, whole = (infer(make(patch=policy.patch), policy, question=QUESTION) for make in both)
    assert streamed.answer == "yes"
    assert len(streamed.boxes) == (3 if expert else 2)
    assert streamed.trajectory == whole.trajectory
    assert torch.equal(streamed.episode.token_ids, whole.episode.token_ids)
    assert all(map(np.array_equal, streamed.episode.pictures, whole.episode.pictures))
    assert [place.centre_mm for place in streamed.places] == [place.centre_mm for place in whole.places]


@pytest.mark.parametrize("expert", [None, Counting])
def test_an_inferer_with_tools_measures_and_changes_the_window_in_memory_and_on_disk(
    checkpoints, both, expert, tmp_path
):
    policy = Handy(checkpoints["qwen3_vl"])
    infer = FocusInferer(
        expert and expert(), expert_looks=1, max_turn_tokens=6, tools=["Measure", "Window"], slab_mm=50
    )
    streamed, whole = (infer(make(patch=policy.patch), policy, question=QUESTION) for make in both)
    assert streamed.trajectory == whole.trajectory
    before = 1 if expert else 0
    measured, shaded = whole.trajectory.calls
    assert (whole.answer, whole.ended, len(whole.boxes)) == ("yes", "answered", before + 2)
    assert [(call.name, call.after) for call in (measured, shaded)] == [
        ("Measure", before), ("Window", before + 1),
    ]  # fmt: skip
    scene, box = whole.case.scene, whole.trajectory.boxes[-1]
    assert measured.box == box
    assert measured.reply == Measure().use(measured, scene).reply
    assert shaded.reply == "centre -700, width 300"
    assert render_call(shaded) in policy.turns[2]
    for focus in (streamed, whole):
        first, last = focus.episode.pictures[-2:]
        assert np.array_equal(first, scene.look(box).pixels)
        assert np.array_equal(last, scene.with_window((-700.0, 300.0)).look(box).pixels)
        *_, told = write_focus(focus, tmp_path)
        assert measured.reply in told.read_text()
        assert [call["tool"] for call in world_of(focus)["calls"]] == ["Measure", "Window"]

    policy.said = 0
    paper = FocusInferer(expert and expert(), expert_looks=1, max_turn_tokens=6, slab_mm=50)
    refused = paper(both[1](patch=policy.patch), policy, question=QUESTION)
    assert (refused.ended, refused.trajectory.calls) == ("bad_action", ())


def test_the_time_of_an_image_begins_before_its_scene_is_made_and_ends_before_the_next(checkpoints):
    now, order = [0.0], []

    def slow(image, **settings):
        now[0] += 3.0
        order.append("made")
        return VolumeScene(image, **settings)

    class Noting(Counting):
        def scan(self, scene, query):
            order.append("scanned")
            return super().scan(scene, query)

    volume, _ = ball()
    infer = partial(FocusInferer, slab_mm=999, volume_scene=slow, max_looks=1, clock=lambda: now[0])
    first, second = infer(Noting(), max_seconds=4.0)([volume, volume], question=QUESTION)
    assert (first.seconds, second.seconds) == (3.0, 3.0)
    assert len(first.boxes) == len(second.boxes) == 1
    assert order == ["made", "scanned", "made", "scanned"]
    late = infer(Noting(), max_seconds=2.0)(volume, question=QUESTION)
    assert (late.ended, late.boxes, late.seconds) == ("budget", (), 3.0)
    policy = InDepth(checkpoints["qwen3_vl"])
    for seconds, ended, looks in ((2.0, "budget", 0), (4.0, "no_answer", 1)):
        policy.said = 0
        focus = infer(max_seconds=seconds, max_turn_tokens=6)(volume, policy, question=QUESTION)
        assert (focus.ended, len(focus.boxes), focus.seconds) == (ended, looks, 3.0)
