"""Micro-batches by a budget of tokens: laws of the cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medeyes_monai.errors import ConfigError
from medeyes_monai.training.microbatches import micro_batches

LENGTHS = st.lists(st.integers(1, 50), max_size=30)
BUDGETS = st.integers(1, 200)


@given(LENGTHS, BUDGETS)
def test_every_episode_is_in_exactly_one_batch_and_no_batch_is_empty(lengths, budget):
    batches = micro_batches(lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(batches)


@given(LENGTHS, BUDGETS)
def test_padded_tokens_keep_the_budget_except_for_one_longer_episode(lengths, budget):
    for batch in micro_batches(lengths, budget):
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


@given(LENGTHS, BUDGETS)
def test_no_episode_comes_after_a_shorter_one(lengths, budget):
    order = [lengths[row] for batch in micro_batches(lengths, budget) for row in batch]
    assert order == sorted(lengths, reverse=True)


@given(LENGTHS, BUDGETS)
def test_a_batch_ends_only_where_the_next_episode_would_break_the_budget(lengths, budget):
    batches = micro_batches(lengths, budget)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * lengths[batch[0]] > budget


def test_a_worked_cut():
    # 7 is over the budget of 6 and alone; 3 + 3 = 6 fit; 2, 2, 1 take 3 * 2 = 6.
    assert micro_batches([2, 3, 7, 1, 3, 2], 6) == [[2], [1, 4], [0, 5, 3]]


def test_one_batch_holds_all_where_the_budget_does():
    assert micro_batches([4] * 8, 32) == [list(range(8))]


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_below_one_token_is_refused(budget):
    with pytest.raises(ConfigError, match=f"micro_tokens must be at least 1 .* got {budget}"):
        micro_batches([1], budget)
