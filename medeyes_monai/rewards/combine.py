"""The reward of an episode: a weighted sum of parts (equation 4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from medeyes_monai.errors import ConfigError
from medeyes_monai.rewards.accuracy import accuracy
from medeyes_monai.rewards.diversity import diversity
from medeyes_monai.rewards.grammar import grammar
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["PAPER_PARTS", "PAPER_WEIGHTS", "CompositeReward", "RewardPart"]

RewardPart = Callable[[Episode, Case], float]
"""One reason for reward: a pure function of the parsed episode and its question."""

PAPER_PARTS: Mapping[str, RewardPart] = MappingProxyType(
    {"accuracy": accuracy, "grammar": grammar, "diversity": diversity}
)
PAPER_WEIGHTS: Mapping[str, float] = MappingProxyType({"accuracy": 0.7, "grammar": 0.2, "diversity": 0.1})
"""Equation 4."""


class CompositeReward:
    """Scores episodes with a weighted sum of parts.

    Args:
        parts: Functions of an episode and its case, by name; None takes those of equation 4.
        weights: Weight of each part, by the same names; None takes those of equation 4. A weight of 0 keeps
            the part in the log.

    Raises:
        ConfigError: If the two mappings do not have the same names, or a weight is not finite.

    Example:
        >>> sorted(CompositeReward().weights.items())
        [('accuracy', 0.7), ('diversity', 0.1), ('grammar', 0.2)]
    """

    def __init__(
        self, parts: Mapping[str, RewardPart] | None = None, weights: Mapping[str, float] | None = None
    ) -> None:
        """Check that parts and weights belong together."""
        self.parts = dict(PAPER_PARTS if parts is None else parts)
        self.weights = dict(PAPER_WEIGHTS if weights is None else weights)
        missing = sorted(self.parts.keys() - self.weights.keys())
        unknown = sorted(self.weights.keys() - self.parts.keys())
        if missing or unknown:
            raise ConfigError(
                f"every reward part needs one weight; without a weight: {missing}, without a part: {unknown}"
            )
        endless = sorted(name for name, weight in self.weights.items() if not math.isfinite(weight))
        if endless:
            raise ConfigError(f"reward weights must be finite, these are not: {endless}")

    def __call__(self, episode: Episode, case: Case) -> Episode:
        """Return the episode with ``reward`` and ``reward_parts`` filled in.

        Raises:
            ConfigError: If the case cannot be scored, or a part gives something that is not finite.
        """
        parts = {name: float(part(episode, case)) for name, part in self.parts.items()}
        endless = sorted(name for name, value in parts.items() if not math.isfinite(value))
        if endless:
            raise ConfigError(f"reward parts must be finite, these are not for {case.key!r}: {endless}")
        reward = math.fsum(self.weights[name] * value for name, value in parts.items())
        return replace(episode, reward=reward, reward_parts=parts)
