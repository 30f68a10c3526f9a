"""Progressive focus: from an image and a question to looks in voxels and millimetres, within a budget."""

import importlib
import itertools
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from policies import LookingPolicy, phantom_cases
from searched import QUESTION, Counting, ball, oriented

from medeyes_monai.errors import ConfigError, ExpertError, GeometryError
from medeyes_monai.experts import AnnotationExpert, BlobExpert, Candidate, RandomBoxExpert, Reading
from medeyes_monai.geometry import Box, carry_box, to_world
from medeyes_monai.inferers import EpisodeInferer, FocusInferer
from medeyes_monai.navigator import Navigator, SlabExpert, joined, slabs_of
from medeyes_monai.protocol import render_answer
from medeyes_monai.rollout import rollout
from medeyes_monai.sampler import write_episode
from medeyes_monai.scenes import Case, Finding, ImageScene, VolumeScene
from medeyes_monai.trajectory import Fixation, Trajectory

EXACT = {"miss_rate": 0, "false_alarm_rate": 0, "confidence_noise": 0, "drill_error": 0}


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_a_look_lands_on_the_same_millimetres_in_all_orientations(axes):
    volume, box = ball()
    infer = FocusInferer(Counting(), max_looks=1)
    whole = infer(volume, question=QUESTION).places[0]
    for flips in (flips for n in range(4) for flips in itertools.combinations(range(3), n)):
        image, there = oriented(volume, box, axes, flips)
        focus = infer(image, None, question=QUESTION)
        (place,) = focus.places
        assert place.box.contains(there.centre)
        np.testing.assert_allclose(place.centre_mm, whole.centre_mm, atol=0.01)
        np.testing.assert_allclose(sorted(place.size_mm), sorted(whole.size_mm), atol=0.01)
        first, last = place.corners_mm
        np.testing.assert_allclose(first, to_world(place.box.start, image.affine.numpy()), atol=0.01)
        np.testing.assert_allclose(last, to_world(place.box.stop, image.affine.numpy()), atol=0.01)
        heat = focus.focus_map()
        assert heat.shape == image.shape
        assert torch.equal(heat.affine, image.affine)
        assert int((heat > 0).sum()) == place.box.size == int((heat[0][place.box.slices] > 0).sum())


def test_slabs_that_the_filter_drops_are_not_scanned():
    volume, _box = ball()
    offered = []

    def is_bright(voxels, start):
        offered.append((tuple(voxels.shape), tuple(start)))
        return bool((voxels > 0).any())

    for keep, looks in ((is_bright, 1), (lambda voxels, start: False, 0)):
        expert = Counting(sure=0.9)
        focus = FocusInferer(expert, slab_mm=24, overlap=0.25, filter_fn=keep)(volume, question=QUESTION)
        assert len(focus.boxes) == len(expert.drilled) == looks
        assert len(expert.scanned) == (2 if looks else 0)  # of six slabs, the block lies in two
    assert offered[0] == ((1, 1, 48, 40, 12), (0, 0, 0))
    assert len(offered) == len(slabs_of(volume.shape[1:], 2.0, 24, 0.25)) == 7
    assert focus.ended == "nothing"
    assert focus.answer is None
    assert not focus.focus_map().any()


@pytest.mark.parametrize(("overlap", "scans"), [(0.2, 5), (0.0, 4)])
def test_what_slabs_cut_is_joined_to_what_the_whole_shows(overlap, scans):
    volume, box = ball(box=((10, 8, 5), (30, 30, 55)))
    expert = SlabExpert(Counting(), slab_mm=30, overlap=overlap)
    scene = VolumeScene(volume, key="a")
    (candidate,) = expert.scan(scene, QUESTION)
    assert candidate.box == carry_box(box, volume.affine.numpy(), np.asarray(scene.image.affine))
    once = len(expert.expert.scanned)
    expert.scan(scene, QUESTION)
    assert len(expert.expert.scanned) == once == scans


def test_neighbours_in_one_slab_and_things_apart_stay_apart():
    lower, upper = Box((0, 0, 0), (40, 40, 20)), Box((0, 0, 15), (40, 40, 35))
    beside = Candidate(Box((0, 0, 10), (9, 9, 20)), 0.5), Candidate(Box((20, 0, 16), (29, 9, 30)), 0.4)
    below = Candidate(Box((0, 0, 2), (9, 9, 9)), 0.3)
    touching = Candidate(Box((4, 0, 12), (13, 9, 20)), 0.2)  # a second thing in the same slab
    inside = Candidate(Box((2, 2, 15), (5, 5, 30)), 0.1)  # cut too, and much smaller than what it lies on
    above = Candidate(Box((0, 0, 28), (9, 9, 34)), 0.05)
    found = [(lower, one) for one in (beside[0], below, touching)]
    found += [(upper, one) for one in (beside[1], inside, above)]
    assert [one.confidence for one in joined(found)] == [0.5, 0.4, 0.3, 0.2, 0.1, 0.05]
    twice = Candidate(Box((30, 30, 16), (36, 36, 19)), 0.7), Candidate(Box((30, 30, 16), (36, 37, 19)), 0.6)
    assert joined([(lower, twice[0]), (upper, twice[1])]) == (twice[0],)  # whole in both: one place


def test_looks_stay_within_their_budget_and_their_number_costs_no_further_scan():
    volume, _ = ball()
    for most in (1, 3):
        expert = Counting()
        navigator = partial(Navigator, min_extent=2, delta=-1.0)  # always closer
        focus = FocusInferer(expert, max_looks=most, navigator=navigator)(volume, question=QUESTION)
        assert len(focus.boxes) == len(expert.drilled) == most
        assert focus.ended == "max_steps"
        assert len(expert.scanned) == 2
        assert focus.answer == "there"


def test_no_look_and_no_slab_is_begun_after_the_time_is_over():
    volume, _ = ball()
    ticks = itertools.count()
    expert = Counting()
    navigator = partial(Navigator, min_extent=2, delta=-1.0)
    infer = FocusInferer(
        expert, max_looks=9, max_seconds=4.0, navigator=navigator, clock=lambda: float(next(ticks))
    )
    focus = infer(volume, question=QUESTION)
    assert focus.ended == "budget"
    assert 1 <= len(focus.boxes) < 9
    assert focus.seconds >= 4

    late, (volume, _) = Counting(), ball(box=((30, 10, 4), (38, 18, 10)))
    ticks = itertools.count(step=10)
    slow = FocusInferer(late, max_seconds=4.0, slab_mm=24, clock=lambda: float(next(ticks)))
    focus = slow(volume, question=QUESTION)
    assert (len(late.scanned), len(focus.boxes), focus.ended) == (1, 0, "budget")


def test_a_focus_inferer_that_is_handed_questions_gives_their_episodes(looking: LookingPolicy, monkeypatch):
    cases = phantom_cases(looking, 5)
    wanted = EpisodeInferer(max_turn_tokens=6)(cases, looking)
    monkeypatch.setattr("medeyes_monai.inferers.focus.SIDE_BY_SIDE", 2)
    for given, alone in zip(FocusInferer(max_turn_tokens=6)(cases, looking), wanted, strict=True):
        assert given.case == alone.case
        assert torch.equal(given.token_ids, alone.token_ids)
        assert given.trajectory == alone.trajectory
    with pytest.raises(ConfigError, match="answered by a policy"):
        FocusInferer(RandomBoxExpert(5))(cases)


def picture(seed=0):
    noise = np.random.default_rng(seed).integers(0, 80, (1, 256, 192), dtype=np.uint8)
    noise[:, 100:130, 60:90] = 250
    return MetaTensor(noise, affine=torch.diag(torch.tensor([0.5, 0.5, 1.0, 1.0])))


def test_a_policy_alone_does_what_it_does_as_an_episode(looking: LookingPolicy):
    scene = partial(ImageScene, patch=looking.patch, overview_pixels=(4 * looking.patch) ** 2)
    focus = FocusInferer(max_turn_tokens=6, scene=scene)(picture(), looking, question=QUESTION)
    (episode,) = EpisodeInferer(max_turn_tokens=6)([focus.case], looking)
    assert torch.equal(focus.episode.token_ids, episode.token_ids)
    assert focus.trajectory == episode.trajectory
    assert focus.ended == (episode.defect or "answered")
    assert [place.size_mm[0] for place in focus.places] == [box.extent[0] / 2 for box in focus.boxes]


def test_a_policy_goes_on_from_the_experts_looks(looking: LookingPolicy):
    scene = partial(ImageScene, patch=looking.patch, overview_pixels=(4 * looking.patch) ** 2)
    infer = FocusInferer(
        RandomBoxExpert(5), max_looks=4, expert_looks=2, max_turn_tokens=6, scene=scene,
        navigator=partial(Navigator, xi=2.0),
    )  # fmt: skip
    both = infer([picture(0), picture(1)], looking, question=[QUESTION, "What is it?"])
    for focus in both:
        path, episode, shown = focus.trajectory, focus.episode, focus.case.scene
        of_policy = [look.confidence is None for look in path.fixations]
        assert 2 <= len(of_policy) <= 4
        assert of_policy == [False, False] + [True] * (len(of_policy) - 2)
        assert len(episode.pictures) == 1 + len(path.fixations)
        (asked,) = infer([focus.case], looking)
        assert [look.confidence for look in asked.trajectory.fixations] == [
            look.confidence for look in path.fixations
        ]
        assert asked.trajectory == path
        alone = infer(shown, question=focus.case.question)
        frame = looking.frame(shown)
        as_said = alone.trajectory.scale(shown.shape, frame).scale(frame, shown.shape)
        assert path.boxes[:2] == as_said.boxes[:2]
        begun = Trajectory(as_said.fixations[:2], "", "")
        said = write_episode(begun, focus.case, looking)
        ends = int(said.response_mask.nonzero()[-1]) - len(looking.encode(render_answer("", "")))
        first = int(episode.response_mask.float().argmax())
        assert (first, episode.token_ids[:first].tolist()) == (ends, said.token_ids[:ends].tolist())
        with torch.no_grad():  # nothing of the expert's turns is trained, and all of it was read
            scored = looking.score([episode]).logprobs[0]
        torch.testing.assert_close(episode.behaviour_logprobs, scored, atol=1e-5, rtol=0)


class Staring(LookingPolicy):
    """Looks at the same place again and again."""

    def decode(self, token_ids):
        return '<reasoning>so</reasoning><action>{"name":"Gaze","coordinate":[2,2,40,40]}</action>'


def test_a_policy_begins_no_look_after_the_time_is_over(checkpoints):
    policy = Staring(checkpoints["qwen3_vl"])
    for seconds, ended, looks in ((None, "no_answer", 3), (3.0, "budget", 1), (0.5, "budget", 0)):
        ticks = itertools.count()
        infer = FocusInferer(
            max_looks=3, max_seconds=seconds, max_turn_tokens=6, clock=lambda ticks=ticks: float(next(ticks))
        )
        focus = infer(picture(), policy, question=QUESTION)
        assert (focus.ended, focus.answer) == (ended, None)
        assert len(focus.boxes) == looks, seconds


def test_looks_that_were_begun_use_up_the_budget_and_belong_to_a_question_each(checkpoints):
    policy = Staring(checkpoints["qwen3_vl"])
    scene = ImageScene(picture(), key="a")
    case, begun = Case("q", scene, QUESTION), Trajectory((Fixation("", Box((0, 0), (64, 64))),) * 3)
    (episode,) = rollout(policy, [case], draws=1, max_looks=2, max_turn_tokens=6, greedy=True, begun=[begun])
    assert (len(episode.trajectory.boxes), episode.defect) == (3, "no_answer")
    with pytest.raises(ConfigError, match="begun for 1 of 2 questions"):
        rollout(policy, [case, case], begun=[begun])


class InDepth(LookingPolicy):
    """Looks at boxes with six numbers."""

    def decode(self, token_ids):
        number = sum(token_ids) % 3
        if number == 2:
            return "<reasoning>so</reasoning><answer>yes</answer>"
        box = [4 * number, 2, 3, 4 * number + 8, 12, 9]
        return f'<reasoning>so</reasoning><action>{{"name":"Gaze","coordinate":{box}}}</action>'


def test_a_policy_looks_into_a_volume_and_its_looks_come_back_on_the_inputs_grid(checkpoints):
    policy = InDepth(checkpoints["qwen3_vl"])
    volume, box = ball()
    image, _ = oriented(volume, box, (2, 0, 1), (0, 2))
    make = partial(VolumeScene, patch=policy.patch)
    focus = FocusInferer(max_turn_tokens=6, volume_scene=make)(image, policy, question=QUESTION)
    frame, scene = policy.frame(focus.case.scene), focus.case.scene
    assert focus.boxes
    for look, there in zip(focus.trajectory.fixations, focus.boxes, strict=True):
        assert there.is_inside(image.shape[1:])
        assert carry_box(there, image.affine.numpy(), np.asarray(scene.image.affine)) == look.box
        assert look.box.scale(scene.shape, frame).extent == (8, 10, 6)
    assert focus.focus_map().max() == 1


def test_a_batch_is_its_images_one_by_one_each_with_its_affine():
    first, _box = ball()
    second = MetaTensor(
        first.as_tensor().clone(),
        affine=first.affine @ torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64)),
    )
    infer = FocusInferer(Counting(), max_looks=1)
    batch = list_data_collate([{"image": first}, {"image": second}])["image"]
    together = infer(batch, None, question=QUESTION)
    for focus, image in zip(together, (first, second), strict=True):
        alone = infer(image, question=QUESTION)
        assert focus.boxes == alone.boxes
        assert focus.places[0].centre_mm == alone.places[0].centre_mm
    assert together[0].places[0].centre_mm != together[1].places[0].centre_mm


def test_four_axes_are_told_apart_or_refused():
    expert = BlobExpert(min_extent=8)
    with pytest.raises(GeometryError, match="four axes are a volume or a batch of pictures"):
        FocusInferer(expert)(torch.zeros(1, 1, 40, 40), question="?")
    pictures = FocusInferer(expert, spatial_dims=2)(torch.zeros(2, 1, 40, 40), question="?")
    assert [focus.grid.shape for focus in pictures] == [(40, 40), (40, 40)]
    volume = FocusInferer(expert, spatial_dims=3)(torch.zeros(1, 40, 40, 9), question="?")
    assert volume.grid.shape == (40, 40, 9)


class Flat(Counting):
    axes = (2,)


SHEARED = torch.tensor([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (torch.full((1, 9, 9, 9), float("nan")), GeometryError, "not finite"),
        (torch.full((1, 9, 9, 9), float("inf")), GeometryError, "not finite"),
        (torch.zeros(3, 9, 9, 9), GeometryError, "choose one channel"),
        (torch.zeros(1, 9, 9, 9, 9, 9), GeometryError, "spatial axes"),
        (MetaTensor(torch.zeros(1, 9, 9, 9), affine=SHEARED), GeometryError, "sheared"),
        (MetaTensor(torch.zeros(1, 9, 9, 9), affine=torch.zeros(4, 4)), GeometryError, "last row|singular"),
        ("a.nii.gz", GeometryError, "got str"),
        ([], ConfigError, None),
    ],
)  # fmt: skip
def test_what_is_no_image_is_refused_with_a_reason(image, error, words):
    given = MetaTensor(image) if type(image) is torch.Tensor else image
    if words is None:
        assert FocusInferer(BlobExpert())(given, question="?") == []
        return
    with pytest.raises(error, match=words):
        FocusInferer(BlobExpert())(given, question="?")


def test_a_missing_question_searcher_or_limit_is_told():
    volume, _ = ball()
    with pytest.raises(ConfigError, match="pass a policy as network, give an expert"):
        FocusInferer()(volume, None, question="?")
    for question in ("", " ", ["?", "?"]):
        with pytest.raises(ConfigError, match="1 images need a question each"):
            FocusInferer(BlobExpert())(volume, question=question)
    with pytest.raises(ExpertError, match="takes pictures, the scene has 3 axes"):
        FocusInferer(Flat())(volume, question="?")
    for wrong in ({"max_looks": 0}, {"expert_looks": 9}, {"max_seconds": 0}, {"spatial_dims": 4}):
        with pytest.raises(ConfigError):
            FocusInferer(BlobExpert(), **wrong)
    with pytest.raises(ConfigError, match="thicker than 0 mm"):
        FocusInferer(BlobExpert(), slab_mm=0)(volume, question="?")


def test_one_slice_and_huge_values_are_searched_like_others():
    volume, box = ball(shape=(48, 40, 1), box=((30, 10, 0), (38, 18, 1)))
    volume[0, 0, 0, 0] = 32000
    focus = FocusInferer(BlobExpert(min_extent=8), max_looks=2)(volume, question=QUESTION)
    assert any(there.contains(box.centre) for there in focus.boxes)


class Answers:
    """Reads a ball as a yes."""

    def read(self, query, seen, candidates):
        return Reading("yes" if "ball" in seen else None, decisive="ball" in seen)


def test_a_reader_answers_from_what_the_expert_named():
    volume, box = ball()
    scene = VolumeScene(volume, key="a", findings=[Finding(box, "ball")])
    expert = AnnotationExpert(Answers(), min_extent=8, **EXACT)
    focus = FocusInferer(expert, navigator=partial(Navigator, reader=Answers()))(scene, question=QUESTION)
    assert (focus.answer, focus.ended, len(focus.boxes)) == ("yes", "xi", 1)
    assert focus.places[0].finding == "ball"
    assert focus.trajectory.fixations[0].box.contains(scene.findings[0].box.centre)


@pytest.fixture
def measuring(monkeypatch, request):
    """The program that measures searches of real volumes by a noisy label expert."""
    monkeypatch.syspath_prepend(str(request.config.rootpath / "scripts"))
    return importlib.import_module("measure_focus")


def hits_of(measuring, folder, study, seeds):
    """Search for everything in a real study; return for each of its things how many searches found it."""
    if not (folder / study.image).is_file():
        pytest.skip(f"no {study.image}")
    scene = measuring.scene_of(study, folder)
    asked = SimpleNamespace(seeds=seeds, jitter=2, rescans=8, finer=2, slab_mm=1000.0)
    hits = {}
    for target in scene.findings:
        paths = measuring.paths_to(scene, target, asked)["scanned again"]
        assert all(len(path) <= 4 for path in paths)
        hits[target.label] = sum(max(path, default=0) >= 0.3 for path in paths)
    return hits


@pytest.mark.parametrize("seeds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_noisy_label_expert_brings_a_look_onto_a_real_tumour(measuring, data_root, seeds):
    assert hits_of(measuring, data_root, measuring.STUDIES[1], seeds) == {"tumour": seeds}


@pytest.mark.slow
def test_a_noisy_label_expert_brings_a_look_onto_each_organ_among_all_of_a_real_ct(measuring, data_root):
    hits = hits_of(measuring, data_root, measuring.STUDIES[0], 5)
    assert len(hits) == 14
    assert sum(hits.values()) >= 68  # of 70
