"""Attention maps: masses that add up, parity with the ordinary pass, hand-worked numbers, and the drawing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor
from policies import FAMILIES, phantom_cases
from tiny_families import make_idefics3

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.attention import (
    StepAttention,
    attention_maps,
    can_show_attention,
    recorded_attention,
)
from medeyes_monai.policy.attention_numbers import (
    box_preference,
    box_share,
    describe_attention,
    map_distance,
)
from medeyes_monai.policy.base import Segment
from medeyes_monai.reports.answers import write_answers
from medeyes_monai.reports.attention import (
    CROP_SIDE,
    GAP,
    OVERVIEW_SIDE,
    attention_figure,
    attention_words,
    draw_attention,
)
from medeyes_monai.reports.gaze import COLOURS
from medeyes_monai.reports.page import write_report
from medeyes_monai.reports.summary import write_summary
from medeyes_monai.rewards import CompositeReward
from medeyes_monai.sampler import write_episode
from medeyes_monai.training.evaluator import EpisodeEvaluator
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


def test_the_drawing_is_vermilion_where_more_was_attended_to_and_blue_where_less(policy):
    episode, case = looked(policy, 1)
    rows, columns = (side // policy.patch for side in episode.pictures[0].shape[:2])
    overview = np.full((rows, columns), 0.01)
    overview[0, 1], overview[1, 0] = 0.05, 0.001
    crop = np.full([side // policy.patch for side in episode.pictures[1].shape[:2]], overview.mean())
    drawn = draw_attention(episode, case, StepAttention((overview, crop)), 2)  # turn 2 asks for no look
    factor = OVERVIEW_SIDE // max(episode.pictures[0].shape[:2])
    plain = np.kron(episode.pictures[0], np.ones((factor, factor, 1))).astype(int)
    cell = policy.patch * factor
    change = (
        (drawn[: plain.shape[0], : plain.shape[1]] - plain).reshape(rows, cell, columns, cell, 3).mean((1, 3))
    )
    assert change[0, 1, 0] > change[0, 1, 2] + 20  # red over blue
    assert change[1, 0, 2] > change[1, 0, 0] + 20  # blue over red
    right = drawn[:, plain.shape[1] + GAP :]
    small = np.kron(
        episode.pictures[1], np.ones((CROP_SIDE // max(episode.pictures[1].shape[:2]),) * 2 + (1,))
    )
    np.testing.assert_array_equal(right[: small.shape[0]], small)  # an even share has no colour


def test_the_box_that_a_turn_asks_for_is_drawn_and_that_of_another_is_not(policy):
    episode, case = looked(policy, 2)
    drawings = [
        draw_attention(episode, case, step, n)
        for n, step in enumerate(attention_maps(policy, episode), start=1)
    ]
    hues = [ImageColor.getrgb(colour) for colour in COLOURS[:2]]
    marked = [[(drawing == hue).all(-1).sum() > 50 for hue in hues] for drawing in drawings]
    assert marked == [[True, False], [False, True], [False, False]]
    columns = np.flatnonzero((drawings[1] == hues[1]).all(-1).any(0))
    box, side = episode.trajectory.boxes[1], OVERVIEW_SIDE // max(episode.pictures[0].shape[:2])
    scale = side * episode.pictures[0].shape[1] / case.scene.shape[0]
    assert (columns.min(), columns.max() + 1) == pytest.approx(
        (box.start[0] * scale, box.stop[0] * scale), abs=2
    )


def test_the_words_hold_the_numbers_of_the_maps(policy):
    episode, case = looked(policy, 1)
    steps = attention_maps(policy, episode)
    box, shape = episode.trajectory.boxes[0], case.scene.shape
    asked, answered = (attention_words(episode, case, steps, n) for n in (1, 2))
    assert f"{sum(steps[0].mass):.0%} of the attention goes to pictures" in asked
    assert f"{box_preference(steps[0].maps[0], box, shape):.2f} times its share" in asked
    assert "in the box" not in answered
    assert f"look 1 {steps[1].mass[1] / sum(steps[1].mass):.0%}" in answered
    assert f"{map_distance(steps[0].maps[0], steps[1].maps[0]):.2f} of 1" in answered


def test_the_page_shows_the_attention_of_each_step_and_none_where_none_is_given(policy, tmp_path):
    shown = looked(policy, 1)
    steps = attention_maps(policy, shown[0])
    page = {"title": "run", "tables": {}, "episodes": [shown]}
    text = write_report(tmp_path, **page, attention=[steps]).read_text("utf-8")
    assert text.count('class="attention"') == 2
    assert text.count("of the attention goes to pictures") == 2
    assert 'class="attention"' not in write_report(tmp_path, **page).read_text("utf-8")


def test_the_figure_has_a_row_for_each_step(policy, tmp_path):
    heights = []
    for looks in (0, 2):
        episode, case = looked(policy, looks)
        attention_figure(episode, case, attention_maps(policy, episode), tmp_path / "attention.png")
        with Image.open(tmp_path / "attention.png") as picture:
            heights.append(picture.height)
    assert heights == [round(120 * (0.8 + 3.0 * steps)) for steps in (1, 3)]


def test_the_summary_draws_attention_where_the_policy_allows_it(policy, tmp_path):
    inferer = EpisodeInferer(draws=1, greedy=True, max_turn_tokens=6)
    evaluator = EpisodeEvaluator(policy, phantom_cases(policy, 2), inferer, CompositeReward())
    evaluator.run()
    for asked, drawn in ((policy, 2), (None, 0)):
        write_summary(tmp_path, evaluators={"test": evaluator}, title="run", policy=asked)
        text = (tmp_path / "report" / "index.html").read_text("utf-8")
        assert text.count('class="attention"') == drawn


def test_answers_are_reported_with_the_attention_of_the_policy_that_gave_them(policy, tmp_path, capsys):
    inferer = EpisodeInferer(draws=1, greedy=True, max_turn_tokens=6)
    evaluator = EpisodeEvaluator(policy, phantom_cases(policy, 2), inferer)
    evaluator.run()
    write_answers(tmp_path, evaluator=evaluator, title="run", policy=policy, pictures=1)
    text = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert text.count('class="attention"') == 1
    assert "answers.json" in capsys.readouterr().out
