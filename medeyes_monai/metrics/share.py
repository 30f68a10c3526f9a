"""A proportion that carries its count and its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medeyes_monai.errors import ConfigError

__all__ = ["Share", "pool_groups"]

NORMAL_QUANTILE_95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many of some cases have a property.

    Args:
        hits: Cases that have it.
        count: All cases.

    Raises:
        ConfigError: If there are more hits than cases, or fewer than none.

    Example:
        >>> share = Share(hits=8, count=10)
        >>> share.value, [round(v, 3) for v in share.interval]
        (0.8, [0.49, 0.943])
    """

    hits: int
    count: int

    def __post_init__(self) -> None:
        """Refuse what is not a proportion."""
        if not 0 <= self.hits <= self.count:
            raise ConfigError(f"a share needs 0 <= hits <= count, got {self.hits} of {self.count}")

    @classmethod
    def of(cls, flags: Iterable[bool]) -> Share:
        """Count the true ones among some flags."""
        values = [bool(flag) for flag in flags]
        return cls(sum(values), len(values))

    @classmethod
    def pooled(cls, shares: Iterable[Share]) -> Share:
        """Return the share of several groups taken together.

        Example:
            >>> Share.pooled([Share(1, 2), Share(3, 8)])
            Share(hits=4, count=10)
        """
        parts = list(shares)
        return cls(sum(s.hits for s in parts), sum(s.count for s in parts))

    @property
    def value(self) -> float:
        """The proportion, from 0 to 1; NaN of no cases."""
        return self.hits / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval of the proportion; from 0 to 1 of no cases, which say nothing."""
        if not self.count:
            return 0.0, 1.0
        z2 = NORMAL_QUANTILE_95**2
        n, p = self.count, self.value
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
        return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))

    def percent(self) -> str:
        """Return the proportion and its interval in percent, or "-" of no cases.

        Example:
            >>> Share(5, 10).percent()
            '50.0 (23.7-76.3)'
        """
        if not self.count:
            return "-"
        low, high = self.interval
        return f"{100 * self.value:.1f} ({100 * low:.1f}-{100 * high:.1f})"

    def to_dict(self) -> dict[str, float | int | None]:
        """Return plain values that JSON can hold; the value of no cases is None."""
        low, high = self.interval
        value = None if math.isnan(self.value) else self.value
        return {"value": value, "low": low, "high": high, "hits": self.hits, "count": self.count}


def pool_groups(families: Mapping[str, Share]) -> dict[str, Share]:
    """Take families together by the part of their name before a slash; those without one are left out.

    Example:
        >>> pool_groups({"closed/organ": Share(1, 2), "closed/size": Share(1, 1), "open/organ": Share(0, 3)})
        {'closed': Share(hits=2, count=3), 'open': Share(hits=0, count=3)}
    """
    groups: dict[str, list[Share]] = {}
    for name, share in families.items():
        head, slash, _ = name.partition("/")
        if slash:
            groups.setdefault(head, []).append(share)
    return {head: Share.pooled(groups[head]) for head in sorted(groups)}
