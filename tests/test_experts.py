import json
import math
import statistics
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts import (
    AnnotationExpert,
    BlobExpert,
    Candidate,
    Expert,
    MemoExpert,
    PriorExpert,
    RandomBoxExpert,
    Reading,
    Verdict,
    checked,
)
from medeyes_monai.experts.memo_file import ImageMemo, MemoError, decode, encode
from medeyes_monai.geometry import Box
from medeyes_monai.navigator import Navigator
from medeyes_monai.scenes import Case, Finding, ImageScene, Scene

QUERY = "Is there a ring?"
EXACT = {"miss_rate": 0.0, "false_alarm_rate": 0.0, "confidence_noise": 0.0, "drill_error": 0.0}


class RingReader:
    """Yes as soon as a ring was seen, else no."""

    def read(self, query, seen, candidates):
        return Reading("yes", True) if "ring" in seen else Reading("no", False)


def make_scene(key="scene-0", findings=None):
    """A grey image with a bright spot at (150, 100), (x, y), and a dark one at (350, 300)."""
    image = np.full((1, 512, 400), 100, np.uint8)
    x, y = np.ogrid[:512, :400]
    image[0][np.hypot(x - 150, y - 100) < 14] = 220
    image[0][np.hypot(x - 350, y - 300) < 14] = 10
    if findings is None:
        findings = (
            Finding(Box((136, 86), (164, 114)), "ring"),
            Finding(Box((336, 286), (364, 314)), "disc"),
            Finding(Box((20, 200), (220, 380)), "large heart", subtle=False),
        )
    return ImageScene(image, key=key, findings=findings)


def case_of(scene):
    return Case(scene.key, scene, QUERY)


EXPERTS = {
    "annotations": lambda: AnnotationExpert(RingReader(), jitter=5, false_alarm_rate=2.0, drill_error=0.3),
    "annotations without reader": lambda: AnnotationExpert(),
    "blobs": lambda: BlobExpert(),
    "random": lambda: RandomBoxExpert(4, seed=3),
    "prior": lambda: PriorExpert([case_of(make_scene("another"))], seed=3),
    "rough annotations": lambda: AnnotationExpert(RingReader(), coarse_rate=0.5, legible_extent=64),
    "memo": lambda: MemoExpert(AnnotationExpert(RingReader())),
}
every_expert = pytest.mark.parametrize("make", EXPERTS.values(), ids=EXPERTS.keys())


@every_expert
def test_an_expert_satisfies_the_protocol_and_has_a_short_name(make):
    assert isinstance(make(), Expert)
    assert 0 < len(make().name) < 60


@every_expert
@pytest.mark.parametrize("query", [QUERY, "", "Wo ist der Herd? 在哪里"])
def test_scans_are_inside_the_scene_and_ordered_best_first(make, query):
    candidates = checked.scan(make(), make_scene(), query)
    assert all(c.box.is_inside((512, 400)) for c in candidates)
    assert all(0 <= c.confidence <= 1 for c in candidates)
    assert [c.confidence for c in candidates] == sorted((c.confidence for c in candidates), reverse=True)


@every_expert
def test_two_experts_made_alike_say_alike(make):
    scene, box = make_scene(), Box((100, 60), (200, 160))
    first, second = make(), make()
    tell = lambda cs: [(c.box, c.confidence, c.finding) for c in cs]  # noqa: E731
    assert tell(first.scan(scene, QUERY)) == tell(second.scan(make_scene(), QUERY))
    assert first.drill(scene, box, QUERY) == second.drill(make_scene(), box, QUERY)
    assert first.name == second.name


@every_expert
def test_calls_do_not_depend_on_what_was_asked_before(make):
    scene, box = make_scene(), Box((100, 60), (200, 160))
    fresh, used = make(), make()
    used.scan(scene, "something else")
    used.drill(scene, Box((0, 0), (64, 64)), QUERY)
    assert fresh.drill(scene, box, QUERY) == used.drill(scene, box, QUERY)


@every_expert
@given(x=st.integers(0, 448), y=st.integers(0, 336), w=st.integers(1, 64), h=st.integers(1, 64))
@settings(max_examples=15, deadline=None)
def test_drilling_anywhere_gives_a_verdict_within_the_contract(make, x, y, w, h):
    checked.drill(make(), make_scene(), Box((x, y), (x + w, y + h)), QUERY)


def test_a_region_that_breaks_the_contract_is_refused_with_the_experts_name():
    class Broken(RandomBoxExpert):
        name = "broken"
        reply: object = ()

        def scan(self, scene, query):
            return self.reply

        def drill(self, scene, box, query):
            return self.reply

    scene, inside, expert = make_scene(), Box((0, 0), (9, 9)), Broken()
    bad_scans = [
        (Candidate(Box((0, 0), (513, 9)), 0.5),),
        (Candidate(Box((0, 0, 0), (9, 9, 9)), 0.5),),
        (Candidate(inside, math.nan),),
        (Candidate(inside, 1.01),),
        (Candidate(inside, "high"),),
        (Candidate(inside, 0.5, finding=3),),
        (Candidate(inside, 0.5, mask=np.ones((8, 9), bool)),),
        (Candidate(inside, 0.5, mask=np.ones((9, 9))),),
        (inside,),
    ]
    for expert.reply in bad_scans:
        with pytest.raises(ExpertError, match=r"^broken: "):
            checked.scan(expert, scene, QUERY)
    bad_verdicts = [Verdict(math.inf, ""), Verdict(-0.1, ""), Verdict(0.5, None), Verdict(0.5, "", 3), None]
    for expert.reply in bad_verdicts:
        with pytest.raises(ExpertError, match=r"^broken: "):
            checked.drill(expert, scene, inside, QUERY)
    with pytest.raises(ExpertError, match=r"^broken: asked about .* outside"):
        checked.drill(expert, scene, Box((500, 0), (513, 9)), QUERY)


# The expert made of annotations.


def test_without_noise_a_scan_finds_each_finding_and_names_only_the_plain_ones():
    candidates = AnnotationExpert(RingReader(), **EXACT).scan(make_scene(), QUERY)
    assert [(c.finding, c.box) for c in candidates] == [
        ("candidate", Box((118, 68), (182, 132))),  # 28 voxels about (150, 100), grown to 64
        ("candidate", Box((318, 268), (382, 332))),
        ("large heart", Box((20, 200), (220, 380))),
    ]
    assert [c.confidence for c in candidates] == [0.65, 0.45, 0.0]  # settles the question; doesn't; plain


def test_without_noise_a_drill_names_what_is_there_and_is_sure_only_if_it_settles_the_question():
    expert, scene = AnnotationExpert(RingReader(), **EXACT), make_scene()
    assert expert.drill(scene, Box((118, 68), (182, 132)), QUERY) == Verdict(0.92, "ring", "yes")
    assert expert.drill(scene, Box((318, 268), (382, 332)), QUERY) == Verdict(0.2, "disc", "no")
    assert expert.drill(scene, Box((0, 0), (64, 64)), QUERY) == Verdict(0.2, "normal", "no")


def test_a_finding_that_changes_the_answer_or_is_asked_about_lies_between():
    class Counter:
        def read(self, query, seen, candidates):
            return Reading(str(sum(s == "ring" for s in seen)), False)

    class Mute:
        def read(self, query, seen, candidates):
            return Reading(None, False)

    scene, ring = make_scene(), Box((118, 68), (182, 132))
    disc = Box((318, 268), (382, 332))
    assert AnnotationExpert(Counter(), **EXACT).drill(scene, ring, "How many?") == Verdict(0.55, "ring", "1")
    assert AnnotationExpert(Counter(), **EXACT).drill(scene, disc, "How many?") == Verdict(0.2, "disc", "0")
    assert AnnotationExpert(Mute(), **EXACT).drill(scene, disc, "A disc?") == Verdict(0.55, "disc", None)


def test_without_a_reader_annotated_findings_are_sure_and_nothing_is_answered():
    expert, scene = AnnotationExpert(**EXACT), make_scene()
    assert expert.drill(scene, Box((318, 268), (382, 332)), QUERY) == Verdict(0.92, "disc", None)
    assert expert.drill(scene, Box((0, 0), (64, 64)), QUERY) == Verdict(0.2, "normal", None)


def test_a_drill_prefers_what_only_a_close_look_shows():
    inside_heart = Finding(Box((100, 270), (120, 290)), "ring")
    heart = Finding(Box((20, 200), (220, 380)), "large heart", subtle=False)
    scene = make_scene(findings=(heart, inside_heart))
    assert AnnotationExpert(**EXACT).drill(scene, Box((20, 200), (220, 380)), QUERY).finding == "ring"


def test_noise_is_as_frequent_as_it_was_asked_for():
    scenes = [make_scene(f"s{n}") for n in range(200)]
    expert = AnnotationExpert(RingReader(), miss_rate=0.25, false_alarm_rate=0.5, drill_error=0.2, seed=1)
    scans = [expert.scan(s, QUERY) for s in scenes]
    centres = ((150.0, 100.0), (350.0, 300.0))
    hits = sum(
        any(c.box.contains(p) for p in centres) for cs in scans for c in cs if c.finding == "candidate"
    )
    alarms = sum(len(cs) - 1 for cs in scans) - hits  # one plain finding in each, never missed
    wrong = sum(expert.drill(s, Box((118, 68), (182, 132)), QUERY).finding != "ring" for s in scenes)
    assert hits / 400 == pytest.approx(0.75, abs=0.07)  # 3 standard deviations: 3 sqrt(.25 .75 / 400) = .065
    assert alarms / 200 == pytest.approx(0.5, abs=0.15)  # 3 sqrt(.5 / 200) = .15
    assert wrong / 200 == pytest.approx(0.2, abs=0.09)  # 3 sqrt(.2 .8 / 200) = .085


def test_a_scan_leans_towards_the_truth_without_giving_it_away_and_a_drill_is_more_reliable():
    expert = AnnotationExpert(RingReader(), **{**EXACT, "confidence_noise": 0.15, "false_alarm_rate": 1.0})
    ring, disc, alarm, sure, unsure, firsts = [], [], [], [], [], 0
    for scene in (make_scene(f"s{n}") for n in range(150)):
        found = [c for c in expert.scan(scene, QUERY) if c.finding == "candidate"]
        at_ring = next(c for c in found if c.box.contains((150, 100)))
        at_disc = next(c for c in found if c.box.contains((350, 300)))
        firsts += found[0] is at_ring
        ring.append(at_ring.confidence)
        disc.append(at_disc.confidence)
        alarm += [c.confidence for c in found if c not in (at_ring, at_disc)]
        sure.append(expert.drill(scene, at_ring.box, QUERY).confidence)
        unsure.append(expert.drill(scene, at_disc.box, QUERY).confidence)
    assert statistics.mean(ring) > statistics.mean(disc) > statistics.mean(alarm)
    assert 0.5 < firsts / 150 < 0.95
    assert max(unsure) < min(sure)
    assert sum(c >= 0.85 for c in sure) / 150 > 0.9


@given(jitter=st.integers(0, 60), extent=st.integers(1, 600), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_candidates_are_large_enough_and_near_their_finding_whatever_the_jitter(jitter, extent, seed):
    finding = Finding(Box((0, 380), (12, 400)), "ring")  # in a corner
    expert = AnnotationExpert(**{**EXACT, "jitter": jitter}, min_extent=extent, seed=seed)
    (candidate,) = checked.scan(expert, make_scene(findings=(finding,)), QUERY)
    assert candidate.box.extent == (max(12, min(512, extent)), max(20, min(400, extent)))
    still = finding.box.expand((512, 400), minimum=extent)
    assert all(abs(a - b) <= jitter for a, b in zip(candidate.box.start, still.start, strict=True))


def test_settings_that_change_replies_change_the_name():
    names = {AnnotationExpert(RingReader(), seed=s, jitter=j).name for s in (0, 1) for j in (0, 1)}
    assert len(names | {AnnotationExpert().name}) == 5
    assert RandomBoxExpert(2).name != RandomBoxExpert(3).name
    assert BlobExpert(2).name != BlobExpert(3).name


@pytest.mark.parametrize(
    "settings_of",
    [
        {"miss_rate": -0.1},
        {"drill_error": 2},
        {"jitter": -1},
        {"false_alarm_rate": -1},
        {"min_extent": 0},
        {"coarse_rate": 0.3},
        {"coarse_rate": 2, "legible_extent": 64},
    ],
)
def test_annotation_settings_out_of_range_are_refused(settings_of):
    with pytest.raises(ConfigError):
        AnnotationExpert(**settings_of)


def test_other_experts_refuse_settings_that_leave_nothing():
    for make in (
        lambda: RandomBoxExpert(0),
        lambda: BlobExpert(0),
        lambda: PriorExpert([]),
        lambda: MemoExpert(BlobExpert(), max_images=0),
    ):
        with pytest.raises(ConfigError):
            make()


def test_a_rough_region_is_named_only_after_a_closer_look_and_a_scan_alone_never_names_it():
    expert = AnnotationExpert(RingReader(), **EXACT, coarse_rate=1.0, legible_extent=64)
    first = expert.scan(make_scene(), QUERY)[0]
    assert first.box == Box((86, 36), (214, 164))  # 28 voxels about (150, 100), grown to twice 64
    assert first.confidence == pytest.approx(0.7 * 0.65)
    assert expert.drill(make_scene(), first.box, QUERY) == Verdict(0.7, "candidate")

    def looks(mode):
        path = Navigator(expert, reader=RingReader(), mode=mode).navigate(make_scene(), QUERY, lambda *_: 0)
        return [look.mode for look in path.fixations], path.reasoning, path.answer

    assert looks("both") == (["scan", "drill"], "ring", "yes")
    assert looks("scan") == (["scan", "scan"], "candidate", "no")


def test_a_prior_proposes_the_places_of_another_image_and_never_looks_at_this_one():
    here = Finding(Box((0, 0), (30, 30)), "ring")
    there = (Finding(Box((136, 86), (164, 114)), "ring"), Finding(Box((0, 0), (9, 9)), "lung", subtle=False))
    cases = [case_of(make_scene("asked", (here,))), case_of(make_scene("other", there))]
    (candidate,) = PriorExpert(cases).scan(cases[0].scene, QUERY)
    assert candidate.box == Box((118, 68), (182, 132))
    assert (candidate.finding, PriorExpert(cases).drill(cases[0].scene, candidate.box, QUERY).answer) == (
        "candidate",
        None,
    )
    with pytest.raises(ExpertError, match="no other image with findings"):
        PriorExpert(cases[:1]).scan(cases[0].scene, QUERY)


def test_annotations_work_in_volumes_too():
    finding = Finding(Box((10, 20, 5), (30, 40, 9)), "ring")
    scene = SimpleNamespace(key="ct", shape=(100, 90, 30), findings=(finding,))
    expert = AnnotationExpert(false_alarm_rate=3, jitter=4)
    assert all(c.box.ndim == 3 for c in checked.scan(expert, scene, QUERY))
    assert checked.drill(expert, scene, Box((0, 0, 0), (64, 64, 30)), QUERY).finding in ("ring", "normal")


# The classical expert.


def test_blobs_finds_the_bright_and_the_dark_spot_first_and_says_so():
    bright, dark = BlobExpert().scan(make_scene(), QUERY)[:2]
    assert (bright.finding, dark.finding) == ("bright spot", "dark spot")
    assert bright.box.contains((150, 100))
    assert dark.box.contains((350, 300))


def test_blobs_of_a_flat_image_are_none_and_a_drill_calls_it_uniform():
    scene = ImageScene(np.full((1, 256, 256), 80, np.uint8), key="flat")
    assert BlobExpert().scan(scene, QUERY) == ()
    verdict = BlobExpert().drill(scene, Box((0, 0), (64, 64)), QUERY)
    assert verdict.finding == "uniform"
    assert verdict.confidence == pytest.approx(0, abs=1e-9)


def test_a_drill_into_a_spot_is_surer_than_beside_it():
    expert, scene = BlobExpert(), make_scene()
    on, beside = (expert.drill(scene, b, QUERY) for b in (Box((118, 68), (182, 132)), Box((0, 0), (64, 64))))
    assert (on.finding, beside.finding) == ("bright spot", "uniform")
    assert on.confidence > beside.confidence


def test_blobs_keeps_no_more_than_the_best_and_none_that_overlap_much():
    candidates = BlobExpert(max_candidates=1).scan(make_scene(), QUERY)
    assert len(candidates) == 1
    noise = np.random.default_rng(0).integers(0, 255, (1, 512, 512), dtype=np.uint8)
    many = BlobExpert(max_candidates=6, min_extent=1).scan(ImageScene(noise, key="noise"), QUERY)
    assert len(many) <= 6
    assert all(a.box.iou(b.box) < 0.35 for a in many for b in many if a is not b)


def test_blobs_refuses_volumes_and_names_a_way_out():
    scene = SimpleNamespace(key="ct", shape=(9, 9, 9))
    with pytest.raises(ExpertError, match=r"blobs-.*3 axes.*AnnotationExpert"):
        BlobExpert().scan(scene, QUERY)
    with pytest.raises(ExpertError, match="3 axes"):
        BlobExpert().drill(scene, Box((0, 0, 0), (4, 4, 4)), QUERY)


# The memo.


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
