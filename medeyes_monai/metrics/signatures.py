"""The ways in which training is known to fail, in words: what each is called, means, and asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["MEASURE", "SIGNATURES", "WARNING", "Occurrence", "Signature", "occurrences"]

MEASURE = "monitor/"
"""Begins the name under which the measure of a monitor is logged."""
WARNING = "warning/"
"""Begins the name under which is logged whether a monitor warns: 1 or 0."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A way to fail.

    Args:
        name: Its name in logs.
        title: Its name in words.
        measure: What the measure is.
        advice: What to try.
    """

    name: str
    title: str
    measure: str
    advice: str


_ALL = (
    Signature(
        "expert_reliance",
        "over-reliance on the experts",
        "rise of the mean log-probability of expert tokens (nats), while the policy's own reward stays",
        "lower objective.expert_weight or n_paths, raise draws, or compare with sampler: null",
    ),
    Signature(
        "expert_copying",
        "own paths collapse onto the experts' boxes",
        "share of own looks with an IoU of 0.5 or more with an expert's look at the same question, while the "
        "policy's own reward stays",
        "lower objective.expert_weight, raise the temperature or objective.entropy_weight, or let the "
        "expert's paths vary more (sampler.p0, sampler.temperature)",
    ),
    Signature(
        "interference",
        "the two streams pull against each other",
        "mean cosine between the gradients of the two streams",
        "lower objective.expert_weight or the learning rate, set positive_experts_only: true, or check "
        "whether the expert's answers are right",
    ),
    Signature(
        "superficial_focusing",
        "looks do not matter for the answers",
        "share of answers that stay the same when looks show grey, where the policy looked",
        "check that the questions cannot be answered from the overview, show a coarser overview "
        "(scene.overview_pixels), or reward looking less and answers more",
    ),
    Signature(
        "vanishing_looks",
        "the policy stops looking",
        "mean looks of an own episode",
        "start from a policy that writes whole episodes more surely, lower the weight of grammar "
        "(reward.weights), or raise objective.expert_weight",
    ),
    Signature(
        "entropy_collapse",
        "the policy no longer explores",
        "mean entropy of the policy's tokens (nats)",
        "set objective.entropy_weight above 0, raise objective.clip_high, or lower the learning rate",
    ),
    Signature(
        "memorised_paths",
        "paths are memorised",
        "growth since the start of the gap between accuracy in distribution and out of distribution",
        "stop earlier, draw more different questions (train_size), or raise the expert's miss_rate so that "
        "its paths vary",
    ),
    Signature(
        "reward_collapse",
        "rewards no longer tell episodes apart",
        "share of questions whose own episodes all have one reward",
        "set resample above 0, raise draws, choose questions that are neither too easy nor too hard, or set "
        "advantage_mode: stream_running",
    ),
    Signature(
        "no_signal",
        "own episodes give nothing to learn from",
        "share of own episodes without a defect",
        "read some episodes (sample_interval), say in the policy's instruction what an episode looks like, "
        "begin with a policy that was fine-tuned on the expert's paths (advantage_mode: imitation, "
        "objective.shaping: likelihood), or raise max_turn_tokens where turns are cut",
    ),
)
SIGNATURES: Mapping[str, Signature] = {signature.name: signature for signature in _ALL}
"""Every signature by its name."""


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A stretch of training during which a monitor warned.

    Args:
        signature: What it warned of.
        first: First update with the warning.
        last: Last update at which it was still seen.
        measure: The measure at the first.
        over: Whether it was seen to end.
    """

    signature: Signature
    first: int
    last: int
    measure: float
    over: bool


def occurrences(records: Sequence[Mapping[str, float]]) -> list[Occurrence]:
    """Find the warnings in the log of a training, in the order in which they began.

    Args:
        records: One mapping for each step with its number as ``step``, as ``metrics.jsonl`` holds them.

    Example:
        >>> steps = [{"step": n, "warning/interference": w} for n, w in ((1, 0.0), (2, 1.0), (3, 1.0))]
        >>> [(seen.signature.name, seen.first, seen.last, seen.over) for seen in occurrences(steps)]
        [('interference', 2, 3, False)]
    """
    found: list[Occurrence] = []
    for name, signature in SIGNATURES.items():
        first: Mapping[str, float] | None = None
        last = 0
        for record in records:
            if WARNING + name not in record:
                continue
            if record[WARNING + name]:
                first, last = first or record, int(record["step"])
            elif first is not None:
                found.append(_occurrence(signature, first, last, over=True))
                first = None
        if first is not None:
            found.append(_occurrence(signature, first, last, over=False))
    return sorted(found, key=lambda seen: seen.first)


def _occurrence(signature: Signature, first: Mapping[str, float], last: int, over: bool) -> Occurrence:
    measure = first.get(MEASURE + signature.name, float("nan"))
    return Occurrence(signature, int(first["step"]), last, measure, over)
