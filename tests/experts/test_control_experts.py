"""Experts that know nothing, or only where findings usually are."""

import pytest
from expert_scenes import QUERY, RingReader, case_of, make_scene

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts import AnnotationExpert, BlobExpert, MemoExpert, PriorExpert, RandomBoxExpert
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Finding


def test_settings_that_change_replies_change_the_name():
    names = {AnnotationExpert(RingReader(), seed=s, jitter=j).name for s in (0, 1) for j in (0, 1)}
    assert len(names | {AnnotationExpert().name}) == 5
    assert RandomBoxExpert(2).name != RandomBoxExpert(3).name
    assert BlobExpert(2).name != BlobExpert(3).name


def test_other_experts_refuse_settings_that_leave_nothing():
    for make in (
        lambda: RandomBoxExpert(0),
        lambda: BlobExpert(0),
        lambda: PriorExpert([]),
        lambda: MemoExpert(BlobExpert(), max_images=0),
    ):
        with pytest.raises(ConfigError):
            make()


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
