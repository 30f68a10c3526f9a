"""Where an expert fails, its questions go on without it, are named and counted, and too many end the run."""

import logging
import math
from types import SimpleNamespace

import pytest
from policies import phantom_cases

from medeyes_monai.data.phantom import PhantomReader
from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts import AnnotationExpert, Candidate, MemoExpert, Verdict
from medeyes_monai.geometry import Box
from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.navigator import Navigator
from medeyes_monai.rewards import CompositeReward
from medeyes_monai.rewards.accuracy import answers_match
from medeyes_monai.sampler import PathSampler
from medeyes_monai.scenes import Case
from medeyes_monai.training.experience import gather
from medeyes_monai.training.lost_items import LostItems


class Failing:
    """Fails at the questions whose key it is given."""

    name = "segmenter"

    def __init__(self, *keys):
        self.keys = keys

    def draw(self, case, step):
        if case.key in self.keys:
            raise ExpertError(f"segmenter: no reply about {case.key}")
        return ["a path"]


def case(key):
    return Case(key, SimpleNamespace(key=f"image of {key}", shape=(9, 9)), "where?", answer="left")


def ask(lost, keys, failing=()):
    return [lost.ask(Failing(*failing), case(key), 0) for key in keys]


def test_a_lost_question_is_named_with_the_expert_and_the_others_go_on(caplog):
    lost = LostItems()
    assert ask(lost, "abc", failing="b") == [("a path",), (), ("a path",)]
    assert (lost.keys, lost.share) == (["b"], pytest.approx(1 / 3))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "b: left out of the expert stream, segmenter failed: segmenter: no reply about b"
    )


def test_the_run_ends_above_the_limit_and_not_before_there_are_enough_questions():
    lost = LostItems(0.2, window=100, least=20)
    ask(lost, [f"ok {n}" for n in range(15)])
    ask(lost, "abcd", failing="abcd")  # 4 of 19
    ask(lost, ["ok"])  # 4 of 20
    with pytest.raises(
        ExpertError, match=r"segmenter: failed at 5 of the latest 21 .* limit of 20%.*about e"
    ):
        ask(lost, "e", failing="e")


def test_a_share_of_exactly_the_limit_goes_on():
    lost = LostItems(0.2, window=100, least=20)
    ask(lost, [f"ok {n}" for n in range(16)])
    ask(lost, "abcd", failing="abcd")  # 4 of 20
    assert lost.share == 0.2


def test_only_the_latest_questions_count():
    lost = LostItems(0.5, window=4, least=4)
    ask(lost, "ab", failing="ab")
    ask(lost, "cdef")
    assert lost.share == 0
    ask(lost, "gh", failing="gh")
    assert lost.share == 0.5
    with pytest.raises(ExpertError, match="failed at 3 of the latest 4"):
        ask(lost, "i", failing="i")


def test_a_limit_of_1_never_ends_a_run_and_one_of_0_at_the_first_loss():
    ask(LostItems(1.0), "a" * 300, failing="a")
    lost = LostItems(0.0, least=1)
    ask(lost, "b" * 30)
    with pytest.raises(ExpertError):
        ask(lost, "a", failing="a")


def test_an_expert_that_cannot_even_tell_its_name_is_still_reported(caplog):
    class Away:
        def __getattr__(self, name):
            raise ExpertError("remote expert at http://host: cannot be reached")

    assert LostItems().ask(Away(), case("q"), 0) == ()
    assert "q: left out" in caplog.text
    assert "cannot be reached" in caplog.text


def test_other_errors_are_not_taken_for_the_experts():
    def wrong(case, step):
        raise ConfigError("no reference answer")

    with pytest.raises(ConfigError):
        LostItems().ask(SimpleNamespace(name="x", draw=wrong), case("q"), 0)


@pytest.mark.parametrize("wrong", [{"max_share": -0.1}, {"max_share": 1.1}, {"least": 0}, {"window": 5}])
def test_limits_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError):
        LostItems(**wrong)


NONSENSE = {
    "a region outside": lambda scene: [Candidate(Box((0, 0), (9999, 9)), 0.5)],
    "not a number": lambda scene: [Candidate(Box((0, 0), (9, 9)), math.nan)],
    "no candidates": lambda scene: 3,
    "too many": lambda scene: [Candidate(Box((0, 0), (9, 9)), 0.5)] * 5000,
    "a huge text": lambda scene: [Candidate(Box((0, 0), (9, 9)), 0.5, "x" * 10**6)],
}


@pytest.mark.parametrize("nonsense", NONSENSE.values(), ids=NONSENSE.keys())
def test_training_goes_on_with_the_policys_own_stream_where_the_expert_talks_nonsense(
    policy, nonsense, caplog
):
    cases = phantom_cases(policy, 3)

    class Odd(AnnotationExpert):
        def scan(self, scene, query):
            return nonsense(scene) if scene.key == cases[1].scene.key else super().scan(scene, query)

        def drill(self, scene, box, query):
            return Verdict(0.9, "ring", "left")

    sampler = PathSampler(Navigator(MemoExpert(Odd())), answers_match, prune=False, n_paths=2)
    inferer, reward = EpisodeInferer(draws=2, max_turn_tokens=4, greedy=False), CompositeReward()
    lost = LostItems()
    experience = gather(
        policy, cases, inferer=inferer, reward=reward, sampler=sampler, seed=0, step=0, lost=lost
    )
    streams = [(e.case, e.stream) for e in experience.episodes]
    assert {key for key, stream in streams if stream == "policy"} == {c.key for c in cases}
    assert {key for key, stream in streams if stream == "expert"} == {cases[0].key, cases[2].key}
    assert lost.keys == [cases[1].key]
    assert experience.numbers["expert/lost_share"] == pytest.approx(1 / 3)
    assert experience.numbers["expert/yield"] == 1
    assert f"{cases[1].key}: left out of the expert stream, annotations-" in caplog.text


def test_a_reader_is_no_expert_and_its_error_ends_the_run(policy):
    sampler = PathSampler(
        Navigator(MemoExpert(AnnotationExpert()), reader=PhantomReader()), answers_match, n_paths=2
    )
    asked = Case("q", phantom_cases(policy, 1)[0].scene, "not one of the benchmark's", answer="left")
    with pytest.raises(ConfigError, match="not a question of PhantomVQA"):
        LostItems().ask(sampler, asked, 0)
