"""The summary of episodes: its arithmetic, its laws, and what it refuses."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.metrics import EpisodeMetric, Share, compare, compare_table, evaluate, majority_accuracy
from medeyes_monai.scenes import Case, Finding
from medeyes_monai.trajectory import Episode, Fixation, Trajectory


class Findings:
    """The part of a scene that metrics read: what the data say is there."""

    key = "image"

    def __init__(self, *findings):
        self.findings = findings


def case(key, family="presence", answer="yes", findings=()):
    return Case(key=key, scene=Findings(*findings), question="?", answer=answer, family=family)


def episode(key, right, boxes=(), defect=None, reward=0.5):
    return Episode(
        case=key,
        stream="policy",
        draw=0,
        token_ids=torch.zeros(1, dtype=torch.int64),
        response_mask=torch.ones(1, dtype=torch.bool),
        behaviour_logprobs=torch.zeros(1),
        pictures=(),
        turns=(),
        trajectory=Trajectory(tuple(Fixation("", box) for box in boxes)),
        defect=defect,
        reward=reward,
        reward_parts={"accuracy": float(right)},
    )


LESION = Finding(Box((10, 10), (20, 20)), "left large solid")
HEART = Finding(Box((0, 0), (8, 8)), "heart", subtle=False)


def test_accuracy_counts_right_answers_in_all_and_in_each_family():
    cases = [case("a", "count"), case("b", "count"), case("c", "heart")]
    summary = evaluate([episode("a", 1), episode("b", 0), episode("c", 1)], cases)
    assert summary.accuracy == Share(2, 3)
    assert dict(summary.families) == {"count": Share(1, 2), "heart": Share(1, 1)}


def test_a_family_name_with_a_slash_also_counts_towards_its_group():
    cases = [case("a", "closed/organ"), case("b", "closed/size"), case("c", "open/organ")]
    summary = evaluate([episode("a", 1), episode("b", 0), episode("c", 0)], cases)
    assert summary.groups == {"closed": Share(1, 2), "open": Share(0, 1)}


def test_format_looks_and_reward_are_means_over_episodes():
    box = Box((0, 0), (5, 5))
    episodes = [
        episode("a", 1, [box, box], reward=0.9),
        episode("b", 0, [box], defect="no answer", reward=0.1),
    ]
    summary = evaluate(episodes, [case("a"), case("b")])
    assert summary.format == Share(1, 2)
    assert summary.looks == 1.5
    assert summary.reward == pytest.approx(0.5)


def test_a_look_hits_when_it_holds_the_centre_of_a_subtle_finding():
    # The lesion's centre is (15, 15). The first box holds it: overlap 6x6 of 8x8 + 10x10 - 36 = 128.
    hit, miss = Box((14, 14), (22, 22)), Box((16, 16), (22, 22))
    cases = [case(key, findings=[LESION, HEART]) for key in "ab"]
    summary = evaluate([episode("a", 1, [miss, hit]), episode("b", 1, [miss])], cases)
    assert summary.gaze_hit == Share(1, 2)
    assert summary.gaze_iou == pytest.approx((36 / 128 + 16 / 120) / 2)


def test_cases_without_subtle_findings_and_other_families_do_not_count_for_gaze():
    cases = [case("a", findings=[HEART]), case("b", "heart", findings=[LESION]), case("c", findings=[LESION])]
    episodes = [episode(key, 1) for key in "abc"]
    assert evaluate(episodes, cases).gaze_hit == Share(0, 2)
    assert evaluate(episodes, cases, gaze_families=["presence"]).gaze_hit == Share(0, 1)


def test_gaze_overlap_is_unknown_where_no_case_has_findings():
    summary = evaluate([episode("a", 1)], [case("a")])
    assert math.isnan(summary.gaze_iou)
    assert summary.to_dict()["gaze_iou"] is None
    assert summary.to_dict()["gaze_hit"]["value"] is None


def test_the_summary_as_a_dictionary_is_strict_json_and_its_scalars_are_floats():
    summary = evaluate([episode("a", 1)], [case("a")])
    assert json.loads(json.dumps(summary.to_dict(), allow_nan=False))["accuracy"]["hits"] == 1
    assert all(isinstance(value, float) for value in summary.scalars().values())
    assert summary.scalars()["accuracy/presence"] == 1.0


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.booleans()), min_size=1, max_size=12), st.integers(1, 12)
)
def test_batches_of_any_size_give_the_summary_of_all_at_once(rows, size):
    cases = [case(str(i), family) for i, (family, _) in enumerate(rows)]
    episodes = [episode(str(i), right) for i, (_, right) in enumerate(rows)]
    metric = EpisodeMetric()
    for i in range(0, len(rows), size):
        metric(episodes[i : i + size], cases)
    assert metric.aggregate().to_dict() == evaluate(episodes, cases).to_dict()


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_and_shrinks_with_more_cases(counts):
    hits, count = counts
    low, high = Share(hits, count).interval
    assert 0 <= low <= hits / count <= high <= 1
    more_low, more_high = Share(4 * hits, 4 * count).interval
    assert more_high - more_low < high - low


def test_the_interval_is_wilsons():
    # p = 1/2, n = 4, z = 1.96: centre 1/2, half = 1.96 / (1 + 3.8415 / 4) * sqrt(1/16 + 3.8415 / 64) = 0.3500
    assert Share(2, 4).interval == pytest.approx((0.15, 0.85), abs=1e-4)
    assert Share(0, 0).interval == (0.0, 1.0)


def test_a_share_of_more_hits_than_cases_is_refused():
    with pytest.raises(ConfigError, match="3 of 2"):
        Share(3, 2)


def test_the_metric_attaches_to_an_ignite_engine_and_forgets_between_runs():
    cases = [case("a"), case("b")]
    engine = Engine(lambda _, batch: batch)
    handler = IgniteMetricHandler(EpisodeMetric(), output_transform=lambda batch: batch, save_details=False)
    handler.attach(engine, "evaluation")
    batches = [([episode("a", 1)], cases), ([episode("b", 0)], cases)]
    for _ in range(2):
        engine.run(batches)
        assert engine.state.metrics["evaluation"].accuracy == Share(1, 2)


def summarise_a_share(rank, address, results):
    """Evaluate the episodes of one of two processes and put down what it thinks of all of them."""
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    cases = [case(str(i), f"family {i % 2}", findings=[LESION]) for i in range(5)]
    metric = EpisodeMetric()
    metric([episode(str(i), i == 3, [LESION.box]) for i in range(rank, 5, 2)], cases)
    Path(results, str(rank)).write_text(json.dumps(metric.aggregate().to_dict()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_aggregate_to_the_summary_of_all_episodes(tmp_path):
    address = f"file://{tmp_path}/rendezvous"
    torch.multiprocessing.spawn(summarise_a_share, args=(address, str(tmp_path)), nprocs=2)
    cases = [case(str(i), f"family {i % 2}", findings=[LESION]) for i in range(5)]
    whole = evaluate([episode(str(i), i == 3, [LESION.box]) for i in range(5)], cases)
    assert all(json.loads((tmp_path / rank).read_text()) == whole.to_dict() for rank in "01")


def test_episodes_that_cannot_be_judged_are_refused():
    with pytest.raises(ConfigError, match="no case with key 'b'"):
        evaluate([episode("b", 1)], [case("a")])
    with pytest.raises(ConfigError, match="score it first"):
        evaluate([episode("a", 1, reward=math.nan)], [case("a")])
    with pytest.raises(ConfigError, match="no episodes"):
        evaluate([], [case("a")])


def test_the_majority_answer_is_the_most_frequent_of_its_family_in_training():
    train = [case("1", "organ", "Lung"), case("2", "organ", "lung."), case("3", "organ", "heart")]
    train += [case("4", "size", "no"), case("5", "size", "yes"), case("6", "size", None)]
    asked = [case("7", "organ", "lung"), case("8", "organ", "liver"), case("9", "size", "no")]
    asked += [case("10", "unseen", "lung"), case("11", "unseen", "no")]
    shares = majority_accuracy(train, asked)
    # organ: "lung"; size: a tie, "no" comes first; unseen: "lung" is the most frequent of all.
    assert shares == {"organ": Share(1, 2), "size": Share(1, 1), "unseen": Share(1, 2)}


def test_the_majority_answer_is_judged_by_the_rule_that_is_handed_in():
    shares = majority_accuracy(
        [case("1", answer="a")], [case("2", answer="b")], is_right=lambda answer, _: True
    )
    assert shares == {"presence": Share(1, 1)}


def test_a_majority_answer_without_training_answers_or_references_is_refused():
    with pytest.raises(ConfigError, match="training cases with answers"):
        majority_accuracy([case("1", answer=None)], [case("2")])
    with pytest.raises(ConfigError, match="no reference answer"):
        majority_accuracy([case("1")], [case("2", answer=None)])


def test_the_comparison_holds_every_figure_of_every_evaluation_and_the_baseline():
    cases = [case("a", "closed/organ", findings=[LESION]), case("b", "open/organ")]
    before = evaluate([episode("a", 0), episode("b", 0, defect="x")], cases)
    after = evaluate([episode("a", 1, [LESION.box])], cases)
    table = compare(
        {"before": before, "after": after}, {"closed/organ": Share(1, 1), "open/organ": Share(0, 1)}
    )
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.header == ("", "n", "before", "after", "majority answer")
    assert rows["accuracy"] == ("2 / 1", "0.0 (0.0-65.8)", "100.0 (20.7-100.0)", "50.0 (9.5-90.5)")
    assert rows["accuracy, open"] == ("1 / 0", "0.0 (0.0-79.3)", "-", "0.0 (0.0-79.3)")
    assert rows["format rate"][1] == "50.0 (9.5-90.5)"
    assert rows["looks per episode"] == ("2 / 1", "0.00", "1.00", "-")
    assert rows["gaze hit rate"] == ("1", "0.0 (0.0-79.3)", "100.0 (20.7-100.0)", "-")
    assert rows["best IoU of a look"] == ("1", "0.00", "1.00", "-")


def test_every_line_of_a_comparison_has_the_same_width_and_names_cannot_break_cells():
    summary = evaluate([episode("a", 1)], [case("a", family="a|b\nc")])
    lines = compare_table({"before | after": summary}).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_a_comparison_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        compare_table({})
