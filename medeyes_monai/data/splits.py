"""Splits that keep together what belongs together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medeyes_monai.data.items import DatalistItem
from medeyes_monai.errors import ConfigError
from medeyes_monai.seeding import seed_of

__all__ = ["split_by_group"]


def split_by_group(
    items: Sequence[DatalistItem], fractions: Sequence[float], seed: int = 0
) -> tuple[tuple[DatalistItem, ...], ...]:
    """Split items so that no group (by default, no image) is in two parts.

    Which part a group falls into depends on its name and the seed, not on the order of the items.

    Args:
        items: What to split.
        fractions: Share of the items for each part; they sum to 1. A part misses its share by at most about
            the size of the largest group.
        seed: Another seed gives another split.

    Returns:
        One tuple for each fraction, items in their old order.

    Raises:
        ConfigError: If the fractions are not positive or do not sum to 1, or a part gets no group.
    """
    if not fractions or min(fractions) <= 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise ConfigError(f"fractions of a split are positive and sum to 1, got {list(fractions)}")
    sizes: dict[str, int] = {}
    for item in items:
        sizes[item.group] = sizes.get(item.group, 0) + 1
    edges = [sum(fractions[: n + 1]) * len(items) for n in range(len(fractions) - 1)]
    part_of, before = {}, 0
    for group in sorted(sizes, key=lambda name: (seed_of("split", seed, name), name)):
        part_of[group] = sum(before + sizes[group] / 2 >= edge for edge in edges)
        before += sizes[group]
    parts = tuple(tuple(item for item in items if part_of[item.group] == n) for n in range(len(fractions)))
    if not all(parts):
        raise ConfigError(f"{len(sizes)} groups are too few to split into parts of {list(fractions)}")
    return parts
