"""Several experts as one, which also says how far they are apart."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts import checked
from medeyes_monai.experts.base import Candidate, Expert, Verdict, axes_of
from medeyes_monai.experts.consensus_rules import (
    Combine,
    Vote,
    combined,
    elected,
    fused_box,
    majority_mask,
    match,
    spread,
)
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene
from medeyes_monai.seeding import seed_of

logger = logging.getLogger(__name__)

__all__ = ["SAME_REGION_IOU", "ConsensusExpert"]

SAME_REGION_IOU = 0.5
"""Overlap from which two experts' regions are one; chosen, as for two looks at one place."""

_Reply = TypeVar("_Reply")


class ConsensusExpert:
    """Asks several experts and makes one reply of theirs; the order of the experts does not matter.

    A scan matches their regions by IoU. Of the regions that are one place, the box is the mean weighted by
    confidence, the mask is the majority's, and finding and answer are those with most weight.
    **The confidence** combines those of all experts; one without such a region counts as 0. With ``mean``
    it falls where experts miss a region, with ``noisy_or`` it is high as soon as one is sure. It is as
    calibrated as the experts are, and theirs should mean the same; ``weights`` say whom to trust more.

    **The disagreement** is twice the population standard deviation of their confidences: 0 if they agree,
    1 if half are sure of it and half are sure of nothing. In a drill whose experts answer, the spread of
    the answer is taken instead where it is larger: 1 if half of them give another.

    An expert that fails is an error, which names it. With ``needed`` the others go on; a failure is logged
    and counted in ``failures``. Then put a memo around each expert and none around the consensus, so that
    a reply which lacks somebody is not kept.

    Args:
        experts: Who is asked.
        weights: Weight of each, above 0; None for equal ones.
        iou: Overlap from which regions of two experts are one place.
        combine: ``mean`` or ``noisy_or``.
        needed: How many experts must reply; None for all.

    Raises:
        ConfigError: If there is no expert, a setting is out of its range, or no kind of image suits all.

    Example:
        >>> from types import SimpleNamespace
        >>> from medeyes_monai.experts import AnnotationExpert
        >>> from medeyes_monai.scenes import Finding
        >>> ring = Finding(Box((60, 60), (90, 90)), "ring")
        >>> scene = SimpleNamespace(key="a", shape=(200, 200), findings=(ring,))
        >>> sure = dict(false_alarm_rate=0, confidence_noise=0)
        >>> seeing, blind = AnnotationExpert(miss_rate=0, **sure), AnnotationExpert(miss_rate=1, **sure)
        >>> found, = ConsensusExpert([seeing, blind]).scan(scene, "where?")
        >>> found.confidence, found.disagreement
        (0.325, 0.65)
    """

    def __init__(
        self,
        experts: Sequence[Expert],
        weights: Sequence[float] | None = None,
        *,
        iou: float = SAME_REGION_IOU,
        combine: Combine = "mean",
        needed: int | None = None,
    ) -> None:
        """Check the settings; see the class."""
        weights = [1.0] * len(experts) if weights is None else list(weights)
        if not experts or len(weights) != len(experts):
            raise ConfigError(f"give experts and a weight for each, got {len(experts)} and {len(weights)}")
        if not all(math.isfinite(w) and w > 0 for w in weights):
            raise ConfigError(f"weights are finite and above 0, got {weights}")
        if not 0 < iou <= 1 or combine not in ("mean", "noisy_or"):
            raise ConfigError(
                f"iou lies in (0, 1] and combine is mean or noisy_or, got {iou} and {combine!r}"
            )
        if needed is not None and not 1 <= needed <= len(experts):
            raise ConfigError(f"needed lies between 1 and the {len(experts)} experts, got {needed}")
        self.axes = tuple(sorted(set.intersection(*(set(axes_of(expert)) for expert in experts))))
        if not self.axes:
            raise ConfigError("some experts take pictures only and others volumes only; ask them apart")
        # In an order of their own, so that sums and ties come out alike however the experts were listed.
        self._asked = sorted(zip(weights, experts, strict=True), key=lambda pair: (pair[1].name, pair[0]))
        self.reads_key = any(getattr(expert, "reads_key", False) for expert in experts)
        self.iou, self.combine = iou, combine
        self.needed = len(experts) if needed is None else needed
        self.failures: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """``consensus-`` and a digest of the experts and settings, so that memos of others stay apart."""
        who = [part for weight, expert in self._asked for part in (expert.name, repr(weight))]
        return f"consensus-{seed_of(*who, repr(self.iou), self.combine, self.needed):016x}"

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Ask all experts to scan and return their regions, matched and combined, best first.

        Raises:
            ExpertError: If fewer experts reply than are needed; the message names who failed.
        """
        weights, replies = self._ask("scan", lambda expert: checked.scan(expert, scene, query))
        votes = [Vote(n, weights[n], c) for n, reply in enumerate(replies) for c in reply]
        candidates = [self._candidate(group, weights) for group in match(votes, self.iou)]
        return tuple(sorted(candidates, key=lambda c: (-c.confidence, c.box.corners, c.finding)))

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Ask all experts to look at one region and return their combined verdict.

        Raises:
            ExpertError: If fewer experts reply than are needed; the message names who failed.
        """
        weights, verdicts = self._ask("drill", lambda expert: checked.drill(expert, scene, box, query))
        confidences = [verdict.confidence for verdict in verdicts]
        told = zip(verdicts, weights, confidences, strict=True)
        answers = [(verdict.answer, weight, c) for verdict, weight, c in told if verdict.answer]
        answer = elected(*zip(*answers, strict=True)) if answers else None
        apart = spread([float(a == answer) for a, _, _ in answers], [weight for _, weight, _ in answers])
        return Verdict(
            confidence=combined(confidences, weights, self.combine),
            finding=elected([verdict.finding for verdict in verdicts], weights, confidences),
            answer=answer,
            disagreement=max(spread(confidences, weights), apart),
        )

    def _candidate(self, group: Sequence[Vote], weights: Sequence[float]) -> Candidate:
        """Combine votes for one place; experts without one count with confidence 0."""
        said = {vote.expert: vote.candidate.confidence for vote in group}
        confidences = [said.get(n, 0.0) for n in range(len(weights))]
        box = fused_box(group)
        told = [(v.candidate.finding, v.weight, v.candidate.confidence) for v in group]
        return Candidate(
            box=box,
            confidence=combined(confidences, weights, self.combine),
            finding=elected(*zip(*told, strict=True)),
            mask=majority_mask(group, box),
            disagreement=spread(confidences, weights),
        )

    def _ask(self, what: str, call: Callable[[Expert], _Reply]) -> tuple[list[float], list[_Reply]]:
        """Return the weights, which sum to 1, and replies of the experts that replied."""
        weights, replies, problems = [], [], []
        for weight, expert in self._asked:
            try:
                replies.append(call(expert))
                weights.append(weight)
            except ExpertError as problem:
                problems.append(_told(expert.name, problem))
                self.failures[expert.name] += 1
        counted = (
            f"{len(replies)} of {len(self._asked)} experts replied to a {what}, {self.needed} are needed"
        )
        if len(replies) < self.needed:
            raise ExpertError(f"{self.name}: {counted}; failed: {'; '.join(problems)}")
        if problems:
            logger.warning(f"{self.name}: {counted}, going on; failed: {'; '.join(problems)}")
        total = math.fsum(weights)
        return [weight / total for weight in weights], replies


def _told(name: str, problem: ExpertError) -> str:
    return str(problem) if name in str(problem) else f"{name}: {problem}"
