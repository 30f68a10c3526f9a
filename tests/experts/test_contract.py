"""The contract of every expert of the package, and the check of it that users run over theirs."""

import importlib
import inspect
import itertools
import math
from pkgutil import iter_modules

import expert_registry
import numpy as np
import pytest
from expert_scenes import QUERY, make_scene, make_volume, small_scene
from hypothesis import given, settings
from hypothesis import strategies as st

from medeyes_monai import experts
from medeyes_monai.errors import ExpertError
from medeyes_monai.experts import Candidate, Expert, RandomBoxExpert, Verdict, checked
from medeyes_monai.experts.base import axes_of
from medeyes_monai.experts.contract import check_expert
from medeyes_monai.geometry import Box

SCENES = {"picture": make_scene, "small picture": small_scene, "volume": make_volume}


def claimed(make, scene):
    """Make the expert, or skip where it does not claim such scenes."""
    expert = make()
    if len(scene.shape) not in axes_of(expert):
        pytest.skip(f"takes scenes of {axes_of(expert)} axes")
    return expert


@pytest.mark.parametrize("kind", SCENES)
def test_every_expert_keeps_the_contract_on_every_kind_of_scene_that_it_claims(make, kind):
    scene = SCENES[kind]()
    check_expert(claimed(make, scene), scene, QUERY, make)


@pytest.mark.parametrize("query", ["", "Wo ist der Herd? 在哪里"])
def test_any_words_may_be_asked(make, query):
    scene = make_scene() if 2 in axes_of(make()) else make_volume()
    checked.drill(make(), scene, Box.whole(scene.shape), query)
    checked.scan(make(), scene, query)


@given(x=st.integers(0, 448), y=st.integers(0, 336), w=st.integers(1, 64), h=st.integers(1, 64))
@settings(max_examples=10, deadline=None)
def test_drilling_anywhere_gives_a_verdict_within_the_contract(make, x, y, w, h):
    scene = make_scene()
    checked.drill(claimed(make, scene), scene, Box((x, y), (x + w, y + h)), QUERY)


@pytest.mark.parametrize("scene", [make_scene(), make_volume()], ids=["picture", "volume"])
def test_an_expert_is_never_asked_about_scenes_that_it_does_not_claim(make, scene):
    expert = make()
    if len(scene.shape) in axes_of(expert):
        pytest.skip("claims such scenes")
    with pytest.raises(ExpertError, match=f"{expert.name}: takes .* the scene has {len(scene.shape)} axes"):
        checked.scan(expert, scene, QUERY)
    with pytest.raises(ExpertError, match="the scene has"):
        checked.drill(expert, scene, Box.whole(scene.shape), QUERY)


def test_every_expert_says_what_its_confidence_is_and_whether_it_is_calibrated(make):
    text = type(make()).__doc__
    assert "confidence" in text.lower()
    assert "calibrated" in text


def test_the_registry_misses_no_expert_of_the_package():
    modules = [
        importlib.import_module(f"{experts.__name__}.{m.name}") for m in iter_modules(experts.__path__)
    ]
    named = {name for module in modules for name in vars(module) if name.endswith("Expert")}
    known, registry = named - {"Expert"}, inspect.getsource(expert_registry)
    assert known >= {"BlobExpert", "ConsensusExpert", "SegmentationExpert", "VLMExpert"}
    assert [name for name in sorted(known) if f"{name}(" not in registry] == []


# What breaks the contract is refused by name.


class Broken(RandomBoxExpert):
    name = "broken"
    reply: object = ()

    def scan(self, scene, query):
        return self.reply

    def drill(self, scene, box, query):
        return self.reply


INSIDE = Box((0, 0), (9, 9))
BAD_SCANS = {
    "outside": (Candidate(Box((0, 0), (513, 9)), 0.5),),
    "other axes": (Candidate(Box((0, 0, 0), (9, 9, 9)), 0.5),),
    "no box": (Candidate((0, 0, 9, 9), 0.5),),
    "nan": (Candidate(INSIDE, math.nan),),
    "above one": (Candidate(INSIDE, 1.01),),
    "words": (Candidate(INSIDE, "high"),),
    "bool": (Candidate(INSIDE, True),),
    "array": (Candidate(INSIDE, np.float32(0.5)),),
    "finding": (Candidate(INSIDE, 0.5, finding=3),),
    "endless finding": (Candidate(INSIDE, 0.5, finding="x" * 10_001),),
    "mask of another shape": (Candidate(INSIDE, 0.5, mask=np.ones((8, 9), bool)),),
    "mask of another type": (Candidate(INSIDE, 0.5, mask=np.ones((9, 9))),),
    "mask as list": (Candidate(INSIDE, 0.5, mask=[[True]]),),
    "disagreement": (Candidate(INSIDE, 0.5, disagreement=-0.1),),
    "boxes alone": (INSIDE,),
    "nothing": None,
    "a number": 3,
    "endless": itertools.repeat(Candidate(INSIDE, 0.5)),
}
BAD_VERDICTS = {
    "inf": Verdict(math.inf, ""),
    "below zero": Verdict(-0.1, ""),
    "no finding": Verdict(0.5, None),
    "answer": Verdict(0.5, "", 3),
    "endless answer": Verdict(0.5, "", "x" * 10_001),
    "disagreement": Verdict(0.5, "", None, math.nan),
    "nothing": None,
}


@pytest.mark.parametrize("reply", BAD_SCANS.values(), ids=BAD_SCANS)
def test_a_bad_scan_is_refused_with_the_experts_name(reply):
    expert = Broken()
    expert.reply = reply
    with pytest.raises(ExpertError, match=r"^broken: "):
        checked.scan(expert, make_scene(), QUERY)


@pytest.mark.parametrize("reply", BAD_VERDICTS.values(), ids=BAD_VERDICTS)
def test_a_bad_verdict_is_refused_with_the_experts_name(reply):
    expert = Broken()
    expert.reply = reply
    with pytest.raises(ExpertError, match=r"^broken: "):
        checked.drill(expert, make_scene(), INSIDE, QUERY)


def test_a_question_about_a_region_outside_the_scene_is_refused_before_the_expert_is_asked():
    with pytest.raises(ExpertError, match=r"^broken: asked about .* outside"):
        checked.drill(Broken(), make_scene(), Box((500, 0), (513, 9)), QUERY)


# The check that users run over their own expert.


class Mine:
    """An expert that keeps the contract; what is wrong is put into it by the tests."""

    name = "mine"

    def scan(self, scene, query):
        return [Candidate(Box.whole(scene.shape), 0.5, "everything")]

    def drill(self, scene, box, query):
        return Verdict(0.5, "everything")


def test_two_methods_and_a_name_are_an_expert():
    assert isinstance(Mine(), Expert)
    (candidate,) = check_expert(Mine(), make_scene(), QUERY, Mine)
    assert candidate.finding == "everything"
    check_expert(Mine(), make_volume(), QUERY)


def failing(**parts):
    return type("Failing", (Mine,), parts)()


def crash_on_small(self, scene, box, query):
    return Verdict(1 / (box.size - 1), "")


def crash_where_nothing_is_found(self, scene, query):
    return [Candidate(scene.findings[0].box, 0.5)]


def by_pixels(self, scene, query):
    view = scene.overview()
    return [Candidate(Box.whole(scene.shape), 0.5)] if view.pixels.std() else [Candidate(view.box, math.nan)]


counter = itertools.count()
FAILING = {
    "a crash on one voxel": ({"drill": crash_on_small}, r"drill of \(0, 0, 1, 1\): ZeroDivisionError"),
    "a crash on an empty scan": ({"scan": crash_where_nothing_is_found}, "scan: IndexError"),
    "nonsense where nothing is seen": ({"scan": by_pixels}, "confidence is a finite float .* got nan"),
    "changing verdicts": (
        {"drill": lambda *_: Verdict(next(counter) % 999 / 1000, "")},
        "drill of .* says something else",
    ),
    "changing scans": (
        {"scan": lambda self, scene, query: [Candidate(INSIDE, 0.1, str(next(counter)))]},
        "scan says something else",
    ),
    "changing masks": (
        {"scan": lambda *_: [Candidate(INSIDE, 0.1, mask=np.eye(9, k=next(counter) % 5, dtype=bool))]},
        "scan says something else",
    ),
    "the worst first": (
        {"scan": lambda *_: [Candidate(INSIDE, 0.1), Candidate(INSIDE, 0.2)]},
        "best first",
    ),
    "drawing by the key": (
        {"scan": lambda self, scene, query: [Candidate(INSIDE, len(scene.key) / 100)]},
        "same image under another key, its scan says something else",
    ),
    "no name": ({"name": ""}, "name is a text"),
    "a strange claim": ({"axes": 2}, r"axes is \(2,\), \(3,\) or \(2, 3\), got 2"),
    "a scene that is not claimed": ({"axes": (3,)}, "takes volumes, the scene has 2 axes"),
}


@pytest.mark.parametrize(("parts", "said"), FAILING.values(), ids=FAILING)
def test_what_is_wrong_with_an_expert_is_said(parts, said):
    with pytest.raises(ExpertError, match=said):
        check_expert(failing(**parts), make_scene(), QUERY)


def test_everything_that_is_wrong_is_said_at_once_under_the_experts_name():
    parts = {"scan": lambda *_: None, "drill": lambda *_: Verdict(2.0, ""), "name": "mine"}
    with pytest.raises(ExpertError) as caught:
        check_expert(failing(**parts), make_scene(), QUERY)
    lines = str(caught.value).splitlines()
    assert lines[0] == "mine: breaks the contract of an expert:"
    assert len(lines) == 5  # the scan, two corners, the whole image; the emptied scene says no more


def test_something_else_than_an_expert_is_refused_with_what_it_lacks():
    with pytest.raises(ExpertError, match="this one lacks name, drill"):
        check_expert(type("Half", (), {"scan": lambda *_: []})(), make_scene(), QUERY)


def test_an_expert_that_changes_when_it_is_made_anew_is_found_out():
    numbers = itertools.count()
    with pytest.raises(ExpertError, match="made anew, its scan says something else"):
        check_expert(
            failing(), make_scene(), QUERY, lambda: failing(scan=lambda *_: [Candidate(INSIDE, 0.9)])
        )
    with pytest.raises(ExpertError, match="made anew, its name is 'mine1'"):
        check_expert(
            failing(name="mine0"), make_scene(), QUERY, lambda: failing(name=f"mine{next(numbers) + 1}")
        )


def test_an_expert_that_says_that_it_draws_by_the_key_may():
    check_expert(
        failing(scan=lambda self, scene, query: [Candidate(INSIDE, len(scene.key) / 100)], reads_key=True),
        make_scene(),
        QUERY,
    )


def test_calls_that_depend_on_what_was_asked_before_are_found_out():
    class Remembering(Mine):
        def __init__(self):
            self.asked = set()

        def drill(self, scene, box, query):
            self.asked.add(box.size)
            return Verdict(1 / len(self.asked), "")

    with pytest.raises(ExpertError, match="asked again, its drill of"):
        check_expert(Remembering(), make_scene(), QUERY)
