import statistics

import pytest
import torch
from expert_scenes import EXACT, QUERY, RingReader, bare_scene, make_scene, make_volume
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import AnnotationExpert, Reading, Verdict, checked
from medeyes_monai.geometry import Box
from medeyes_monai.navigator import Navigator
from medeyes_monai.scenes import Finding, VolumeScene


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
    scenes = [bare_scene(f"s{n}") for n in range(200)]
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
    for scene in (bare_scene(f"s{n}") for n in range(150)):
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
    (candidate,) = checked.scan(expert, bare_scene(findings=(finding,)), QUERY)
    assert candidate.box.extent == (max(12, min(512, extent)), max(20, min(400, extent)))
    still = finding.box.expand((512, 400), minimum=extent)
    assert all(abs(a - b) <= jitter for a, b in zip(candidate.box.start, still.start, strict=True))


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


def test_regions_of_a_volume_have_about_the_same_extent_in_millimetres_along_each_axis():
    image = torch.zeros(1, 100, 100, 40, dtype=torch.int16)
    affine = torch.diag(torch.tensor([-0.8, -0.8, 4.0, 1.0]))
    finding = Finding(Box((50, 50, 20), (54, 54, 22)), "ring")
    scene = VolumeScene(MetaTensor(image, affine=affine), key="ct", findings=(finding,))
    (candidate,) = checked.scan(AnnotationExpert(**EXACT, min_extent=40), scene, QUERY)
    assert candidate.box.extent == (40, 40, 8)  # 32 mm: 40 of 0.8 and 8 of 4.0
    assert candidate.box.contains(finding.box.centre)
    assert all(
        c.box.extent[2] <= 8 for c in AnnotationExpert(false_alarm_rate=9, min_extent=40).scan(scene, QUERY)
    )


def test_a_drill_of_a_volume_names_what_is_there():
    expert = AnnotationExpert(RingReader(), **EXACT)
    assert expert.drill(make_volume(), Box((20, 30, 2), (40, 50, 22)), QUERY) == Verdict(0.92, "ring", "yes")
    assert expert.drill(make_volume(), Box((0, 0, 0), (9, 9, 9)), QUERY).finding == "normal"
