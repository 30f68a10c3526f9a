"""What the tables report of some episodes: right answers, readable text, looks, and where the looks went."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.figures import EpisodeFigures
from medeyes_monai.metrics.share import Share, pool_groups
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["EpisodeMetric", "Evaluation", "evaluate"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A summary of scored episodes.

    Args:
        accuracy: Episodes with a right answer.
        families: The same for each kind of question (:attr:`Case.family`), in alphabetical order.
        format: Episodes without a defect in their text.
        looks: Mean number of looks of an episode.
        gaze_hit: Of the episodes whose case has a subtle finding (one that only a close look shows): those
            in which some look holds the centre of one.
        gaze_iou: Mean over the same episodes of the best overlap of a look with such a finding; NaN where
            there are none.
        reward: Mean reward.
    """

    accuracy: Share
    families: Mapping[str, Share]
    format: Share
    looks: float
    gaze_hit: Share
    gaze_iou: float
    reward: float

    @property
    def count(self) -> int:
        """Number of episodes."""
        return self.accuracy.count

    @property
    def groups(self) -> dict[str, Share]:
        """Accuracy of families taken together, see :func:`pool_groups`."""
        return pool_groups(self.families)

    def scalars(self) -> dict[str, float]:
        """Return one number for each figure, for loggers that take names and floats."""
        figures = {
            "accuracy": self.accuracy.value,
            "format": self.format.value,
            "looks": self.looks,
            "gaze_hit": self.gaze_hit.value,
            "gaze_iou": self.gaze_iou,
            "reward": self.reward,
        }
        return figures | {f"accuracy/{name}": share.value for name, share in self.families.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values that JSON can hold; what is not known is None."""
        return {
            "count": self.count,
            "accuracy": self.accuracy.to_dict(),
            "families": {name: share.to_dict() for name, share in self.families.items()},
            "groups": {name: share.to_dict() for name, share in self.groups.items()},
            "format": self.format.to_dict(),
            "looks": self.looks,
            "gaze_hit": self.gaze_hit.to_dict(),
            "gaze_iou": _known(self.gaze_iou),
            "reward": self.reward,
        }


class EpisodeMetric(EpisodeFigures):
    """Collects scored episodes batch by batch and summarises them, also across processes.

    An answer is right if the reward component ``accuracy`` of its episode is 1.

    Args:
        gaze_families: Families whose looks count for the gaze figures; None for all. Leave out those that
            one glance answers, where not looking is right.
    """

    columns = ("right", "formatted", "looks", "aimed", "hit", "overlap", "reward")

    def __init__(self, gaze_families: Collection[str] | None = None) -> None:
        """Start without episodes."""
        super().__init__()
        self.gaze_families = None if gaze_families is None else frozenset(gaze_families)

    def aggregate(self) -> Evaluation:
        """Summarise all episodes since the last reset, of all processes.

        Raises:
            ConfigError: If there are none.
        """
        rows = self.collected()
        right, formatted, looks, aimed, hit, overlap, reward = rows.figures.T
        families = {
            name: Share.of(r == 1 for r, family in zip(right, rows.families, strict=True) if family == name)
            for name in sorted(set(rows.families))
        }
        return Evaluation(
            accuracy=Share.of(right == 1),
            families=MappingProxyType(families),
            format=Share.of(formatted == 1),
            looks=float(looks.mean()),
            gaze_hit=Share.of(hit[aimed == 1] == 1),
            gaze_iou=float(overlap[aimed == 1].mean()) if aimed.any() else math.nan,
            reward=float(reward.mean()),
        )

    def row(self, episode: Episode, case: Case) -> tuple[float, ...]:
        """Return the figures of a scored episode.

        Raises:
            ConfigError: If it has not been scored.
        """
        if "accuracy" not in episode.reward_parts or math.isnan(episode.reward):
            raise ConfigError(
                f"episode {episode.draw} of case {case.key!r} has no reward or no accuracy; score it first"
            )
        looked = episode.trajectory.boxes
        counted = self.gaze_families is None or case.family in self.gaze_families
        targets = [finding.box for finding in case.scene.findings if finding.subtle] if counted else []
        return (
            float(episode.reward_parts["accuracy"] >= 1),
            float(episode.defect is None),
            float(len(looked)),
            float(bool(targets)),
            float(any(box.contains(target.centre) for box in looked for target in targets)),
            max((box.iou(target) for box in looked for target in targets), default=0.0),
            float(episode.reward),
        )


def evaluate(
    episodes: Sequence[Episode], cases: Sequence[Case], gaze_families: Collection[str] | None = None
) -> Evaluation:
    """Summarise the scored episodes of some cases, see :class:`EpisodeMetric`.

    Raises:
        ConfigError: If there is no episode, one belongs to none of the cases, or one has not been scored.
    """
    metric = EpisodeMetric(gaze_families)
    metric(episodes, cases)
    return metric.aggregate()


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
