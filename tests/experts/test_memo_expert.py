import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from expert_scenes import EXACT, QUERY, RingReader, make_scene

from medeyes_monai.errors import ExpertError
from medeyes_monai.experts import AnnotationExpert, Candidate, MemoExpert, RandomBoxExpert, Verdict
from medeyes_monai.experts.memo_file import ImageMemo, MemoError, decode, encode
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene


class Masked(AnnotationExpert):
    """The annotation expert, with outlines."""

    def scan(self, scene: Scene, query: str):
        outline = lambda box: np.random.default_rng(box.start[0]).random(box.extent) < 0.5  # noqa: E731
        return tuple(
            Candidate(c.box, c.confidence, c.finding, outline(c.box)) for c in super().scan(scene, query)
        )


def ask(expert, scenes):
    said = []
    for scene in scenes:
        for query in (QUERY, "Is there a disc? ü"):
            for c in expert.scan(scene, query):
                said.append((c.box, c.confidence, c.finding, None if c.mask is None else c.mask.tolist()))
                said.append(expert.drill(scene, c.box, query))
    return said


def test_a_memo_says_what_its_expert_says_and_asks_once(tmp_path):
    scenes = [make_scene("a"), make_scene("b")]
    plain, memo = Masked(RingReader()), MemoExpert(Masked(RingReader()), tmp_path)
    expected = ask(plain, scenes)
    assert ask(memo, scenes) == expected == ask(memo, scenes)
    drills = sum(isinstance(s, Verdict) for s in expected)
    assert memo.calls == {"scan": 4, "drill": drills}  # two images, two queries
    again = MemoExpert(Masked(RingReader()), tmp_path)
    assert ask(again, scenes) == expected
    assert again.calls == {}


def test_a_memo_of_other_settings_or_images_is_not_taken(tmp_path):
    MemoExpert(AnnotationExpert(seed=0), tmp_path).scan(make_scene("a"), QUERY)
    for expert, scene in ((AnnotationExpert(seed=1), make_scene("a")), (AnnotationExpert(), make_scene("b"))):
        memo = MemoExpert(expert, tmp_path)
        memo.scan(scene, QUERY)
        assert memo.calls["scan"] == 1


def test_a_memo_that_drops_images_from_memory_still_has_them_on_disk(tmp_path):
    scenes = [make_scene(str(n)) for n in range(3)]
    memo = MemoExpert(AnnotationExpert(), tmp_path, max_images=1)
    for _ in range(2):
        for scene in scenes:
            memo.scan(scene, QUERY)
    assert memo.calls["scan"] == 3


def damage_by_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def damage_one_digit(data: bytes) -> bytes:
    return data.replace(b'"box": [118,', b'"box": [119,', 1)


def damage_by_taking_anothers_place(data: bytes) -> bytes:
    whole = json.loads(data)
    whole["content"]["image"] = "someone else's"
    return json.dumps(whole).encode()


DAMAGES = {
    "half": damage_by_half,
    "digit": damage_one_digit,
    "other image": damage_by_taking_anothers_place,
    "empty": lambda data: b"",
    "binary": lambda data: b"\xff\xfe\x00",
    "no object": lambda data: b"[1, 2]",
    "deep": lambda data: b"[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_memo_is_asked_again_with_a_warning_and_repaired(tmp_path, damage):
    scene, exact = make_scene(), AnnotationExpert(RingReader(), **EXACT)
    expected = [c.box for c in MemoExpert(exact, tmp_path).scan(scene, QUERY)]
    (path,) = Path(tmp_path).iterdir()
    assert damage(path.read_bytes()) != path.read_bytes()
    path.write_bytes(damage(path.read_bytes()))
    memo = MemoExpert(exact, tmp_path)
    with pytest.warns(UserWarning, match="asked again"):
        assert [c.box for c in memo.scan(scene, QUERY)] == expected
    assert memo.calls["scan"] == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        repaired = MemoExpert(exact, tmp_path)
        repaired.scan(scene, QUERY)
    assert repaired.calls == {}


def test_a_memo_with_a_good_checksum_is_still_held_to_the_contract():
    scene = make_scene()
    outside = ImageMemo(scans={QUERY: (Candidate(Box((0, 0), (9999, 9)), 0.5),)})
    with pytest.raises(MemoError):
        decode(encode(outside, scene, "same"), scene, "same")
    unsure = ImageMemo(drills={(QUERY, Box((0, 0), (9, 9))): Verdict(7.0, "ring")})
    with pytest.raises(MemoError):
        decode(encode(unsure, scene, "same"), scene, "same")


def test_a_broken_reply_is_not_remembered(tmp_path):
    class Broken(RandomBoxExpert):
        def drill(self, scene, box, query):
            return Verdict(math.nan, "")

    memo = MemoExpert(Broken(), tmp_path)
    for _ in range(2):
        with pytest.raises(ExpertError, match="random-"):
            memo.drill(make_scene(), Box((0, 0), (9, 9)), QUERY)
    assert memo.calls["drill"] == 2
    assert list(Path(tmp_path).iterdir()) == []
