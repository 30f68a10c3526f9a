"""Replay: what the policy did on a question comes back the next time, and not before."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.scenes import Case
from medeyes_monai.training.replay import Replay
from medeyes_monai.trajectory import Episode, Trajectory

CASE = Case("q", SimpleNamespace(key="a", shape=(9, 9)), "what?", answer="right")
NONE = torch.zeros(0)


def episode(answer, reward, stream="policy", defect=None):
    return Episode(
        case="q",
        stream=stream,
        draw=0,
        token_ids=NONE.long(),
        response_mask=NONE.bool(),
        behaviour_logprobs=NONE,
        pictures=(),
        turns=(),
        trajectory=Trajectory((), "so", answer),
        reward=reward,
        defect=defect,
    )


def answers(replay):
    return [path.answer for path in replay.paths(CASE)]


def remembering(order, n_paths=2):
    return Replay(lambda one, case: replace(one, reward=one.reward), n_paths, order)


def test_episodes_of_this_step_come_back_the_next_time_the_question_is_asked():
    replay = remembering("recency")
    replay(episode("first", 1.0), CASE)
    assert answers(replay) == []
    replay(episode("second", 0.0), CASE)
    assert answers(replay) == ["first"]
    assert answers(replay) == ["second", "first"]


@pytest.mark.parametrize(("order", "wanted"), [("recency", ["d", "c"]), ("reward", ["c", "a"])])
def test_the_latest_or_the_best_come_back_of_equal_ones_the_latest(order, wanted):
    replay = remembering(order)
    for answer, reward in zip("abcd", (1.0, 0.0, 1.0, 0.5), strict=True):
        replay(episode(answer, reward), CASE)
    assert answers(replay) == []
    assert answers(replay) == wanted


def test_only_readable_answered_episodes_of_the_policy_are_remembered():
    replay = remembering("recency", 9)
    for other in (
        episode("expert", 1.0, stream="expert"),
        episode("broken", 1.0, defect="empty"),
        episode(None, 0.0),
        episode("kept", 0.0),
    ):
        assert replay(other, CASE).trajectory == other.trajectory
    replay.paths(CASE)
    assert answers(replay) == ["kept"]
    assert replay.paths(replace(CASE, key="another")) == []


def test_settings_out_of_range_are_refused():
    for settings in ({"n_paths": 0}, {"order": "oldest"}):
        with pytest.raises(ConfigError):
            Replay(lambda one, _: one, **settings)
