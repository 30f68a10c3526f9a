import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medeyes_monai.data.phantom import PhantomReader, PhantomVQA
from medeyes_monai.errors import ConfigError, ProtocolError
from medeyes_monai.experts import AnnotationExpert, Candidate, MemoExpert, RandomBoxExpert, Reading, Verdict
from medeyes_monai.geometry import Box
from medeyes_monai.navigator import Navigator
from medeyes_monai.policy import HuggingFacePolicy, Segment
from medeyes_monai.policy.tiny import make_tiny_checkpoint
from medeyes_monai.protocol import parse_turn, render_answer, render_fixation
from medeyes_monai.rewards.accuracy import answers_match
from medeyes_monai.sampler import DrawnPath, PathSampler, describe_paths, nucleus, write_episode
from medeyes_monai.sampler.statistics import diversity
from medeyes_monai.scenes import Case, Finding, ImageScene
from medeyes_monai.trajectory import Fixation, Trajectory

# Nucleus.


def test_the_nucleus_by_hand():
    # 0.5 + 0.3 = 0.8 < 0.9, + 0.15 = 0.95 >= 0.9; renormalised by 0.95
    kept = nucleus((0.15, 0.5, 0.05, 0.3))
    assert kept.indices == (1, 3, 0)
    assert kept.probabilities == pytest.approx((0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95))


def test_a_mass_that_reaches_p0_exactly_is_enough_despite_rounding():
    assert nucleus((0.1,) * 10).indices == tuple(range(9))  # nine tenths
    assert nucleus((0.6, 0.3, 0.1)).indices == (0, 1)


def test_ties_go_to_the_earlier_region():
    # each 1/3; p0 = 0.5 needs two of them
    assert nucleus((0.2, 0.2, 0.2), p0=0.5) == ((0, 1), (0.5, 0.5))


def test_a_single_region_and_a_sure_one_are_the_nucleus_alone():
    assert nucleus((0.01,)) == ((0,), (1.0,))
    assert nucleus((0.02, 0.95, 0.03)) == ((1,), (1.0,))
    assert nucleus((0.4, 0.6), p0=1e-9) == ((1,), (1.0,))


def test_regions_without_any_confidence_are_equally_probable():
    assert nucleus((0.0, 0.0), p0=1) == ((0, 1), (0.5, 0.5))
    assert nucleus((0.0, 0.3), p0=1) == ((1,), (1.0,))


def test_temperature_takes_the_root_of_the_confidences():
    # T = 0.5: squares 0.25 and 0.0625, so 0.8 and 0.2; T = 2: roots 0.7071 and 0.5
    assert nucleus((0.5, 0.25), p0=1, temperature=0.5).probabilities == pytest.approx((0.8, 0.2))
    assert nucleus((0.5, 0.25), p0=1, temperature=2).probabilities == pytest.approx(
        (0.585786, 0.414214), abs=1e-6
    )


positive = st.lists(st.floats(1e-6, 1), min_size=1, max_size=12)
masses = st.floats(0.01, 1)


@given(positive, masses)
@settings(max_examples=50, deadline=None)
def test_the_nucleus_reaches_p0_and_is_the_smallest_set_that_does(confidences, p0):
    kept = nucleus(confidences, p0)
    total = sum(confidences)
    mass = sum(confidences[i] for i in kept.indices) / total
    assert mass >= p0 - 1e-8
    assert mass - confidences[kept.indices[-1]] / total < p0
    assert sum(kept.probabilities) == pytest.approx(1)
    left_out = [c for i, c in enumerate(confidences) if i not in kept.indices]
    assert all(confidences[i] >= c for i in kept.indices for c in left_out)
    for i, p in zip(kept.indices, kept.probabilities, strict=True):
        assert p == pytest.approx(confidences[i] / (mass * total), rel=1e-6)


@given(positive, masses, st.sampled_from((0.25, 0.5)))
@settings(max_examples=50, deadline=None)
def test_the_nucleus_knows_only_proportions(confidences, p0, factor):
    assert nucleus([c * factor for c in confidences], p0) == nucleus(confidences, p0)


@given(positive, st.tuples(masses, masses))
@settings(max_examples=50, deadline=None)
def test_a_larger_p0_only_adds_regions(confidences, bounds):
    low, high = sorted(bounds)
    fewer, more = nucleus(confidences, low).indices, nucleus(confidences, high).indices
    assert more[: len(fewer)] == fewer


@pytest.mark.parametrize(
    ("confidences", "kwargs"),
    [
        ((), {}),
        ((float("nan"),), {}),
        ((-0.1, 0.5), {}),
        ((0.5,), {"p0": 0}),
        ((0.5,), {"p0": 1.1}),
        ((0.5,), {"temperature": 0}),
        ((0.5,), {"temperature": float("nan")}),
    ],
)
def test_a_nucleus_of_nonsense_is_refused(confidences, kwargs):
    with pytest.raises(ConfigError):
        nucleus(confidences, **kwargs)


# Paths.

LABELS = ("disc", "ring", "star", "disc")
PLACES = ((60, 60), (300, 70), (90, 300), (330, 320))


class RingReader:
    """Yes once a ring was seen, else no."""

    def read(self, query, seen, candidates):
        return Reading("yes", True) if "ring" in seen else Reading("no", False)


def make_case(key="case", answer="yes", labels=LABELS):
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (1, 400, 380), dtype=np.uint8))
    findings = [
        Finding(Box((x, y), (x + 30, y + 24)), label) for (x, y), label in zip(PLACES, labels, strict=True)
    ]
    return Case(key, ImageScene(image, key=key, findings=findings), "Is there a ring?", answer=answer)


def is_right(answer, case):
    return answer == case.answer


def make_sampler(expert=None, reader=None, navigator=None, **kwargs):
    reader = reader or RingReader()
    expert = expert or AnnotationExpert(reader, miss_rate=0, false_alarm_rate=0, drill_error=0)
    return PathSampler(Navigator(expert, reader=reader, **(navigator or {})), is_right, **kwargs)


def test_six_paths_cost_one_scan_for_each_query_and_one_drill_for_each_region():
    memo = MemoExpert(AnnotationExpert(RingReader(), miss_rate=0, false_alarm_rate=0))
    case = make_case()
    for step, question in itertools.product(range(5), ("Is there a ring?", "Is a ring there?")):
        asked = Case("case", case.scene, question, answer="yes")
        make_sampler(memo, prune=False).paths(asked, step)
    assert memo.calls["scan"] == 2
    assert memo.calls["drill"] <= 2 * len(LABELS)  # two queries, four regions that cannot get smaller
    assert memo.calls["drill"] > 2


def test_paths_are_drawn_by_address():
    tell = lambda paths: [(p.boxes, p.answer) for p in paths]  # noqa: E731
    case = make_case()
    once = tell(make_sampler(n_paths=12).paths(case, 3))
    assert tell(make_sampler(n_paths=12).paths(case, 3)) == once
    assert tell(make_sampler(n_paths=5, prune=False).paths(case, 3)) == once[:5]
    assert tell(make_sampler(n_paths=12).paths(case, 4)) != once
    assert tell(make_sampler(n_paths=12, seed=1).paths(case, 3)) != once


def test_paths_differ_in_order_and_length():
    paths = make_sampler(n_paths=30).paths(make_case())
    assert len({p.boxes for p in paths}) == 5  # the fourth region, confidence 0.05, is outside the nucleus
    assert {len(p.boxes) for p in paths} == {1, 2, 3}


def test_regions_are_drawn_as_often_as_the_nucleus_says():
    class Sure:
        name = "sure"

        def scan(self, scene, query):
            near = [Box((x, y), (x + 60, y + 60)) for x, y in PLACES]
            return [Candidate(b, c) for b, c in zip(near, (0.6, 0.3, 0.06, 0.04), strict=True)]

        def drill(self, scene, box, query):
            return Verdict(1.0, "ring", "yes")

    first = Counter(p.boxes[0].start for p in make_sampler(Sure(), n_paths=600).paths(make_case()))
    # 0.6 + 0.3 reaches 0.9, so the third and fourth are never drawn and the first in two of three
    assert set(first) == {PLACES[0], PLACES[1]}
    assert first[PLACES[0]] / 600 == pytest.approx(2 / 3, abs=0.06)  # 3 sqrt(2/9 / 600) = 0.058


def test_paths_with_a_wrong_answer_are_pruned():
    kwargs = {"n_paths": 20, "navigator": {"max_steps": 2}}  # two looks often miss the ring
    every = make_sampler(prune=False, **kwargs).paths(make_case())
    kept = make_sampler(**kwargs).paths(make_case())
    assert {p.answer for p in every} == {"yes", "no"}
    assert [p.boxes for p in kept] == [p.boxes for p in every if p.answer == "yes"]


def test_a_mistaken_expert_loses_all_its_paths():
    expert = AnnotationExpert(RingReader(), miss_rate=0, false_alarm_rate=0, drill_error=1.0)
    no_ring = make_case(answer="no", labels=("disc",) * 4)
    assert len(make_sampler(expert).paths(no_ring)) == 6
    only_rings = make_case(answer="yes", labels=("ring",) * 4)
    assert make_sampler(expert).paths(only_rings) == []


def test_a_path_without_an_answer_is_dropped_or_given_the_reference():
    silent = Navigator(RandomBoxExpert(3))
    case = make_case()
    assert PathSampler(silent, is_right).paths(case) == []
    assert PathSampler(silent, prune=False).paths(case) == []
    filled = PathSampler(silent, is_right, on_no_answer="reference").paths(case)
    assert [p.answer for p in filled] == ["yes"] * 6
    assert all(1 <= len(p.boxes) <= 4 for p in filled)


def test_greedy_paths_take_the_most_confident_region_every_time():
    expert = AnnotationExpert(RingReader(), miss_rate=0, false_alarm_rate=0, drill_error=0, seed=5)
    case = make_case()
    best = expert.scan(case.scene, case.question)[0].box
    paths = make_sampler(expert, greedy=True).paths(case)
    assert len(paths) == 6
    assert {p.boxes for p in paths} == {paths[0].boxes}
    assert paths[0].boxes[0] == best


def test_a_case_without_a_reference_is_refused_where_one_is_needed():
    unknown = make_case(answer=None)
    with pytest.raises(ConfigError, match="no reference answer"):
        make_sampler().paths(unknown)
    assert len(make_sampler(prune=False).paths(unknown)) == 6


@pytest.mark.parametrize(
    "wrong", [{"n_paths": 0}, {"p0": 0}, {"temperature": -1}, {"on_no_answer": "guess"}, {"is_right": None}]
)
def test_sampler_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        PathSampler(Navigator(RandomBoxExpert()), **({"is_right": is_right} | wrong))


def test_of_every_path_it_is_said_what_became_of_it_and_why_it_ended():
    sampler = make_sampler(n_paths=20, navigator={"max_steps": 2})
    drawn = sampler.draw(make_case())
    assert [d.trajectory for d in drawn if d.fate == "kept"] == sampler.paths(make_case())
    assert {d.fate: d.trajectory.answer for d in drawn} == {"kept": "yes", "wrong": "no"}
    assert all(len(d.decisions) == len(d.trajectory.boxes) for d in drawn)
    ends = {(d.fate, d.decisions[-1].reason) for d in drawn}
    assert ends == {("kept", "xi"), ("wrong", "max_steps")}
    silent = PathSampler(Navigator(RandomBoxExpert(3)), is_right).draw(make_case())
    assert {d.fate for d in silent} == {"unanswered"}


def test_copies_are_kept_unless_distinct_paths_are_asked_for():
    case = make_case()
    every, different = make_sampler(n_paths=30), make_sampler(n_paths=30, distinct=True)
    drawn = different.draw(case)
    assert [d.trajectory for d in drawn] == [d.trajectory for d in every.draw(case)]
    kept = different.paths(case)
    assert len(kept) == len(set(kept)) == len(set(every.paths(case))) == 5
    assert [path for path in dict.fromkeys(every.paths(case))] == kept  # the first of each
    assert Counter(d.fate for d in drawn) == {"kept": 5, "copy": 25}


def test_a_wrong_path_is_wrong_and_no_copy():
    greedy = make_sampler(distinct=True, greedy=True, navigator={"max_steps": 1})
    assert {d.fate for d in greedy.draw(make_case(answer="maybe"))} == {"wrong"}


# Statistics.


def looking(*starts, answer="yes", apart=None):
    boxes = [Box((x, 0), (x + 10, 10)) for x in starts]
    looks = tuple(Fixation("", box, "scan", 0.5, apart) for box in boxes)
    return Trajectory(looks, "", answer)


def test_diversity_is_the_mean_over_looks_of_different_paths():
    # IoU of boxes 5 apart: 50 / 150; looks of one path are not compared with each other
    assert diversity([looking(0), looking(5)]) == pytest.approx(1 - 1 / 3)
    assert diversity([looking(0, 100), looking(5)]) == pytest.approx((2 / 3 + 1) / 2)
    assert diversity([looking(0), looking(0)]) == 0
    assert diversity([looking(0, 100)]) is None
    assert diversity([looking(0), looking()]) is None


def test_statistics_of_paths_by_hand():
    one = [
        DrawnPath(looking(0)),
        DrawnPath(looking(0)),
        DrawnPath(looking(5, 100)),
        DrawnPath(looking(0), fate="wrong"),
    ]
    other = [DrawnPath(looking(0, 50, 100)), DrawnPath(looking(), fate="unanswered")]
    numbers = describe_paths([one, other, [DrawnPath(looking(), fate="wrong")], []])
    assert numbers == pytest.approx(
        {
            "yield": 4 / 7,
            "looks": (1 + 1 + 2 + 3) / 4,
            "distinct": (2 / 3 + 1) / 2,
            # of the first question: pairs of looks 0-0, 0-5, 0-100, 0-5, 0-100; the other has one path
            "diversity": (0 + 2 / 3 + 1 + 2 / 3 + 1) / 5,
        }
    )
    assert describe_paths([]) == describe_paths([[]]) == {}
    assert describe_paths([[DrawnPath(looking(), fate="wrong")]]) == {"yield": 0}


def test_disagreement_is_told_where_experts_are_apart():
    assert "disagreement" not in describe_paths([[DrawnPath(looking(0, 5, apart=0.0))]])
    assert describe_paths([[DrawnPath(looking(0, apart=0.5)), DrawnPath(looking(0, apart=0.0))]])[
        "disagreement"
    ] == pytest.approx(0.25)


@given(st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=2, max_size=5))
@settings(max_examples=40, deadline=None)
def test_diversity_lies_between_0_and_1_and_knows_no_order(starts):
    paths = [looking(*some) for some in starts]
    value = diversity(paths)
    assert value == pytest.approx(diversity(paths[::-1]))
    assert value is None or 0 <= value <= 1


# Episodes.


class LetterPolicy:
    """One token for each character; pictures and control tokens are negative ids; frame of 1000."""

    end_of_turn = -1

    def frame(self, scene):
        return (1000,) * len(scene.shape)

    def prompt(self, case):
        return Segment((-2, *map(ord, case.question)), (case.scene.overview().pixels,))

    def feedback(self, view):
        return Segment((-3, -4), (view.pixels,))

    def encode(self, text):
        return tuple(map(ord, text))


def test_an_episode_is_prompt_turns_and_feedback_in_order_and_only_turns_are_trained():
    case = make_case()
    box = Box((62, 60), (126, 124))
    path = Trajectory((Fixation("4 candidates", box, "scan", 0.9),), "ring", "yes")
    episode = write_episode(path, case, LetterPolicy(), draw=2)
    look, answer = episode.turns
    # 400 x 380 voxels in a frame of 1000: x * 2.5, y * 1000 / 380
    assert look == render_fixation(Fixation("4 candidates", Box((155, 158), (315, 326))))
    assert answer == render_answer("ring", "yes")
    expected = [-2, *map(ord, case.question), *map(ord, look), -1, -3, -4, *map(ord, answer), -1]
    trained = [False] * (1 + len(case.question)) + [True] * (len(look) + 1) + [False] * 2
    trained += [True] * (len(answer) + 1)
    assert episode.token_ids.tolist() == expected
    assert episode.response_mask.tolist() == trained
    assert episode.token_ids.dtype == torch.int64
    assert episode.response_mask.dtype == torch.bool
    assert torch.equal(episode.behaviour_logprobs, torch.zeros(len(expected)))
    assert (episode.stream, episode.case, episode.draw, episode.defect) == ("expert", "case", 2, None)
    assert episode.trajectory.fixations[0].mode == "scan"


def test_crops_are_taken_at_the_coordinates_that_were_written():
    class Coarse(LetterPolicy):
        def frame(self, scene):
            return (10, 10)

    case = make_case()
    path = Trajectory((Fixation("", Box((62, 60), (126, 124))),), "", "yes")
    episode = write_episode(path, case, Coarse())
    # x: 62 / 40 = 1.55 -> 2 -> 80, 126 / 40 = 3.15 -> 3 -> 120; y: 60 / 38 -> 2 -> 76, 124 / 38 -> 3 -> 114
    written = Box((80, 76), (120, 114))
    assert episode.trajectory.boxes == (written,)
    assert parse_turn(episode.turns[0], (10, 10)).box == Box((2, 2), (3, 3))
    assert len(episode.pictures) == 2
    assert np.array_equal(episode.pictures[0], case.scene.overview().pixels)
    assert np.array_equal(episode.pictures[1], case.scene.look(written).pixels)
    assert not np.array_equal(episode.pictures[1], case.scene.look(path.boxes[0]).pixels)


@given(seed=st.integers(0, 500))
@settings(max_examples=25, deadline=None)
def test_every_episode_of_the_sampler_reads_back_as_its_path(seed):
    case, policy = make_case(), LetterPolicy()
    expert = AnnotationExpert(RingReader(), jitter=9, false_alarm_rate=1, seed=seed)
    for draw, path in enumerate(make_sampler(expert, n_paths=2, seed=seed).paths(case)):
        episode = write_episode(path, case, policy, draw)
        turns = [parse_turn(text, policy.frame(case.scene)) for text in episode.turns]
        assert all(turn.defect is None for turn in turns)
        boxes = tuple(turn.box.scale((1000, 1000), case.scene.shape) for turn in turns[:-1])
        assert boxes == episode.trajectory.boxes == path.boxes  # a finer frame and back changes nothing
        assert turns[-1].answer == path.answer
        assert len(episode.pictures) == 1 + len(boxes)
        said = "".join(map(chr, episode.token_ids[episode.response_mask & (episode.token_ids > 0)].tolist()))
        assert said == "".join(episode.turns)


def test_a_path_without_an_answer_is_no_episode():
    with pytest.raises(ProtocolError, match="without an answer"):
        write_episode(Trajectory(), make_case(), LetterPolicy())


def test_volumes_are_written_with_six_numbers():
    shown = []

    def look(box):
        shown.append(box)
        return SimpleNamespace(pixels=np.zeros((32, 32, 3), np.uint8), box=box)

    overview = lambda: SimpleNamespace(pixels=np.zeros((32, 32, 3), np.uint8))  # noqa: E731
    scene = SimpleNamespace(key="ct", shape=(100, 100, 20), look=look, overview=overview)
    path = Trajectory((Fixation("", Box((10, 20, 3), (40, 60, 9))),), "", "yes")
    episode = write_episode(path, Case("q", scene, "?", answer="yes"), LetterPolicy())
    assert '"coordinate":[100,200,150,400,600,450]' in episode.turns[0]
    assert shown == [path.boxes[0]]


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("coordinates", ["pixels", "relative"])
def test_a_real_policy_reads_expert_episodes_as_its_own(tmp_path, family, coordinates):
    make_tiny_checkpoint(tmp_path, family=family, coordinates=coordinates, corpus=["left right small large"])
    policy = HuggingFacePolicy(tmp_path)
    scene = lambda image, **kwargs: ImageScene(image, patch=policy.patch, **kwargs)  # noqa: E731
    case = PhantomVQA("train", size=1, families=["attribute"], scene=scene)[0]
    reader = PhantomReader()
    expert = AnnotationExpert(reader, miss_rate=0, false_alarm_rate=0, drill_error=0)
    sampler = PathSampler(Navigator(MemoExpert(expert), reader=reader), answers_match)
    paths = sampler.paths(case)
    assert len(paths) == 6
    path = max(paths, key=lambda p: len(p.boxes))
    episode = write_episode(path, case, policy)

    runs = [
        list(g)
        for trained, g in itertools.groupby(range(len(episode)), episode.response_mask.tolist().__getitem__)
        if trained
    ]
    assert len(runs) == len(episode.turns) == len(path.boxes) + 1
    for run, turn in zip(runs, episode.turns, strict=True):
        ids = episode.token_ids[run].tolist()
        assert ids[-1] == policy.end_of_turn
        assert policy.decode(ids[:-1]) == turn
        assert parse_turn(turn, policy.frame(case.scene)).defect is None
    is_image = episode.token_ids == policy.image_token_id
    assert int(is_image.sum()) == sum(p.shape[0] * p.shape[1] // policy.patch**2 for p in episode.pictures)
    assert not (is_image & episode.response_mask).any()

    scores = policy.score([episode])
    assert torch.equal(scores.response_mask[0], episode.response_mask)
    assert (scores.logprobs[0][episode.response_mask] < 0).all()
    assert torch.isfinite(scores.logprobs).all()
    scores.logprobs.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())


@pytest.mark.parametrize("split", ["train", "ood"])
def test_most_expert_paths_over_the_embedded_benchmark_are_right_and_look_only_where_it_helps(split):
    reader = PhantomReader()
    sampler = PathSampler(Navigator(MemoExpert(AnnotationExpert(reader)), reader=reader), answers_match)
    looks: dict[str, list[int]] = {}
    for case in (PhantomVQA(split, size=28)[i] for i in range(28)):
        looks.setdefault(case.family, []).extend(len(p.boxes) for p in sampler.paths(case))
    assert sum(map(len, looks.values())) > 0.7 * 28 * 6
    assert {family for family, n in looks.items() if max(n) == 0} == {"candidates", "heart"}
    assert all(max(n) <= 4 for n in looks.values())
