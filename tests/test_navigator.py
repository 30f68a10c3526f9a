import math
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
    MemoExpert,
    RandomBoxExpert,
    Reading,
    Verdict,
)
from medeyes_monai.experts.queries import QueryTemplates
from medeyes_monai.geometry import Box
from medeyes_monai.navigator import (
    Decision,
    Navigator,
    NavigatorState,
    after_drill,
    after_scan,
    closer,
    relative_gain,
    switch,
)
from medeyes_monai.navigator.tiles import parts_of, scan_parts
from medeyes_monai.scenes import Finding, ImageScene

A, B, C = Box((0, 0), (200, 200)), Box((300, 0), (364, 64)), Box((0, 300), (64, 364))
A_CLOSER, A_CLOSEST = Box((50, 50), (150, 150)), Box((68, 68), (132, 132))
SCENE = SimpleNamespace(key="scene", shape=(512, 512), findings=())


class Scripted:
    """An expert that says what the test wrote down."""

    name = "scripted"

    def __init__(self, candidates, verdicts):
        self.candidates = [Candidate(box, c, "candidate") for box, c in candidates]
        self.verdicts = verdicts
        self.asked = []

    def scan(self, scene, query):
        self.asked.append("scan")
        return self.candidates

    def drill(self, scene, box, query):
        self.asked.append(box)
        return self.verdicts[box]


class Reader:
    """Decides as the test says; keeps what it was shown."""

    def __init__(self, rule):
        self.rule, self.shown = rule, []

    def read(self, query, seen, candidates):
        self.shown.append(list(seen))
        return self.rule(list(seen), candidates)


def first(regions, confidences):
    return 0


def walk(expert, **kwargs):
    return Navigator(expert, **kwargs).navigate(SCENE, "what?", first)


def decide(expert, **kwargs):
    """What was decided after each look, in short: step, region, decision, reason."""
    decisions = Navigator(expert, **kwargs).search(SCENE, "what?", first).decisions
    return [(d.step, d.region, d.decision, d.reason) for d in decisions]


# Equation 3.


def test_the_gain_is_that_of_equation_3():
    # (0.46 - 0.40) / (0.40 + 1e-6) = 0.06 / 0.400001 = 0.149999625...
    assert relative_gain(0.40, 0.46) == pytest.approx(0.06 / 0.400001)
    # (0.3 - 0.0) / (0.0 + 1e-6) = 300000
    assert relative_gain(0.0, 0.3) == pytest.approx(300_000)
    assert relative_gain(0.5, 0.25) == pytest.approx(-0.25 / 0.500001)


def test_the_switch_drills_from_a_gain_of_delta_on():
    assert switch(0.40, 0.46) == "scan"  # 0.1499996 < 0.15
    assert switch(0.40, 0.461) == "drill"  # 0.1525
    assert switch(0.40, 0.46, delta=0.06 / 0.400001 - 1e-12) == "drill"
    assert switch(0.8, 0.1) == "scan"
    assert switch(0.0, 0.0) == "scan"
    assert switch(0.0, 1e-6) == "drill"  # 1e-6 / 1e-6 = 1


@given(before=st.floats(0, 1), low=st.floats(0, 1), high=st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_more_confidence_never_turns_drilling_into_scanning(before, low, high):
    low, high = sorted((low, high))
    assert not (switch(before, low) == "drill" and switch(before, high) == "scan")


# Transitions.


def test_a_scan_keeps_the_best_regions_at_new_places_only():
    near_b = Box((310, 0), (374, 64))  # 54 x 64 shared: IoU 3456 / (2 * 4096 - 3456) = 0.73
    beside_b = Box((340, 0), (404, 64))  # 24 x 64 shared: IoU 1536 / 6656 = 0.23
    proposed = [Candidate(A, 0.2), Candidate(near_b, 0.9), Candidate(beside_b, 0.4), Candidate(C, 0.0)]
    state = after_scan(NavigatorState(looked=(B,)), proposed)
    assert (state.regions, state.confidences, state.mode) == ((beside_b, A), (0.4, 0.2), "scan")
    assert after_scan(NavigatorState(), proposed, max_regions=1).regions == (near_b,)


def test_a_drill_that_goes_on_puts_a_smaller_region_in_the_place_of_the_old_one():
    state = NavigatorState((A, B), (0.5, 0.4))
    after = after_drill(state, 0, 0.6, "drill")
    assert after == NavigatorState((A_CLOSER, B), (0.6, 0.4), "drill", 0, (A,))
    assert state == NavigatorState((A, B), (0.5, 0.4))


def test_a_drill_that_ends_settles_the_region():
    state = NavigatorState((A, B), (0.5, 0.4))
    assert after_drill(state, 0, 0.3, "scan") == NavigatorState((B,), (0.4,), "scan", None, (A,))


def test_a_region_that_cannot_get_smaller_is_settled_even_if_drilling_pays():
    state = NavigatorState((A, B), (0.5, 0.4))
    assert after_drill(state, 1, 0.8, "drill") == NavigatorState((A,), (0.5,), "scan", None, (B,))


@given(
    corner=st.tuples(*[st.integers(-50, 500)] * 3),
    sides=st.tuples(*[st.integers(1, 600)] * 3),
    ndim=st.sampled_from((2, 3)),
    least=st.integers(1, 200),
)
@settings(max_examples=80, deadline=None)
def test_a_closer_look_lies_inside_is_smaller_and_ends(corner, sides, ndim, least):
    start, sides = corner[:ndim], sides[:ndim]
    box = Box(start, tuple(a + n for a, n in zip(start, sides, strict=True)))
    steps = 0
    while (inner := closer(box, least)) is not None:
        assert inner.intersection(box) == inner
        assert inner.size < box.size
        assert all(n >= min(least, m) for n, m in zip(inner.extent, box.extent, strict=True))
        box, steps = inner, steps + 1
    assert all(n <= max(least, 1) for n in box.extent)
    assert steps <= math.ceil(math.log2(600)) + 1


# Paths.


def test_a_path_looks_closer_while_confidence_grows_and_elsewhere_when_it_falls():
    expert = Scripted(
        [(A, 0.5), (B, 0.4)],
        {
            A: Verdict(0.6, "grey"),  # gain 0.2: closer
            A_CLOSER: Verdict(0.65, "greyer"),  # gain 0.083: back to scanning
            B: Verdict(0.9, "ring", "yes"),  # 0.9 >= 0.85: stop
        },
    )
    path = walk(expert)
    assert path.boxes == (A, A_CLOSER, B)
    assert [f.mode for f in path.fixations] == ["scan", "drill", "scan"]
    assert [f.confidence for f in path.fixations] == [0.6, 0.65, 0.9]
    assert [f.reasoning for f in path.fixations] == ["2 candidates", "grey", "greyer"]
    assert (path.reasoning, path.answer) == ("ring", "yes")
    assert expert.asked == ["scan", A, A_CLOSER, "scan", B]


def test_a_path_that_drills_to_the_smallest_region_then_looks_elsewhere():
    expert = Scripted(
        [(A, 0.3), (B, 0.2)],
        {
            A: Verdict(0.4, "a"),
            A_CLOSER: Verdict(0.5, "b"),
            A_CLOSEST: Verdict(0.7, "c"),
            B: Verdict(0.1, "d"),
        },
    )
    assert walk(expert).boxes == (A, A_CLOSER, A_CLOSEST, B)


def test_scan_mode_never_looks_closer_and_drill_mode_never_elsewhere():
    verdicts = {
        A: Verdict(0.6, "a"),
        A_CLOSER: Verdict(0.1, "b"),
        A_CLOSEST: Verdict(0.1, "c"),
        B: Verdict(0.5, "d"),
    }
    proposed = [(A, 0.5), (B, 0.4)]
    assert walk(Scripted(proposed, verdicts), mode="scan").boxes == (A, B)
    expert = Scripted(proposed, verdicts)
    assert walk(expert, mode="drill").boxes == (A, A_CLOSER, A_CLOSEST)
    assert expert.asked.count("scan") == 1


def test_the_search_stops_at_xi_exactly_and_after_the_largest_number_of_looks():
    low = {A: Verdict(0.1, "a"), B: Verdict(0.1, "b"), C: Verdict(0.1, "c")}
    proposed = [(A, 0.5), (B, 0.4), (C, 0.3)]
    assert walk(Scripted(proposed, low)).boxes == (A, B, C)
    assert walk(Scripted(proposed, low), max_steps=2).boxes == (A, B)
    assert walk(Scripted(proposed, low | {B: Verdict(0.85, "b")})).boxes == (A, B)
    assert walk(Scripted(proposed, low | {B: Verdict(0.849, "b")})).boxes == (A, B, C)


def test_a_rescan_brings_up_a_region_that_did_not_fit_the_first_time():
    low = {A: Verdict(0.1, "a"), B: Verdict(0.1, "b"), C: Verdict(0.1, "c")}
    assert walk(Scripted([(A, 0.5), (B, 0.4), (C, 0.3)], low), max_regions=1).boxes == (A, B, C)


def test_a_question_that_the_scan_decides_is_answered_without_a_look():
    expert = Scripted([(A, 0.5)], {A: Verdict(0.1, "a")})
    count = Reader(lambda seen, candidates: Reading(str(len(candidates)), True))
    path = walk(expert, reader=count)
    assert (path.boxes, path.reasoning, path.answer) == ((), "1 candidate", "1")
    assert walk(expert, reader=count, xi=1.01).boxes == (A,)  # never stops early


def test_a_reading_without_an_answer_is_not_decisive():
    expert = Scripted([(A, 0.5)], {A: Verdict(0.1, "a", "from this region")})
    path = walk(expert, reader=Reader(lambda seen, candidates: Reading(None, True)))
    assert (path.boxes, path.answer) == ((A,), "from this region")


def test_the_search_stops_when_the_findings_together_decide():
    low = {A: Verdict(0.1, "a"), B: Verdict(0.1, "b"), C: Verdict(0.1, "c")}
    reader = Reader(lambda seen, candidates: Reading("two" if len(seen) == 2 else None, len(seen) == 2))
    path = walk(Scripted([(A, 0.5), (B, 0.4), (C, 0.3)], low), reader=reader)
    assert (path.boxes, path.answer) == ((A, B), "two")
    assert reader.shown == [[], ["a"], ["a", "b"]]


def test_a_thought_says_what_was_found_and_what_all_findings_support_so_far():
    expert = Scripted(
        [(A, 0.5), (B, 0.4), (C, 0.3)],
        {A: Verdict(0.1, "ring"), B: Verdict(0.1, "disc"), C: Verdict(0.1, "ring")},
    )
    reader = Reader(lambda seen, _: Reading(str(seen.count("ring")) if "disc" in seen else None, False))
    path = Navigator(expert, reader=reader, conclude=True).navigate(SCENE, "how many rings?", first)
    thoughts = [look.reasoning for look in path.fixations] + [path.reasoning]
    assert thoughts == ["3 candidates", "ring; open", "disc; 1", "ring; 2"]
    assert path.answer == "2"
    assert reader.shown[-1] == ["ring", "disc", "ring"]  # findings are read, not thoughts
    plain = Navigator(expert, conclude=True).navigate(SCENE, "how many rings?", first)
    assert plain.reasoning == "ring"  # nobody knows the answer


def test_a_closer_look_at_one_place_is_not_counted_as_a_second_finding():
    verdicts = {A: Verdict(0.6, "ring?"), A_CLOSER: Verdict(0.6, "ring"), B: Verdict(0.1, "disc")}
    reader = Reader(lambda seen, candidates: Reading(str(seen.count("ring")), False))
    path = walk(Scripted([(A, 0.5), (B, 0.4)], verdicts), reader=reader)
    assert reader.shown == [[], ["ring?"], ["ring"], ["ring", "disc"]]
    assert path.answer == "1"


def test_nothing_proposed_means_no_look_and_no_answer():
    path = walk(Scripted([], {}))
    assert (path.boxes, path.reasoning, path.answer) == ((), "0 candidates", None)


def test_a_region_without_confidence_is_neither_counted_nor_looked_at():
    path = walk(Scripted([(A, 0.5), (B, 0.0)], {A: Verdict(0.1, "a")}))
    assert (path.boxes, path.fixations[0].reasoning) == ((A,), "1 candidate")


def test_the_choice_is_offered_all_regions_in_scan_mode_only():
    offers = []

    def last(regions, confidences):
        offers.append((tuple(regions), tuple(confidences)))
        return len(regions) - 1

    verdicts = {A: Verdict(0.9, "a"), B: Verdict(0.1, "b"), C: Verdict(0.1, "c")}
    expert = Scripted([(A, 0.5), (B, 0.4), (C, 0.3)], verdicts)
    path = Navigator(expert).navigate(SCENE, "what?", last)
    assert path.boxes == (C, B, A)
    assert offers == [((A, B, C), (0.5, 0.4, 0.3)), ((A, B), (0.5, 0.4)), ((A,), (0.5,))]


def test_an_expert_outside_the_scene_is_refused():
    with pytest.raises(ExpertError, match="scripted"):
        walk(Scripted([(Box((0, 0), (999, 9)), 0.5)], {}))


@pytest.mark.parametrize(
    "wrong", [{"max_steps": 0}, {"max_regions": 0}, {"min_extent": 0}, {"mode": "both "}, {"finer": -1}]
)
def test_settings_that_leave_nothing_to_do_are_refused(wrong):
    with pytest.raises(ConfigError):
        Navigator(RandomBoxExpert(), **wrong)


# What was decided, and why.


def test_each_look_leaves_a_record_of_its_decision():
    expert = Scripted(
        [(A, 0.5), (B, 0.4)],
        {A: Verdict(0.6, "grey"), A_CLOSER: Verdict(0.65, "greyer"), B: Verdict(0.9, "ring")},
    )
    search = Navigator(expert).search(SCENE, "what?", first)
    assert search.decisions == (
        Decision(1, "scan", A, 0.5, 0.6, pytest.approx(0.1 / 0.500001), "drill", "gain"),
        Decision(2, "drill", A_CLOSER, 0.6, 0.65, pytest.approx(0.05 / 0.600001), "scan", "no_gain"),
        Decision(3, "scan", B, 0.4, 0.9, pytest.approx(0.5 / 0.400001), "stop", "xi"),
    )
    assert search.trajectory == walk(expert)
    assert search.decisions[0].to_dict()["region"] == [0, 0, 200, 200]


LOW = {box: Verdict(0.1, "low") for box in (A, A_CLOSER, A_CLOSEST, B, C)}
ENDS = {
    "xi at once": ([(A, 0.5), (B, 0.4)], {A: Verdict(0.85, "")}, {}, [(1, A, "stop", "xi")]),
    "just below xi": (
        [(A, 0.9)],
        {A: Verdict(0.8499, "")},
        {},
        [(1, A, "stop", "nothing_new")],
    ),
    "no look is left": ([(A, 0.5), (B, 0.4)], LOW, {"max_steps": 1}, [(1, A, "stop", "max_steps")]),
    "xi at the last look": ([(A, 0.5)], {A: Verdict(1.0, "")}, {"max_steps": 1}, [(1, A, "stop", "xi")]),
    "all regions settled": (
        [(B, 0.5), (C, 0.4)],
        LOW,
        {},
        [(1, B, "scan", "no_gain"), (2, C, "stop", "nothing_new")],
    ),
    "a gain that cannot be followed": (
        [(B, 0.1), (C, 0.09)],
        LOW | {B: Verdict(0.5, "")},
        {},
        [(1, B, "scan", "smallest"), (2, C, "stop", "nothing_new")],
    ),
    "nothing proposed": ([], {}, {}, [(0, None, "stop", "nothing")]),
    "only what is plain": ([(A, 0.0)], {}, {}, [(0, None, "stop", "nothing")]),
    "scan mode": (
        [(A, 0.1), (B, 0.09)],
        LOW | {A: Verdict(0.5, "")},
        {"mode": "scan"},
        [(1, A, "scan", "mode"), (2, B, "stop", "nothing_new")],
    ),
    "drill mode": (
        [(A, 0.5), (B, 0.4)],
        LOW,
        {"mode": "drill"},
        [(1, A, "drill", "mode"), (2, A_CLOSER, "drill", "mode"), (3, A_CLOSEST, "stop", "smallest")],
    ),
    "drill mode from nothing": (
        [(A, 0.5)],
        {A: Verdict(0.0, ""), A_CLOSER: Verdict(0.0, ""), A_CLOSEST: Verdict(0.9, "")},
        {"mode": "drill"},
        [(1, A, "drill", "mode"), (2, A_CLOSER, "drill", "mode"), (3, A_CLOSEST, "stop", "xi")],
    ),
    "a gain of exactly delta": (
        [(A, 0.4)],
        {A: Verdict(0.5, ""), A_CLOSER: Verdict(0.1, "")},
        {"delta": relative_gain(0.4, 0.5)},
        [(1, A, "drill", "gain"), (2, A_CLOSER, "stop", "nothing_new")],
    ),
    "a gain just below delta": (
        [(A, 0.4)],
        {A: Verdict(0.5, "")},
        {"delta": math.nextafter(relative_gain(0.4, 0.5), 1)},
        [(1, A, "stop", "nothing_new")],
    ),
    "a loss where delta is below it": (
        [(A, 0.4)],
        {A: Verdict(0.1, ""), A_CLOSER: Verdict(0.0, ""), A_CLOSEST: Verdict(0.0, "")},
        {"delta": -2.0},
        [(1, A, "drill", "gain"), (2, A_CLOSER, "drill", "gain"), (3, A_CLOSEST, "stop", "nothing_new")],
    ),
}


@pytest.mark.parametrize(("proposed", "verdicts", "kwargs", "expected"), ENDS.values(), ids=ENDS.keys())
def test_the_rule_decides_at_its_edges_as_written_here(proposed, verdicts, kwargs, expected):
    assert decide(Scripted(proposed, verdicts), **kwargs) == expected


def test_a_reading_that_is_decisive_ends_the_search_and_is_given_as_the_reason():
    expert = Scripted([(A, 0.5), (B, 0.4)], LOW)
    at_once = Reader(lambda seen, candidates: Reading("2", True))
    assert decide(expert, reader=at_once) == [(0, None, "stop", "decisive")]
    later = Reader(lambda seen, candidates: Reading("low", bool(seen)))
    assert decide(expert, reader=later) == [(1, A, "stop", "decisive")]


def test_a_drilled_region_without_confidence_gains_from_anything():
    # c_t = 0: dc = (0.001 - 0) / 1e-6 = 1000, and 0 / 1e-6 = 0
    assert switch(0.0, 0.001) == "drill"
    assert switch(0.0, 0.0) == "scan"
    assert switch(0.0, 0.0, delta=0.0) == "drill"


def test_a_look_carries_how_far_the_experts_are_apart_about_its_place():
    expert = Scripted([], {A: Verdict(0.6, "a", None, 0.1), A_CLOSER: Verdict(0.1, "b", None, 0.3)})
    expert.candidates = [Candidate(A, 0.5, disagreement=0.4), Candidate(B, 0.4, disagreement=0.2)]
    expert.verdicts[B] = Verdict(0.1, "c", None, 0.7)
    assert [look.disagreement for look in walk(expert).fixations] == [0.4, 0.3, 0.7]
    alone = walk(Scripted([(A, 0.5)], LOW))
    assert [look.disagreement for look in alone.fixations] == [0.0]


# What the expert is asked.


def test_scans_and_drills_are_asked_by_their_templates_and_the_reader_by_the_question():
    said = []

    class Listening(Scripted):
        def scan(self, scene, query):
            said.append(("scan", query))
            return super().scan(scene, query)

        def drill(self, scene, box, query):
            said.append(("drill", query))
            return super().drill(scene, box, query)

    class Asked(Reader):
        def read(self, query, seen, candidates):
            said.append(("read", query))
            return super().read(query, seen, candidates)

    queries = QueryTemplates(scan="Find it.", drill="{question} Here?")
    reader = Asked(lambda seen, candidates: Reading(None, False))
    walk(Listening([(A, 0.5)], {A: Verdict(0.1, "a")}), queries=queries, reader=reader)
    assert set(said) == {("scan", "Find it."), ("drill", "what? Here?"), ("read", "what?")}


# Finer scales.


def test_parts_cover_the_image_overlap_and_are_never_smaller_than_wanted():
    parts = parts_of((300, 200), 2, least=64)
    assert len(parts) == 4
    covered = np.zeros((300, 200), int)
    for part in parts:
        assert part.is_inside((300, 200))
        assert part.extent == (188, 125)  # 1.25 times half, rounded up
        covered[part.slices] += 1
    assert covered.min() == 1
    assert covered.max() == 4
    assert [p.extent for p in parts_of((300, 60), 4, least=64)] == [(94, 60)] * 4
    assert len(parts_of((128, 128, 128), 2, least=64)) == 8
    assert parts_of((100, 100), 4, least=64) == ()


def dotted(**arguments):
    """A picture whose spot of 6 pixels is lost in an overview at a sixteenth of its size."""
    image = np.full((1, 1024, 1024), 60, np.uint8)
    image[0, 700:706, 300:306] = 90
    return ImageScene(image, key="dotted", overview_pixels=64 * 64, **arguments)


def test_what_the_overview_hides_is_found_on_a_finer_scale_and_only_if_asked_for():
    memo = MemoExpert(BlobExpert())
    assert Navigator(memo).navigate(dotted(), "what?", first).boxes == ()
    assert Navigator(memo, finer=1).navigate(dotted(), "what?", first).boxes == ()  # a tenth still hides it
    assert memo.calls == {"scan": 1 + 4}
    (look,) = Navigator(memo, finer=2).navigate(dotted(), "what?", first).fixations  # a fifth does not
    assert look.box.contains((703, 303))
    assert look.reasoning == "1 candidate"


def test_a_finer_scan_is_not_asked_for_while_the_whole_brings_up_something_new():
    memo = MemoExpert(AnnotationExpert(miss_rate=0, false_alarm_rate=0, drill_error=0, confidence_noise=0))
    places = ((100, 100), (500, 200), (300, 800))
    scene = dotted(findings=[Finding(Box((x, y), (x + 30, y + 30)), "disc") for x, y in places])
    Navigator(memo, xi=1.1, max_steps=3, finer=2).navigate(scene, "what?", first)
    assert memo.calls == {"scan": 1, "drill": 3}
    Navigator(memo, xi=1.1, finer=1).navigate(scene, "what?", first)
    assert memo.calls == {"scan": 5, "drill": 3}  # four parts, in which nothing is new


def test_a_place_that_two_parts_propose_is_proposed_once_in_voxels_of_the_whole():
    middle = Finding(Box((500, 500), (530, 530)), "disc")  # in the overlap of all four parts
    expert = AnnotationExpert(miss_rate=0, false_alarm_rate=0, confidence_noise=0)
    (only,) = scan_parts(expert, dotted(findings=[middle]), "what?", 2, 64)
    assert only.box == Box((483, 483), (547, 547))


def test_a_scene_without_parts_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"SimpleNamespace has no parts.*finer=0"):
        walk(Scripted([], {}), finer=1)


def test_a_finer_scan_leaves_out_what_was_looked_at():
    expert = AnnotationExpert(miss_rate=0, false_alarm_rate=0, drill_error=0)
    scene = dotted(findings=[Finding(Box((100, 100), (130, 130)), "disc")])
    path = Navigator(expert, xi=1.1, finer=1).navigate(scene, "what?", first)
    assert len(path.boxes) == 1


@given(
    seed=st.integers(0, 10_000),
    picks=st.lists(st.integers(0, 4), min_size=9, max_size=9),
    ndim=st.sampled_from((2, 3)),
)
@settings(max_examples=40, deadline=None)
def test_every_path_keeps_the_limits_and_scans_no_place_twice(seed, picks, ndim):
    shape = (300, 260, 120)[:ndim]
    findings = tuple(
        Finding(Box((x,) * ndim, (x + 20,) * ndim), label)
        for x, label in ((5, "ring"), (60, "disc"), (95, "star"))
    )
    place = lambda box: (tuple(map(float, box.start)), tuple(map(float, box.stop)))  # noqa: E731
    scene = SimpleNamespace(key=f"s{seed}", shape=shape, findings=findings, to_world=place)
    expert = MemoExpert(AnnotationExpert(false_alarm_rate=2, jitter=3, confidence_noise=0.3, seed=seed))
    turns = iter(picks)
    choose = lambda regions, confidences: next(turns) % len(regions)  # noqa: E731
    path = Navigator(expert, xi=0.97, min_extent=16).navigate(scene, "what?", choose)
    assert len(path.fixations) <= 4
    assert expert.calls["scan"] == 1
    assert all(box.is_inside(shape) for box in path.boxes)
    chosen = [f.box for f in path.fixations if f.mode == "scan"]
    assert all(a.iou(b) < 0.5 for i, a in enumerate(chosen) for b in chosen[:i])
    for before, look in zip(path.fixations, path.fixations[1:], strict=False):
        if look.mode == "drill":
            assert look.box.intersection(before.box) == look.box
