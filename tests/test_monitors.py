"""Each monitor on a real engine: a training in which the failure shows, and one in which it does not."""

import json
import logging
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.handlers import TensorBoardStatsHandler
from policies import LookingPolicy, phantom_cases
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medeyes_monai.data.phantom import PhantomVQA
from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.metrics.signatures import SIGNATURES, occurrences
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.protocol import DEFECTS
from medeyes_monai.reports.page import write_report
from medeyes_monai.reports.warnings import warning_texts, without_warnings
from medeyes_monai.rewards import CompositeReward
from medeyes_monai.sampler import write_episode
from medeyes_monai.scenes import ImageScene
from medeyes_monai.training.evaluator import EpisodeEvaluator
from medeyes_monai.training.experience import describe_episodes
from medeyes_monai.training.handlers import StepLog
from medeyes_monai.training.monitors import (
    EntropyCollapse,
    ExpertCopying,
    ExpertReliance,
    Interference,
    MemorisedPaths,
    NoSignal,
    Probe,
    RewardCollapse,
    SuperficialFocusing,
    VanishingLooks,
)
from medeyes_monai.training.monitors.probes import gap_growth
from medeyes_monai.trajectory import Fixation, Trajectory

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
TINY = BUNDLE / "models" / "tiny_policy"
LOGPROB, REWARD, OVERLAP = "expert/logprob_mean", "policy/reward", "policy/expert_overlap"
COSINE, ENTROPY, UNIFORM = "gradient_cosine", "policy/entropy_mean", "policy/zero_variance_share"
LOOKS, GRADIENT, FORMED = "policy/looks", "gradient_norm", "policy/format_rate"
N = 40


def noisy(start, stop, deviation, seed=0):
    """A number that goes from start to stop in a straight line, with noise."""
    return np.linspace(start, stop, N) + np.random.default_rng(seed).normal(0, deviation, N)


def train(monitors, series, step=lambda _: None):
    """Run an engine whose output holds the numbers of some series; return the output of each update."""
    monitors = monitors if isinstance(monitors, list) else [monitors]
    length, seen = len(next(iter(series.values()))), []

    def update(engine, _):
        step(engine.state.iteration)
        number = engine.state.iteration - 1
        values = {k: float(v[number]) for k, v in series.items() if not math.isnan(v[number])}
        return [values | {"loss": 0.0}]

    engine = Engine(update)
    for monitor in monitors:
        monitor.attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(dict(e.state.output[0])))
    engine.run(range(length))
    return seen


def warned(monitor, outputs):
    marks = [out[key] for out in outputs if (key := f"warning/{monitor.signature.name}") in out]
    assert set(marks) <= {0.0, 1.0}
    return any(marks)


def rollouts(uniform, gradient, formed, reward):
    """What NoSignal reads; half of the defects are turns that were cut, a third open with prose."""
    numbers = {UNIFORM: uniform, GRADIENT: gradient, FORMED: formed, REWARD: reward}
    shares = {"too_long": 1 / 2, "missing_reasoning": 1 / 3, "bad_action": 1 / 6}
    defects = {f"policy/defect/{kind}": shares.get(kind, 0.0) * (1 - formed) for kind in DEFECTS}
    return {name: np.full(N, value) for name, value in (numbers | defects).items()}


STUCK, RISING, SOLVED = noisy(0.6, 0.6, 0.005), noisy(0.5, 0.8, 0.005), noisy(0.97, 0.97, 0.005)
FAILING = {
    "experts are learned and nothing else": (ExpertReliance, {LOGPROB: noisy(-2, -0.5, 0.1), REWARD: STUCK}),
    "own looks are the experts'": (ExpertCopying, {OVERLAP: noisy(0.6, 1.0, 0.02), REWARD: STUCK}),
    "gradients oppose": (Interference, {COSINE: noisy(0.1, -0.5, 0.14)}),
    "entropy falls": (EntropyCollapse, {ENTROPY: noisy(0.3, 0.01, 0.005)}),
    "certain from the start": (EntropyCollapse, {ENTROPY: noisy(0.002, 0.002, 0.0)}),
    "groups are uniform": (RewardCollapse, {UNIFORM: noisy(0.1, 0.95, 0.05), REWARD: STUCK}),
    "all rewards are one": (NoSignal, rollouts(1.0, 0.3, 0.9, 0.2)),
    "no gradient": (NoSignal, rollouts(0.9, 0.0, 0.9, 0.2)),
    "hardly an episode is well formed": (NoSignal, rollouts(0.9, 0.3, 0.04, 0.02)),
    "looks vanish": (VanishingLooks, {LOOKS: noisy(1.0, 0.3, 0.05), REWARD: STUCK}),
    "hardly a look from the start": (VanishingLooks, {LOOKS: noisy(0.1, 0.1, 0.02), REWARD: RISING}),
}
HEALTHY = {
    "experts are learned and the reward rises": (
        ExpertReliance,
        {LOGPROB: noisy(-2, -0.5, 0.1), REWARD: RISING},
    ),
    "experts are learned when all is solved": (
        ExpertReliance,
        {LOGPROB: noisy(-2, -0.5, 0.1), REWARD: SOLVED},
    ),
    "nothing is learned of the experts": (ExpertReliance, {LOGPROB: noisy(-0.5, -0.5, 0.1), REWARD: STUCK}),
    "experts' places pay": (ExpertCopying, {OVERLAP: noisy(0.6, 1.0, 0.02), REWARD: RISING}),
    "experts' places when all is solved": (ExpertCopying, {OVERLAP: noisy(0.6, 1.0, 0.02), REWARD: SOLVED}),
    "own places": (ExpertCopying, {OVERLAP: noisy(0.6, 0.6, 0.02), REWARD: STUCK}),
    "gradients have nothing to do with each other": (Interference, {COSINE: noisy(0, 0, 0.14)}),
    "entropy stays": (EntropyCollapse, {ENTROPY: noisy(0.3, 0.25, 0.01)}),
    "looks stay": (VanishingLooks, {LOOKS: noisy(1.0, 0.9, 0.05), REWARD: STUCK}),
    "no question needs a look": (VanishingLooks, {LOOKS: noisy(1.0, 0.0, 0.05), REWARD: SOLVED}),
    "groups differ": (RewardCollapse, {UNIFORM: noisy(0.1, 0.3, 0.05), REWARD: STUCK}),
    "few are well formed, but some": (NoSignal, rollouts(0.9, 0.3, 0.06, 0.02)),
    "no gradient because all is right": (NoSignal, rollouts(1.0, 0.0, 1.0, 0.97)),
    "groups are uniform because all is right": (
        RewardCollapse,
        {UNIFORM: noisy(0.1, 0.95, 0.05), REWARD: SOLVED},
    ),
}


@pytest.mark.parametrize(("kind", "series"), FAILING.values(), ids=FAILING)
def test_a_training_that_fails_is_warned_of(kind, series, caplog):
    monitor = kind()
    assert warned(monitor, train(monitor, series))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert monitor.signature.title in record.message
    assert monitor.signature.advice in record.message


@pytest.mark.parametrize(("kind", "series"), HEALTHY.values(), ids=HEALTHY)
def test_a_training_that_does_not_fail_is_not_warned_of(kind, series, caplog):
    monitor = kind()
    outputs = train(monitor, series)
    assert not warned(monitor, outputs)
    assert f"monitor/{monitor.signature.name}" in outputs[-1]
    assert caplog.records == []


def test_rollouts_without_a_signal_are_warned_of_by_their_most_frequent_defect(caplog):
    train(NoSignal(window=2), rollouts(1.0, 0.0, 0.0, 0.0))
    (record,) = caplog.records
    assert record.message.startswith(
        "update 2: own episodes give nothing to learn from: over 2 updates all own episodes of each question "
        "had one reward, the gradient was 0, 0% of own episodes were well formed, most frequent defect "
        "too_long (50%)"
    )


def test_the_log_is_told_once_for_each_time_that_it_happens(caplog):
    cosine = np.array([0.5] * 4 + [-0.5] * 6 + [0.5] * 6 + [-0.5] * 4)
    outputs = train(Interference(window=2, limit=-0.1), {COSINE: cosine})
    # The mean of two is -0.5 from update 6 to 10, 0 at 5, 11 and 17, and -0.5 again from 18 on.
    assert [n for n, out in enumerate(outputs, start=1) if out.get("warning/interference")] == [
        *range(6, 11),
        *range(18, 21),
    ]
    assert [record.message.split(":")[0] for record in caplog.records] == ["update 6", "update 18"]
    assert "-0.50 over 2 updates" in caplog.records[0].message


def test_the_rise_over_a_window_is_the_hand_worked_one():
    # Later half minus earlier half; the middle counts for neither: (4 + 5) / 2 - (1 + 2) / 2 = 3.
    series = {LOGPROB: np.array([1.0, 2, 9, 4, 5]), REWARD: np.full(5, 0.5)}
    outputs = train(ExpertReliance(window=5, rise=3.0), series)
    assert [out.get("monitor/expert_reliance") for out in outputs] == [None] * 4 + [3.0]
    assert outputs[-1]["warning/expert_reliance"] == 1.0


def test_updates_that_lack_the_number_do_not_count():
    cosine = np.array([-0.5, math.nan, -0.5, math.nan, -0.5])
    outputs = train(Interference(window=3), {COSINE: cosine})
    assert [out.get("warning/interference") for out in outputs] == [None] * 4 + [1.0]


def test_a_second_run_begins_with_an_empty_window(caplog):
    monitor = Interference(window=3)
    for _ in range(2):
        outputs = train(monitor, {COSINE: np.full(3, -0.5)})
        assert [out.get("warning/interference") for out in outputs] == [None, None, 1.0]
    assert len(caplog.records) == 2


def test_every_monitor_has_a_signature_with_advice():
    kinds = {kind().signature.name for kind, _ in FAILING.values()}
    assert kinds | {"superficial_focusing", "memorised_paths"} == SIGNATURES.keys()
    assert all(signature.advice and signature.measure for signature in SIGNATURES.values())


@pytest.mark.parametrize("arguments", [{"window": 1}, {"window": 0}])
def test_a_window_that_holds_nothing_to_compare_is_refused(arguments):
    with pytest.raises(ConfigError, match="at least 2 updates"):
        Interference(**arguments)


def test_warnings_reach_step_log_tensorboard_and_report(tmp_path):
    cosine = np.array([0.5, 0.5, -0.5, -0.5, 0.5, 0.5])
    board = TensorBoardStatsHandler(log_dir=str(tmp_path), output_transform=lambda output: output[0])
    train([Interference(window=2), StepLog(tmp_path / "metrics.jsonl"), board], {COSINE: cosine})
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    marks = [record.get("warning/interference") for record in records]
    assert marks == [None, 0.0, 0.0, 1.0, 0.0, 0.0]
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("warning/interference")
    assert [(event.step, event.value) for event in events] == [(2, 0), (3, 0), (4, 1), (5, 0), (6, 0)]
    page = write_report(tmp_path / "report", title="run", tables={}, warnings=warning_texts(records))
    text = page.read_text("utf-8")
    assert "Warning, update 4: the two streams pull against each other. Measure at first -0.5" in text
    assert all(not name.startswith("warning/") for record in without_warnings(records) for name in record)


def test_the_report_says_what_was_watched_when_nothing_was_seen_and_nothing_without_monitors():
    quiet = [{"step": 1.0, "warning/interference": 0.0, "warning/entropy_collapse": 0.0}]
    (text,) = warning_texts(quiet)
    assert text.startswith("None of the failures")
    assert "no longer explores" in text
    assert warning_texts([{"step": 1.0, "loss": 0.5}]) == []


def test_occurrences_are_told_apart_and_sorted_by_their_beginning():
    marks = {"interference": [0, 1, 1, 0, 1], "entropy_collapse": [1, None, 1, 0, 0]}
    records = [{"step": float(n + 1)} for n in range(5)]
    for name, values in marks.items():
        for record, value in zip(records, values, strict=True):
            if value is not None:
                record |= {f"warning/{name}": float(value), f"monitor/{name}": 10 * record["step"]}
    found = [(o.signature.name, o.first, o.last, o.measure, o.over) for o in occurrences(records)]
    assert found == [
        ("entropy_collapse", 1, 3, 10.0, True),
        ("interference", 2, 3, 20.0, True),
        ("interference", 5, 5, 50.0, False),
    ]


def test_the_share_of_repeated_looks_is_the_hand_worked_one(policy):
    one, two, three = phantom_cases(policy, 3)
    first, second = Box((60, 90), (124, 190)), Box((200, 120), (300, 220))

    def episode(case, stream, *boxes):
        path = Trajectory(tuple(Fixation("look", box) for box in boxes), "so", "solid")
        return replace(write_episode(path, case, policy), stream=stream, reward=0.5)

    episodes = [
        episode(one, "expert", first),
        episode(one, "policy", first, second),  # one of two repeats the expert's
        episode(two, "expert", second),
        episode(two, "policy", first),  # an expert's look, but at another question
        episode(two, "policy"),
        episode(three, "expert"),  # did not look
        episode(three, "policy", first),  # does not count
    ]
    cases = {case.key: case for case in (one, two, three)}
    assert describe_episodes(episodes, cases)["policy/expert_overlap"] == pytest.approx(1 / 3)
    assert OVERLAP not in describe_episodes(episodes[-2:], cases)
    assert OVERLAP not in describe_episodes(episodes[1:2], cases)


def probe(policy, cases, **arguments):
    inferer = EpisodeInferer(draws=1, greedy=True, max_turn_tokens=48)
    return Probe(EpisodeEvaluator(policy, cases, inferer, CompositeReward(), **arguments))


def test_answers_that_do_not_depend_on_the_pixels_are_warned_of(checkpoints, caplog):
    policy = LookingPolicy(checkpoints["qwen2_5_vl"])  # answers "solid" whatever it saw
    cases = phantom_cases(policy, 16)
    seeing, blanked = probe(policy, cases), probe(policy, cases, blank_looks=True)
    monitor = SuperficialFocusing(seeing, blanked, interval=2, least=4)
    outputs = train(monitor, {"x": np.zeros(3)})
    assert [out.get("warning/superficial_focusing") for out in outputs] == [None, 1.0, None]
    assert "stay the same when looks show grey" in caplog.text


def test_answers_that_depend_on_the_pixels_are_not_warned_of(caplog):
    policy = HuggingFacePolicy(TINY)
    data = PhantomVQA("val", size=24, families=["attribute"], scene=partial(ImageScene, patch=policy.patch))
    cases = [data[n] for n in range(24)]
    seeing, blanked = probe(policy, cases), probe(policy, cases, blank_looks=True)
    outputs = train(SuperficialFocusing(seeing, blanked, interval=1), {"x": np.zeros(1)})
    assert outputs[0]["warning/superficial_focusing"] == 0.0
    assert 0 < outputs[0]["monitor/superficial_focusing"] < 0.8
    assert caplog.records == []
    silent = SuperficialFocusing(seeing, blanked, interval=1, families=["heart"])
    assert "monitor/superficial_focusing" not in train(silent, {"x": np.zeros(1)})[0]


def test_answers_that_were_given_without_a_look_do_not_count(caplog):
    policy = HuggingFacePolicy(TINY)
    data = PhantomVQA("val", size=12, families=["heart"], scene=partial(ImageScene, patch=policy.patch))
    cases = [data[n] for n in range(12)]
    monitor = SuperficialFocusing(probe(policy, cases), probe(policy, cases, blank_looks=True), interval=1)
    assert "monitor/superficial_focusing" not in train(monitor, {"x": np.zeros(1)})[0]
    assert not any(episode.trajectory.fixations for episode in monitor.seeing.evaluator.episodes)


def test_probes_with_their_roles_exchanged_are_refused(checkpoints):
    policy = LookingPolicy(checkpoints["qwen3_vl"])
    cases = phantom_cases(policy, 2)
    seeing, blanked = probe(policy, cases), probe(policy, cases, blank_looks=True)
    for pair in ((blanked, seeing), (seeing, seeing), (blanked, blanked)):
        with pytest.raises(ConfigError, match="blank_looks"):
            SuperficialFocusing(*pair)


def test_probes_are_asked_again_only_when_the_policy_has_changed(checkpoints):
    policy = LookingPolicy(checkpoints["qwen3_vl"])
    shared = probe(policy, phantom_cases(policy, 2))
    first = shared.ask()
    assert shared.ask() == first
    with torch.no_grad():
        next(p for p in policy.parameters() if p.requires_grad).mul_(1.5)
    assert all(shared.ask()[key] is not episode for key, episode in first.items())


def learning(policy, cases, steps):
    """Return an update that fits the policy to the answers of some cases, without looks."""
    episodes = [write_episode(Trajectory((), "", case.answer), case, policy) for case in cases]
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], lr=1e-3)

    def update(_):
        policy.train(True)
        for _ in range(steps):
            optimizer.zero_grad()
            scores = policy.score(episodes)
            (-scores.logprobs.sum() / scores.response_mask.sum()).backward()
            optimizer.step()

    return update


def relabelled(policy, split, answers):
    """One question about as many phantoms, with answers that the policy has never given."""
    data = PhantomVQA(
        split, size=len(answers), families=["attribute"], scene=partial(ImageScene, patch=policy.patch)
    )
    return [replace(data[n], answer=answer) for n, answer in enumerate(answers)]


def gap_watched(known_answers, ood_answers):
    policy = HuggingFacePolicy(TINY)
    known = relabelled(policy, "val", known_answers)
    ood = relabelled(policy, "ood", ood_answers)
    monitor = MemorisedPaths(probe(policy, known), probe(policy, ood), interval=1)
    return monitor, train(monitor, {"x": np.zeros(1)}, learning(policy, known, 25))[0]


def test_a_policy_that_learns_its_questions_by_heart_is_warned_of(caplog):
    numbers = [str(n) for n in range(8)]  # nothing but the picture itself tells which is whose
    monitor, output = gap_watched(numbers, numbers)
    assert fmean(monitor.known.accuracies().values()) > 0.8
    assert fmean(monitor.ood.accuracies().values()) < 0.4
    assert output["warning/memorised_paths"] == 1.0
    assert "paths are memorised" in caplog.text


def test_a_policy_that_learns_what_holds_everywhere_is_not_warned_of(caplog):
    monitor, output = gap_watched(["7"] * 8, ["7"] * 8)
    assert min(monitor.ood.accuracies().values()) == 1.0
    assert output["monitor/memorised_paths"] == output["warning/memorised_paths"] == 0.0
    assert caplog.records == []


@pytest.mark.parametrize(("errors", "warning"), [(1.0, 1.0), (2.0, 0.0)])
def test_a_growth_within_the_error_of_few_questions_is_not_warned_of(errors, warning):
    # One of four questions becomes right: growth 1/4, error sqrt(3/16 / 4) = 0.217.
    policy, right = HuggingFacePolicy(TINY), set()

    def reward(episode, case):
        return replace(episode, reward=0.0, reward_parts={"accuracy": float(case.key in right)})

    inferer = EpisodeInferer(draws=1, greedy=True, max_turn_tokens=4)
    known, ood = (
        Probe(EpisodeEvaluator(policy, relabelled(policy, split, "1234"), inferer, reward))
        for split in ("val", "ood")
    )

    def update(_):
        right.add(known.evaluator.cases[0].key)
        with torch.no_grad():
            next(p for p in policy.parameters() if p.requires_grad).mul_(1.01)

    output = train(MemorisedPaths(known, ood, interval=1, errors=errors), {"x": np.zeros(1)}, update)[0]
    assert (output["monitor/memorised_paths"], output["warning/memorised_paths"]) == (0.25, warning)


def test_a_run_that_ends_before_the_second_probe_asks_nothing():
    policy = HuggingFacePolicy(TINY)
    known, ood = (probe(policy, relabelled(policy, split, ["1"])) for split in ("val", "ood"))
    train(MemorisedPaths(known, ood, interval=4), {"x": np.zeros(3)})
    assert known.evaluator.episodes == []


def test_the_growth_of_the_gap_and_its_error_are_the_hand_worked_ones():
    known, ood = dict.fromkeys("abcd", 0.0), {"x": 1.0, "y": 0.0}
    # Changes 1, 0, 0, 0 of the known and -1, 1 of the others: growth 1/4 - 0. Their variances are
    # 1/4 * 3/4 = 3/16 and 1, so the error is sqrt(3/16 / 4 + 1 / 2) = sqrt(35/64).
    growth, error = gap_growth((known, ood), ({**known, "a": 1.0}, {"x": 0.0, "y": 1.0}))
    assert growth == 0.25
    assert error == pytest.approx((35 / 64) ** 0.5)
    assert gap_growth((known, ood), (known, ood)) == (0.0, 0.0)


def test_a_training_of_the_bundle_is_watched_and_what_is_seen_is_logged(tmp_path):
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "train.yaml"))
    small = {"max_epochs": 1, "epoch_length": 2, "questions": 4, "draws": 4, "probe_interval": 2}
    small |= {"probe_size": 14, "bundle_root": str(BUNDLE), "device": "cpu", "output_dir": str(tmp_path)}
    small |= {f"train::monitors::{n}::window": 2 for n in (*range(6), 8)}
    small |= {"train::monitors::6::least": 1, "train::monitors::6::families": None}
    parser.update(small)
    parser.parse()
    parser.get_parsed_content("train::trainer").run()
    first, second = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert not any(name.startswith(("monitor/", "warning/")) for name in first)
    assert {name for name in SIGNATURES if f"monitor/{name}" in second} == SIGNATURES.keys()
    assert {second[f"warning/{name}"] for name in SIGNATURES} <= {0.0, 1.0}
