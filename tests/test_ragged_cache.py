import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medeyes_monai.policy.cache import RaggedCache

HEADS, WIDTH = 2, 3
CPU = torch.device("cpu")


def chunk(sizes: list[int], generator: torch.Generator) -> torch.Tensor:
    """Keys of a right-padded chunk; what stands in the padding must not matter."""
    return torch.randn(len(sizes), HEADS, max(1, *sizes), WIDTH, generator=generator)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_token_sees_what_its_own_row_holds_before_it_and_nothing_else(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(0)
    cache = RaggedCache(CPU)
    held = [torch.zeros(HEADS, 0, WIDTH) for _ in range(rows)]
    members = list(range(rows))
    for _ in range(data.draw(st.integers(1, 5))):
        sizes = [data.draw(st.integers(0, 40)) for _ in members]
        keys = chunk(sizes, generator)
        seen = cache.extend(members, sizes)
        stored, values = cache.update(keys, -keys, 0)
        torch.testing.assert_close(values, -stored)
        for n, (row, size) in enumerate(zip(members, sizes, strict=True)):
            for token in range(size):
                expected = torch.cat([held[row], keys[n, :, : token + 1]], dim=1)
                torch.testing.assert_close(stored[n][:, seen[n, 0, token]], expected)
            held[row] = torch.cat([held[row], keys[n, :, :size]], dim=1)
        members = data.draw(st.permutations(range(rows)).map(lambda p: p[: max(1, rows - 1)]))
    assert cache.lengths == [part.shape[1] for part in held]


def test_rows_that_are_kept_go_on_as_copies_of_what_they_were() -> None:
    generator = torch.Generator().manual_seed(0)
    cache = RaggedCache(CPU)
    cache.extend([0, 1, 2], [3, 1, 2])
    first = chunk([3, 1, 2], generator)
    cache.update(first, first, 0)
    cache.keep([2, 0, 2])
    assert cache.lengths == [2, 3, 2]
    cache.extend([0, 1, 2], [1, 1, 1])
    second = chunk([1, 1, 1], generator)
    stored, _ = cache.update(second, second, 0)
    for n, old in enumerate([2, 0, 2]):
        size = cache.lengths[n]
        expected = torch.cat([first[old, :, : size - 1], second[n]], dim=1)
        torch.testing.assert_close(stored[n, :, :size], expected)


def test_memory_of_rows_that_left_is_freed() -> None:
    cache = RaggedCache(CPU)
    cache.extend(range(8), [500] * 8)
    keys = torch.zeros(8, HEADS, 500, WIDTH)
    cache.update(keys, keys, 0)
    before = cache.keys[0].untyped_storage().nbytes()
    cache.keep([3])
    after = cache.keys[0].untyped_storage().nbytes()
    assert after == before / 8
