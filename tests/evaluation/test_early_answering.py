"""Made to answer early: what each of a policy's own looks adds."""

import copy
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from asked import evaluator_of
from policies import phantom_cases

from medeyes_monai.data.phantom import LOOK_FAMILIES, PhantomVQA
from medeyes_monai.errors import ConfigError
from medeyes_monai.evaluation import PolicyRespondent, measure
from medeyes_monai.evaluation.early_answering import answered_early, early_answers
from medeyes_monai.evaluation.tables import tables_of
from medeyes_monai.geometry import Box
from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.metrics import look_gain_table, look_gains
from medeyes_monai.metrics.confidence import turn_spans
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.sampler import write_episode
from medeyes_monai.scenes import BlankedScene
from medeyes_monai.trajectory import Fixation, ToolCall, Trajectory

TINY = Path(__file__).resolve().parents[2] / "bundle" / "models" / "tiny_policy"
BOXES = Box((0, 0), (8, 8)), Box((8, 8), (16, 16))


@pytest.fixture(scope="module")
def trained():
    """The embedded policy, questions that need looking, and what it did."""
    policy = HuggingFacePolicy(TINY)
    data = PhantomVQA("val", size=50, families=LOOK_FAMILIES)
    cases = [data[n] for n in range(len(data))]
    return policy, cases, EpisodeInferer()(cases, policy)


def test_what_stands_before_an_early_answer_is_its_own_and_nothing_of_it_was_seen_later(policy):
    case = phantom_cases(policy, 1)[0]
    looks = Fixation("one", BOXES[0]), Fixation("two", BOXES[1])
    calls = tuple(ToolCall("Measure", box=BOXES[0], reply="8 mm", after=n) for n in (0, 1, 2))
    whole = write_episode(Trajectory(looks, "so", "solid", calls), case, policy)
    for number, thought in enumerate(("one", "two", "so")):
        early = answered_early(policy, whole, number, "open")
        path, done = early.trajectory, whole.trajectory
        assert (path.fixations, path.calls) == (done.fixations[:number], done.calls[: number + 1])
        assert early.turns[-1] == f"<reasoning>{thought}</reasoning><answer>open</answer>"
        assert early.turns[:-1] == whole.turns[: 2 * number + 1]
        (start, stop), said = turn_spans(early)[0], early.turns[-1]
        assert policy.decode(early.token_ids[start : stop - 1].tolist()) == said
        assert torch.equal(early.token_ids[:start], whole.token_ids[:start])
        assert len(early.pictures) == number + 1
    same = answered_early(policy, whole, 2, "solid")
    assert torch.equal(same.token_ids, whole.token_ids)


@pytest.mark.parametrize("coordinates", ["pixels", "relative"])
def test_after_the_last_look_its_own_answer_has_the_probability_that_it_was_given_with(coordinates, trained):
    policy, cases, _ = trained
    frank = copy.copy(policy)
    frank.coordinates = coordinates
    respondent = PolicyRespondent(frank)
    answered = respondent.answer(cases[:20])
    own = [
        replace(case, answer=one.episode.trajectory.answer)
        for case, one in zip(cases, answered, strict=False)
    ]
    early = respondent.answer_early(own, answered)
    assert sum(len(row) > 1 for row in early) >= 5
    for row, one in zip(early, answered, strict=True):
        assert not row or len(row) == len(one.episode.trajectory.fixations) + 1
        assert not row or row[-1] == pytest.approx(one.confidence, abs=1e-3)


def test_how_they_are_cut_into_passes_does_not_matter(trained):
    policy, cases, episodes = trained
    one, all_ = (early_answers(policy, cases[:6], episodes[:6], micro_tokens=n) for n in (1, 16_384))
    for a, b in zip(one, all_, strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_looks_add_what_they_show_and_grey_ones_next_to_nothing(trained):
    policy, cases, episodes = trained
    grey = [replace(case, scene=BlankedScene(case.scene)) for case in cases]
    seen, unseen = (
        [row[-1] - row[0] for row in early_answers(policy, asked, done) if len(row) > 1]
        for asked, done in ((cases, episodes), (grey, EpisodeInferer()(grey, policy)))
    )
    assert fmean(seen) > fmean(unseen) + 0.2


def test_without_an_answer_or_under_one_glance_nothing_is_known(looking):
    case = phantom_cases(looking, 1)[0]
    whole = write_episode(Trajectory((), "so", "solid"), case, looking)
    unanswered = replace(whole, trajectory=Trajectory((), "so", None))
    assert [len(row) for row in early_answers(looking, [case, case], [unanswered, whole])] == [0, 1]
    glance = PolicyRespondent(looking, protocol="glance")
    assert glance.answer_early([case], []) == [()]


def test_gains_are_the_hand_worked_ones():
    gains = look_gains([[0.2, 0.6, 0.5], [0.4, 0.4], [1.0], []], ["a", "a", "b", "c"])
    assert [gain.look for gain in gains] == [1, 2]
    first, second = gains
    assert (first.before.value, first.after.value) == pytest.approx((0.3, 0.5))
    assert first.gain.value == pytest.approx(0.2)
    assert (first.gain.count, first.rises.hits, first.rises.count) == (2, 1, 2)
    assert second.gain.value == pytest.approx(-0.1)
    assert (second.rises.hits, second.rises.count) == (0, 1)
    assert look_gain_table(gains).rows[1][:2] == ("2", "1")
    assert look_gains([[1.0], []]) == look_gains([]) == ()
    with pytest.raises(ConfigError, match="one image for each of 1 questions, got 0"):
        look_gains([[1.0]], [])


def test_an_evaluation_keeps_them_and_those_of_grey_looks(tmp_path, trained):
    policy, *_ = trained
    data = PhantomVQA("val", size=4, families=LOOK_FAMILIES)
    respondent = PolicyRespondent(policy)
    plain = evaluator_of(tmp_path / "p.jsonl", respondent, data)
    plain.run()
    again = evaluator_of(tmp_path / "p.jsonl", respondent, data)
    again.run()  # reads the file
    assert [record.early for record in again.records] == [record.early for record in plain.records]
    assert any(len(record.early) > 1 for record in plain.records)
    found = measure(plain.records)
    assert found.to_dict()["progression"]["gains"][0]["look"] == 1
    blanked = evaluator_of(tmp_path / "b.jsonl", respondent, data, condition="blanked", unchanged=plain)
    blanked.run()
    (grey,) = {len(record.early) > 0 for record in blanked.records}
    assert grey
    whole = measure(plain.records, conditions={"blanked": blanked.records})
    assert len(whole.grey_gains) >= 1
    table = tables_of(whole)["How probable the reference answer is before and after a look"]
    assert table.header[-1] == "gain, looks blanked"
    mirrored = evaluator_of(tmp_path / "m.jsonl", respondent, data, condition="mirrored", unchanged=plain)
    mirrored.run()
    assert {record.early for record in mirrored.records} == {()}
    without = evaluator_of(tmp_path / "w.jsonl", respondent, data, early=False)
    without.run()
    assert measure(without.records).gains == ()


def test_probabilities_that_are_none_are_refused(tmp_path, trained):
    policy, *_ = trained
    data = PhantomVQA("val", size=1, families=LOOK_FAMILIES)
    plain = evaluator_of(tmp_path / "p.jsonl", PolicyRespondent(policy), data)
    plain.run()
    row = plain.records[0].to_row()
    for wrong in ([2.0] * len(row["early"]), [0.5] * (len(row["early"]) + 1)):
        with pytest.raises(ValueError, match="wanted none or"):
            type(plain.records[0]).from_row(row | {"early": wrong})
    del row["early"]  # as before there were early answers
    assert type(plain.records[0]).from_row(row).early == ()
