"""How the episodes of a step are cut into passes that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence

from medeyes_monai.errors import ConfigError

__all__ = ["MICRO_TOKENS", "micro_batches"]

MICRO_TOKENS = 16_384
"""Default of the largest number of tokens in one pass, padding included."""


def micro_batches(lengths: Sequence[int], micro_tokens: int) -> list[list[int]]:
    """Cut episodes into batches of similar length that hold no more than a number of tokens.

    Longest first, so that a budget that does not fit into memory shows in the first pass. A batch takes the
    next episode as long as its rows times its longest episode stay within the budget; an episode that is
    longer than the budget is a batch of its own.

    Args:
        lengths: Length of each episode. Unit: tokens.
        micro_tokens: Largest number of tokens of a batch, padding included.

    Returns:
        Indices of episodes, each exactly once, in batches.

    Raises:
        ConfigError: If ``micro_tokens`` is below 1.

    Example:
        >>> micro_batches([3, 9, 2, 4], micro_tokens=8)
        [[1], [3, 0], [2]]
    """
    if micro_tokens < 1:
        raise ConfigError(f"micro_tokens must be at least 1 token for a pass, got {micro_tokens}")
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= micro_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
