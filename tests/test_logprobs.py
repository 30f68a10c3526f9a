"""Log-probabilities and entropies in chunks: the numbers of all at once, in less memory."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.logprobs import CHUNK_BYTES, rows_for, score_tokens

FORBIDDEN = (2, 5)
ROWS, HIDDEN, VOCABULARY = 9, 4, 7


def head_of(weight, forbidden=FORBIDDEN):
    mask = torch.zeros(len(weight), dtype=torch.bool)
    mask[list(forbidden)] = True
    return lambda rows: ((rows @ weight.T) / 0.7).masked_fill(mask, float("-inf"))


def inputs(rows=ROWS, seed=0):
    """Hidden states and head weight with gradient, targets that are not forbidden."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, HIDDEN, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, dtype=torch.float64, generator=generator).requires_grad_()
    allowed = torch.tensor([token for token in range(VOCABULARY) if token not in FORBIDDEN])
    return hidden, allowed[torch.randint(len(allowed), (rows,), generator=generator)], weight


def plainly(hidden, targets, weight):
    """All logits at once, entropy over the tokens that may be drawn."""
    logs = torch.log_softmax(head_of(weight)(hidden), dim=-1)
    allowed = [token for token in range(VOCABULARY) if token not in FORBIDDEN]
    entropy = -(logs[:, allowed].exp() * logs[:, allowed]).sum(-1)
    return logs.gather(-1, targets[:, None])[:, 0], entropy


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 12), st.integers(1, 14), st.booleans(), st.integers(0, 99))
def test_values_and_gradients_are_those_of_all_logits_at_once(rows, chunk, with_entropy, seed):
    hidden, targets, weight = inputs(rows, seed)
    factors = torch.randn(2, rows, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    factors[1] *= with_entropy
    found = score_tokens(hidden, targets, head_of(weight), chunk=chunk, entropy_gradient=with_entropy)
    expected = plainly(hidden, targets, weight)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=1e-12)
    gradients = [
        torch.autograd.grad((torch.stack(pair) * factors).sum(), (hidden, weight))
        for pair in (found, expected)
    ]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("chunk", [2, ROWS])
def test_gradients_agree_with_finite_differences(chunk):
    hidden, targets, weight = inputs()

    def score(states, matrix):
        return score_tokens(states, targets, head_of(matrix), chunk=chunk, entropy_gradient=True)

    assert torch.autograd.gradcheck(score, (hidden, weight))


def test_logprobs_and_entropies_of_hand_worked_rows():
    # Softmax of log 1, log 1, log 2 is 1/4, 1/4, 1/2: H = 2 * (1/4 log 4) + 1/2 log 2 = 3/2 log 2.
    # With the third token forbidden it is 1/2, 1/2: H = log 2. One possible token: H = 0.
    low = float("-inf")
    logits = torch.tensor([[0.0, 0.0, math.log(2)], [0.0, 0.0, low], [low, 5.0, low]])
    logprobs, entropy = score_tokens(logits, torch.tensor([2, 0, 1]), lambda rows: rows, chunk=2)
    torch.testing.assert_close(logprobs, torch.tensor([math.log(0.5), math.log(0.5), 0.0]))
    torch.testing.assert_close(entropy, torch.tensor([1.5 * math.log(2), math.log(2), 0.0]))
    assert logprobs.dtype == entropy.dtype == torch.float32


def test_a_forbidden_target_is_impossible_and_a_forbidden_token_gets_no_gradient():
    hidden, targets, weight = inputs()
    targets[3] = FORBIDDEN[0]
    logprobs, entropy = score_tokens(hidden, targets, head_of(weight), chunk=4, entropy_gradient=True)
    assert logprobs[3] == float("-inf")
    assert logprobs.isfinite().sum() == ROWS - 1
    others = torch.arange(ROWS) != 3
    (logprobs[others].sum() + entropy.sum()).backward()
    assert weight.grad.isfinite().all()
    assert weight.grad[list(FORBIDDEN)].eq(0).all()


@pytest.mark.parametrize("chunk", [2, ROWS])
def test_entropy_has_a_gradient_only_where_one_is_asked_for(chunk):
    hidden, targets, weight = inputs()
    asked = score_tokens(hidden, targets, head_of(weight), chunk=chunk, entropy_gradient=True)[1]
    spared = score_tokens(hidden, targets, head_of(weight), chunk=chunk)[1]
    assert asked.requires_grad
    assert not spared.requires_grad
    torch.testing.assert_close(asked, spared, atol=0, rtol=0)


@pytest.mark.parametrize(("chunk", "calls"), [(ROWS, 1), (3, 6)])
def test_logits_are_made_again_in_backward_only_where_there_is_more_than_one_chunk(chunk, calls):
    hidden, targets, weight = inputs()
    seen = []

    def head(rows):
        seen.append(len(rows))
        return head_of(weight)(rows)

    score_tokens(hidden, targets, head, chunk=chunk)[0].sum().backward()
    assert len(seen) == calls
    assert max(seen) <= chunk


def test_nothing_that_grows_with_the_vocabulary_waits_for_backward():
    hidden, targets, weight = inputs()
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        score_tokens(hidden, targets, head_of(weight), chunk=3, entropy_gradient=True)
    assert sum(size for size in kept if size >= 3 * VOCABULARY) == 0


MEASURE = """
import torch
from pathlib import Path
from medeyes_monai.policy.logprobs import rows_for, score_tokens

def peak():  # of this program; ru_maxrss would remember the size of the one that started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

def peak_after(chunks):
    hidden = torch.randn(chunks * chunk, 8, requires_grad=True)
    logprobs, _ = score_tokens(hidden, torch.zeros(len(hidden), dtype=torch.long), head, chunk=chunk)
    logprobs.sum().backward()
    return peak()

torch.set_num_threads(1)
chunk = rows_for(40_000)
head = torch.nn.Linear(8, 40_000, bias=False)
print(peak(), peak_after(2), peak_after(6))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the peak that Linux keeps")
def test_peak_memory_of_six_chunks_is_that_of_two():
    # A chunk of logits is 64 MiB; the logits of six would be 384 MiB, before softmax and gradient.
    command = [sys.executable, "-W", "ignore", "-c", MEASURE]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
    before, two, six = map(float, output.split())
    assert six - two < 16
    assert 64 < two - before < 5 * 64


def test_a_budget_below_one_row_still_allows_one():
    assert rows_for(152_000, 1) == 1
    assert 4 * 152_000 * rows_for(152_000) <= CHUNK_BYTES < 4 * 152_000 * (rows_for(152_000) + 1)


def test_a_chunk_without_rows_is_refused():
    hidden, targets, weight = inputs()
    with pytest.raises(ConfigError, match="at least 1 row"):
        score_tokens(hidden, targets, head_of(weight), chunk=0)
