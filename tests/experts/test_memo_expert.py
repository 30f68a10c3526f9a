"""The memo: asks once, knows pictures by what they show, trusts no file, and shares with other processes."""

import json
import math
import multiprocessing
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from expert_scenes import EXACT, QUERY, RingReader, bare_scene, make_scene, make_volume
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from medeyes_monai.errors import ExpertError
from medeyes_monai.experts import (
    AnnotationExpert,
    BlobExpert,
    Candidate,
    MemoExpert,
    RandomBoxExpert,
    Verdict,
    checked,
)
from medeyes_monai.experts.memo_file import Asked, MemoError, decode, encode
from medeyes_monai.geometry import Box
from medeyes_monai.io import write_atomic
from medeyes_monai.scenes import Finding, ImageScene, Scene

WRITERS = 4


class Masked(AnnotationExpert):
    """The annotation expert, with outlines, and apart from others."""

    def scan(self, scene: Scene, query: str):
        outline = lambda box: np.random.default_rng(box.start[0]).random(box.extent) < 0.5  # noqa: E731
        return tuple(
            Candidate(c.box, c.confidence, c.finding, outline(c.box), 0.25)
            for c in super().scan(scene, query)
        )

    def drill(self, scene: Scene, box: Box, query: str):
        verdict = super().drill(scene, box, query)
        return Verdict(verdict.confidence, verdict.finding, verdict.answer, 0.75)


class PixelExpert:
    """Sees the mean of the pixels and knows nothing of keys."""

    name = "pixels"

    def __init__(self):
        self.asked = 0

    def scan(self, scene, query):
        self.asked += 1
        level = float(scene.overview().pixels.mean()) / 255
        return [Candidate(Box.whole(scene.shape), level, "whole")]

    def drill(self, scene, box, query):
        self.asked += 1
        return Verdict(float(scene.look(box).pixels.mean()) / 255, "part")


def picture(level=100, key="a", **arguments):
    return ImageScene(np.full((1, 128, 96), level, np.uint8), key=key, **arguments)


def files(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def ask(expert, scenes):
    said = []
    for scene in scenes:
        for query in (QUERY, "Is there a disc? ü"):
            for c in expert.scan(scene, query):
                mask = None if c.mask is None else c.mask.tolist()
                said.append((c.box, c.confidence, c.finding, mask, c.disagreement))
                said.append(expert.drill(scene, c.box, query))
    return said


def test_a_memo_says_what_its_expert_says_and_asks_once(tmp_path):
    scenes = [make_scene("a"), make_scene("b")]
    plain, memo = Masked(RingReader()), MemoExpert(Masked(RingReader()), tmp_path)
    expected = ask(plain, scenes)
    assert ask(memo, scenes) == expected == ask(memo, scenes)
    drills = sum(isinstance(s, Verdict) for s in expected)
    assert memo.calls == {"scan": 4, "drill": drills}  # two images, two queries
    assert memo.hits == {"scan": 4, "drill": drills}
    again = MemoExpert(Masked(RingReader()), tmp_path)
    assert ask(again, scenes) == expected
    assert again.calls == {}
    assert again.hits == {"scan": 4, "drill": drills}


# What a reply is known by.


def test_the_same_picture_under_another_key_is_known(tmp_path):
    memo = MemoExpert(PixelExpert(), tmp_path)
    first = memo.scan(picture(key="one"), QUERY)
    assert memo.scan(picture(key="other"), QUERY) is first
    assert MemoExpert(PixelExpert(), tmp_path).scan(picture(key="third"), QUERY)[0].box == first[0].box
    assert memo.calls == {"scan": 1}


CHANGED = {
    "pixels": picture(101),
    "type": ImageScene(np.full((3, 128, 96), 100, np.uint8), key="a"),
    "shape": ImageScene(np.full((1, 96, 128), 100, np.uint8), key="a"),
    "affine": ImageScene(
        MetaTensor(torch.full((1, 128, 96), 100, dtype=torch.uint8), affine=torch.eye(4) * 2), key="a"
    ),
    "findings": picture(findings=[Finding(Box((0, 0), (9, 9)), "ring")]),
    "overview": picture(overview_pixels=64 * 64),
    "looks": picture(look_pixels=96 * 96),
}


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED.keys())
def test_a_changed_picture_under_the_same_key_is_asked_anew(changed):
    memo = MemoExpert(PixelExpert())
    memo.scan(picture(), QUERY)
    memo.scan(changed, QUERY)
    assert memo.calls == {"scan": 2}


def test_one_pixel_of_another_value_is_another_picture():
    image = np.zeros((1, 128, 96), np.uint8)
    plain, dotted = ImageScene(image, key="a"), ImageScene(image.copy(), key="a")
    dotted.image[0, 5, 7] = 1
    assert plain.content_digest != dotted.content_digest


def test_experts_that_draw_by_the_key_do_not_share_what_they_drew():
    assert MemoExpert(AnnotationExpert()).reads_key
    assert not MemoExpert(BlobExpert()).reads_key
    memo = MemoExpert(AnnotationExpert())
    assert (
        memo.scan(make_scene("a"), QUERY)[0].confidence
        == AnnotationExpert().scan(make_scene("a"), QUERY)[0].confidence
    )
    assert (
        memo.scan(make_scene("b"), QUERY)[0].confidence
        == AnnotationExpert().scan(make_scene("b"), QUERY)[0].confidence
    )
    assert memo.calls == {"scan": 2}


def test_a_scene_that_does_not_tell_its_content_is_known_by_key_and_shape():
    memo = MemoExpert(RandomBoxExpert(2))
    for scene in (bare_scene("a"), bare_scene("a"), bare_scene("b"), bare_scene("a", shape=(300, 300))):
        memo.scan(scene, QUERY)
    assert memo.calls == {"scan": 3}


@pytest.mark.parametrize(
    "change",
    [
        {"image": "another"},
        {"expert": "another"},
        {"version": "2"},
        {"query": "another"},
        {"box": Box((0, 0), (1, 2))},
        {"box": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_part_of_what_was_asked_makes_another_file(change):
    asked = {"image": "i", "expert": "e", "version": "", "query": "q", "box": Box((0, 0), (1, 1))}
    assert Asked(**asked).key != Asked(**asked | change).key


def test_replies_of_another_version_or_other_settings_are_not_taken(tmp_path):
    MemoExpert(AnnotationExpert(seed=0), tmp_path).scan(make_scene("a"), QUERY)
    for memo in (
        MemoExpert(AnnotationExpert(seed=1), tmp_path),
        MemoExpert(AnnotationExpert(seed=0), tmp_path, version="2"),
    ):
        memo.scan(make_scene("a"), QUERY)
        assert memo.calls == {"scan": 1}


def test_a_memo_leaves_it_to_its_expert_to_refuse_a_kind_of_image():
    class Flat(PixelExpert):
        axes = (2,)

    with pytest.raises(ExpertError, match="takes pictures, the scene has 3 axes"):
        MemoExpert(Flat()).scan(make_volume(), QUERY)


def test_what_is_known_is_told_without_a_word_from_the_expert(tmp_path):
    class Away(PixelExpert):
        @property
        def axes(self):
            raise ExpertError("away")

        scan = drill = axes

    expected = checked.scan(MemoExpert(PixelExpert(), tmp_path), picture(), QUERY)
    told = checked.scan(MemoExpert(Away(), tmp_path), picture(), QUERY)
    assert [(c.box, c.confidence) for c in told] == [(c.box, c.confidence) for c in expected]
    with pytest.raises(ExpertError, match="away"):
        checked.scan(MemoExpert(Away(), tmp_path), picture(), "another question")


def test_a_memo_that_drops_images_from_memory_still_has_them_on_disk(tmp_path):
    scenes = [make_scene(str(n)) for n in range(3)]
    memo = MemoExpert(AnnotationExpert(), tmp_path, max_images=1)
    for _ in range(2):
        for scene in scenes:
            memo.scan(scene, QUERY)
    assert memo.calls == {"scan": 3}
    forgetful = MemoExpert(AnnotationExpert(), max_images=1)
    for _ in range(2):
        for scene in scenes:
            forgetful.scan(scene, QUERY)
    assert forgetful.calls == {"scan": 6}


# Files that cannot be trusted.


def damage_by_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def damage_one_digit(data: bytes) -> bytes:
    return data.replace(b'"box": [118,', b'"box": [119,', 1)


def changed_content(**changes):
    def change(data: bytes) -> bytes:
        whole = json.loads(data)
        whole["content"] |= changes
        return json.dumps(whole).encode()

    return change


DAMAGES = {
    "half": damage_by_half,
    "digit": damage_one_digit,
    "other reply": changed_content(reply=[]),
    "other format": changed_content(format=1),
    "empty": lambda data: b"",
    "binary": lambda data: b"\xff\xfe\x00",
    "no object": lambda data: b"[1, 2]",
    "deep": lambda data: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_memo_is_asked_again_with_a_warning_and_repaired(tmp_path, damage):
    scene, exact = make_scene(), AnnotationExpert(RingReader(), **EXACT)
    expected = [c.box for c in MemoExpert(exact, tmp_path).scan(scene, QUERY)]
    (path,) = files(tmp_path)
    assert damage(path.read_bytes()) != path.read_bytes()
    path.write_bytes(damage(path.read_bytes()))
    memo = MemoExpert(exact, tmp_path)
    with pytest.warns(UserWarning, match="asked again"):
        assert [c.box for c in memo.scan(scene, QUERY)] == expected
    assert memo.calls == {"scan": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repaired = MemoExpert(exact, tmp_path)
        repaired.scan(scene, QUERY)
    assert repaired.calls == {}


def test_a_reply_in_the_place_of_another_is_not_taken(tmp_path):
    memo = MemoExpert(AnnotationExpert(**EXACT), tmp_path)
    scene, box = make_scene(), Box((118, 68), (182, 132))
    memo.drill(scene, box, QUERY)
    (good,) = files(tmp_path)
    memo.drill(scene, box, "another question")
    (other,) = set(files(tmp_path)) - {good}
    other.write_bytes(good.read_bytes())
    again = MemoExpert(AnnotationExpert(**EXACT), tmp_path)
    with pytest.warns(UserWarning, match="belongs to another image, expert, question or version"):
        again.drill(scene, box, "another question")


def test_a_file_too_large_to_be_a_reply_is_not_read(tmp_path, monkeypatch):
    MemoExpert(PixelExpert(), tmp_path).scan(picture(), QUERY)
    monkeypatch.setattr("medeyes_monai.experts.memo.LARGEST_BYTES", 20)
    with pytest.warns(UserWarning, match="larger than 20 bytes"):
        MemoExpert(PixelExpert(), tmp_path).scan(picture(), QUERY)


def test_a_memo_of_the_first_version_is_said_to_be_of_no_use(tmp_path):
    (tmp_path / "0123456789abcdef.json").write_text("{}")
    with pytest.warns(UserWarning, match="earlier version, which are not used"):
        MemoExpert(PixelExpert(), tmp_path)


def test_a_reply_with_a_good_checksum_is_still_held_to_the_contract():
    scene, box = make_scene(), Box((0, 0), (9, 9))
    scan, drill = (Asked("i", "same", "", QUERY, where) for where in (None, box))
    outside = (Candidate(Box((0, 0), (9999, 9)), 0.5),)
    torn = (Candidate(box, 0.5, "", np.ones((9, 9), bool), 3.0),)
    for asked, reply in ((scan, outside), (scan, torn), (drill, Verdict(7.0, "ring"))):
        with pytest.raises(MemoError):
            decode(encode(asked, reply), asked, scene)
    with pytest.raises(MemoError):  # a scan's reply to a drill
        decode(encode(drill, ()), drill, scene)


@given(
    corner=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    sides=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    numbers=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    text=st.text(max_size=30),
    outlined=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_reply_comes_back_from_its_file_as_it_was(corner, sides, numbers, text, outlined):
    box = Box(corner, (corner[0] + sides[0], corner[1] + sides[1]))
    mask = np.random.default_rng(corner).random(sides) < 0.5 if outlined else None
    scan = Asked("i", "e", "", text)
    (back,) = decode(encode(scan, (Candidate(box, numbers[0], text, mask, numbers[1]),)), scan, make_scene())
    assert (back.box, back.confidence, back.finding, back.disagreement) == (box, numbers[0], text, numbers[1])
    assert mask is None or np.array_equal(back.mask, mask)
    drill, verdict = Asked("i", "e", "", text, box), Verdict(numbers[0], text, text or None, numbers[1])
    assert decode(encode(drill, verdict), drill, make_scene()) == verdict


def test_a_broken_reply_is_not_remembered(tmp_path):
    class Broken(RandomBoxExpert):
        def drill(self, scene, box, query):
            return Verdict(math.nan, "")

    memo = MemoExpert(Broken(), tmp_path)
    for _ in range(2):
        with pytest.raises(ExpertError, match="random-"):
            memo.drill(make_scene(), Box((0, 0), (9, 9)), QUERY)
    assert memo.calls["drill"] == 2
    assert files(tmp_path) == []


# Several processes.


def fill(folder, seed, start, done):
    """Ask about all pictures in an order of one's own, beginning with the others."""
    start.wait(60)
    order = np.random.default_rng(seed).permutation(WRITERS * 5).tolist()
    memo = MemoExpert(PixelExpert(), folder)
    for level in order:
        memo.scan(picture(level), QUERY)
        memo.drill(picture(level), Box((0, 0), (64, 64)), f"look {seed}")
    done.put(dict(memo.calls))


@pytest.mark.filterwarnings("error")
def test_four_processes_that_write_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["medeyes_monai.experts"])  # imported once for all of them
    start, done = context.Barrier(WRITERS), context.Queue()
    writers = [context.Process(target=fill, args=(tmp_path, n, start, done)) for n in range(WRITERS)]
    for writer in writers:
        writer.start()
    calls = sum((Counter(done.get(timeout=100)) for _ in writers), Counter())
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    assert calls["drill"] == WRITERS * WRITERS * 5  # each its own
    reader = MemoExpert(PixelExpert(), tmp_path)
    for level in range(WRITERS * 5):
        assert reader.scan(picture(level), QUERY)[0].confidence == pytest.approx(level / 255)
        for n in range(WRITERS):
            reader.drill(picture(level), Box((0, 0), (64, 64)), f"look {n}")
    assert reader.calls == {}
    assert len(files(tmp_path)) == (1 + WRITERS) * WRITERS * 5  # no half file is left


def test_a_process_knows_at_once_what_another_has_asked_since_it_began(tmp_path):
    early, late = MemoExpert(PixelExpert(), tmp_path), MemoExpert(PixelExpert(), tmp_path)
    early.drill(picture(), Box((0, 0), (9, 9)), QUERY)
    late.scan(picture(), QUERY)
    assert early.scan(picture(), QUERY)[0].box == Box.whole((128, 96))
    assert early.calls == {"drill": 1}


def test_a_file_that_need_not_last_is_still_whole_or_absent(tmp_path):
    write_atomic(tmp_path / "a.json", b"old")
    write_atomic(tmp_path / "a.json", b"new", durable=False)
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "a.json", None, durable=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"new"
