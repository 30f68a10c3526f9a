"""Attention maps: masses that add up, parity with the ordinary pass, hand-worked numbers, and the drawing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FAMILIES, phantom_cases
from hypothesis import given
from hypothesis import strategies as st
from tiny_families import make_idefics3

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.attention import attention_maps, can_show_attention, recorded_attention
from medeyes_monai.policy.attention_numbers import (
    box_preference,
    box_share,
    describe_attention,
    map_distance,
)
from medeyes_monai.policy.base import Segment
from medeyes_monai.sampler import write_episode
from medeyes_monai.trajectory import Fixation, Trajectory

BOXES = (Box((60, 90), (124, 190)), Box((200, 120), (300, 220)))


def looked(policy, looks=2):
    """An expert's path with some looks, as an episode of a policy."""
    case = phantom_cases(policy, 1)[0]
    path = Trajectory(tuple(Fixation("look closer", box) for box in BOXES[:looks]), "so", "solid")
    return write_episode(path, case, policy), case


def segment(episode):
    return Segment(tuple(episode.token_ids.tolist()), episode.pictures)


def weights_of(policy, episode):
    """The whole attention of one pass, ``[layers, heads, T, T]``, and the states."""
    parts = []
    with recorded_attention(policy, lambda _, weights: parts.append(weights[0].double().numpy())):
        states = policy.family.hidden([segment(episode)])
    return np.stack(parts), states


def test_states_of_the_pass_with_attention_are_those_of_the_pass_without(policy):
    episode, _ = looked(policy)
    with torch.no_grad():
        plain = policy.family.hidden([segment(episode)])
    _, states = weights_of(policy, episode)
    torch.testing.assert_close(states, plain, atol=1e-5, rtol=0)


def test_attention_of_every_token_sums_to_one_and_never_goes_ahead(policy):
    whole, _ = weights_of(policy, looked(policy)[0])
    np.testing.assert_allclose(whole.sum(-1), 1, atol=1e-5)
    assert np.triu(whole, 1).max() == 0


def test_afterwards_the_policy_is_as_it_was(policy):
    episode, _ = looked(policy)
    policy.train(True)
    seen = []
    language = policy.core.model.language_model
    before = language.config._attn_implementation

    def read():
        with recorded_attention(policy, lambda *_: seen.append(1)):
            assert not torch.is_grad_enabled()
            assert not policy.training
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        read()
    assert language.config._attn_implementation == before == "sdpa"
    assert policy.training
    assert torch.is_grad_enabled()
    policy.family.hidden([segment(episode)])
    assert seen == []


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_each_turn_has_a_map_of_every_picture_before_it_and_none_of_those_after(policy, looks):
    episode, _ = looked(policy, looks)
    steps = attention_maps(policy, episode)
    assert [len(step.maps) for step in steps] == [*range(1, looks + 2)]
    sizes = [(p.shape[0] // policy.patch, p.shape[1] // policy.patch) for p in episode.pictures]
    assert all([one.shape for one in step.maps] == sizes[: len(step.maps)] for step in steps)


def test_maps_sum_to_the_mass_that_the_rows_of_a_turn_give_to_image_tokens(policy):
    episode, _ = looked(policy)
    whole = weights_of(policy, episode)[0].mean((0, 1))
    shown = episode.token_ids.numpy() == policy.image_token_id
    places = np.flatnonzero(episode.response_mask.numpy())
    cuts = np.flatnonzero(np.diff(places) > 1) + 1
    for step, turn in zip(attention_maps(policy, episode), np.split(places, cuts), strict=True):
        rows = whole[turn - 1]  # the state before a token is the one that predicts it
        assert sum(step.mass) == pytest.approx(rows[:, shown].sum(-1).mean(), abs=1e-6)
        assert 0 < sum(step.mass) < 1


def test_a_cell_holds_what_went_to_the_token_at_its_row_and_column(policy):
    episode, _ = looked(policy)
    whole = weights_of(policy, episode)[0].mean((0, 1))
    first = int(np.flatnonzero(episode.token_ids.numpy() == policy.image_token_id)[0])
    answer = np.flatnonzero(episode.response_mask.numpy())
    answer = answer[answer > answer[np.flatnonzero(np.diff(answer) > 1)].max()]
    one = attention_maps(policy, episode)[-1].maps[0]
    columns = one.shape[1]
    row, column = one.shape[0] - 1, columns - 2
    went = whole[answer - 1, first + row * columns + column].mean()
    assert one[row, column] == pytest.approx(went, abs=1e-7)


def test_image_tokens_run_along_the_rows_of_the_picture(policy):
    side = policy.patch
    picture = np.full((2 * side, 4 * side, 3), 100, np.uint8)
    changed = picture.copy()
    changed[side:, side : 2 * side] = 255  # row 1, column 1 of a grid of 2 x 4
    before, after = (policy.family.features([one])[0][0] for one in (picture, changed))
    assert int((after - before).norm(dim=-1).argmax()) == 1 * 4 + 1


def test_a_picture_after_which_nothing_was_written_has_no_map(policy):
    episode, _ = looked(policy, 1)
    places = np.flatnonzero(episode.response_mask.numpy())
    end = int(places[np.flatnonzero(np.diff(places) > 1)[0] + 1])  # where the answer's turn begins
    cut = replace(episode, token_ids=episode.token_ids[:end], response_mask=episode.response_mask[:end])
    steps = attention_maps(policy, cut)
    assert [len(step.maps) for step in steps] == [1]
    whole = attention_maps(policy, episode)
    np.testing.assert_allclose(steps[0].maps[0], whole[0].maps[0], atol=1e-6)
    none = replace(cut, response_mask=torch.zeros(end, dtype=torch.bool))
    assert attention_maps(policy, none) == ()


def test_the_mean_over_all_is_the_mean_of_the_means_over_parts(policy):
    episode, _ = looked(policy)
    whole = attention_maps(policy, episode)[-1].maps[1]
    layers = [attention_maps(policy, episode, layers=[n])[-1].maps[1] for n in range(4)]
    heads = [attention_maps(policy, episode, heads=[n])[-1].maps[1] for n in range(4)]
    np.testing.assert_allclose(np.mean(layers, axis=0), whole, atol=1e-6)
    np.testing.assert_allclose(np.mean(heads, axis=0), whole, atol=1e-6)
    assert np.abs(layers[0] - layers[-1]).max() > 1e-4
    assert np.abs(heads[0] - heads[-1]).max() > 1e-4


@pytest.mark.parametrize("asked", [{"layers": [4]}, {"heads": [-1]}, {"layers": []}])
def test_layers_and_heads_that_are_not_there_are_refused(policy, asked):
    episode, _ = looked(policy)
    with pytest.raises(ConfigError, match="0 to 3"):
        attention_maps(policy, episode, **asked)


def test_an_episode_of_another_policy_is_refused(checkpoints):
    first, second = (HuggingFacePolicy(checkpoints[family]) for family in FAMILIES)
    episode, _ = looked(first)
    with pytest.raises(ConfigError, match="written for this policy"):
        attention_maps(second, replace(episode, pictures=episode.pictures[:1]))


@pytest.mark.filterwarnings("ignore")
def test_families_without_a_grid_of_image_tokens_are_refused(tmp_path):
    make_idefics3(tmp_path)
    policy = HuggingFacePolicy(tmp_path)
    assert not can_show_attention(policy)
    with pytest.raises(ConfigError, match="Qwen-VL"), recorded_attention(policy, lambda *_: None):
        pass


def test_low_rank_adapters_do_not_hide_the_attention(checkpoints):
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    plain, adapted = (HuggingFacePolicy(checkpoints["qwen3_vl"], lora=lora) for lora in (None, lora))
    episode, _ = looked(plain)
    one, other = (attention_maps(p, episode)[-1].maps[0] for p in (plain, adapted))
    np.testing.assert_allclose(one, other, atol=1e-6)  # a new adapter changes nothing


def test_the_mass_in_a_box_that_cuts_through_cells_is_the_hand_worked_one():
    # 80 x 60 voxels under 2 rows of 4 cells: a cell is 20 x 30. The box [30, 70) x [15, 45) covers of the
    # columns 0, 1/2, 1, 1/2 and of the rows 1/2, 1/2.
    attention = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    inside = 0.5 * (2 / 2 + 3 + 4 / 2) + 0.5 * (6 / 2 + 7 + 8 / 2)  # 3 + 7
    box = Box((30, 15), (70, 45))
    assert box_share(attention, box, (80, 60)) == pytest.approx(inside / 36)
    area = 40 * 30 / (80 * 60)  # 1/4
    assert box_preference(attention, box, (80, 60)) == pytest.approx(inside / 36 / area)


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_an_even_map_prefers_no_box(rows, columns, data):
    shape = (data.draw(st.integers(2, 400)), data.draw(st.integers(2, 400)))
    x, y = (sorted(data.draw(st.sets(st.integers(0, n), min_size=2, max_size=2))) for n in shape)
    box = Box((x[0], y[0]), (x[1], y[1]))
    assert box_preference(np.full((rows, columns), 0.01), box, shape) == pytest.approx(1)


@given(st.lists(st.floats(1e-3, 1), min_size=6, max_size=6), st.integers(1, 99), st.integers(1, 99))
def test_a_box_and_what_is_beside_it_hold_the_whole_map(cells, cut, size):
    attention, shape = np.reshape(cells, (2, 3)), (100 + size, 57)
    left, right = Box((0, 0), (cut, 57)), Box((cut, 0), (100 + size, 57))
    assert box_share(attention, left, shape) + box_share(attention, right, shape) == pytest.approx(1)


def test_the_distance_of_two_maps_is_the_hand_worked_one():
    # p = (1/2, 1/2), q = (1, 0), m = (3/4, 1/4):
    # JS = (1/2 log2(2/3) + 1/2 log2 2) / 2 + log2(4/3) / 2 = 0.103759 + 0.207519 = 0.311278 bits
    assert map_distance(np.array([[0.1, 0.1]]), np.array([[0.4, 0.0]])) == pytest.approx(
        0.311278**0.5, abs=1e-6
    )


@given(*[st.lists(st.floats(1e-3, 1), min_size=4, max_size=4)] * 2)
def test_the_distance_is_symmetric_bounded_blind_to_scale_and_zero_for_equal_maps(first, second):
    p, q = np.reshape(first, (2, 2)), np.reshape(second, (2, 2))
    assert map_distance(p, q) == pytest.approx(map_distance(q, p), abs=1e-6)
    assert 0 <= map_distance(p, q) <= 1
    assert map_distance(p, 7 * p) == pytest.approx(0, abs=1e-6)


def test_maps_that_hold_nothing_and_boxes_of_volumes_are_refused():
    with pytest.raises(ConfigError, match="holds no attention"):
        map_distance(np.zeros((2, 2)), np.ones((2, 2)))
    with pytest.raises(ConfigError, match="2 axes"):
        box_share(np.ones((2, 2)), Box((0, 0, 0), (1, 1, 1)), (2, 2, 2))


def test_the_means_over_episodes_are_those_of_their_steps(policy):
    (one, case), (two, _) = looked(policy, 1), looked(policy, 2)
    numbers = describe_attention(policy, [one, two], {case.key: case})
    first, second = attention_maps(policy, one), attention_maps(policy, two)
    shape = case.scene.shape
    steps = [*first, *second]
    assert numbers["attention/images"] == pytest.approx(np.mean([sum(s.mass) for s in steps]))
    boxes = two.trajectory.boxes  # as written, which rounds them
    pairs = [(first[0], boxes[0]), (second[0], boxes[0]), (second[1], boxes[1])]
    wanted = np.mean([box_preference(step.maps[0], box, shape) for step, box in pairs])
    assert numbers["attention/box_preference"] == pytest.approx(wanted)
    moves = [(first[0], first[1]), (second[0], second[1]), (second[1], second[2])]
    wanted = np.mean([map_distance(a.maps[0], b.maps[0]) for a, b in moves])
    assert numbers["attention/moved"] == pytest.approx(wanted)
    later = [step for step in steps if len(step.maps) > 1]
    assert numbers["attention/last_look"] == pytest.approx(np.mean([s.mass[-1] / sum(s.mass) for s in later]))
