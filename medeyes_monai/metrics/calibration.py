"""Does confidence tell right from wrong: calibration error, risk and coverage, and when to abstain."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics import calibration_binning

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.confidence import Decode, answer_confidence
from medeyes_monai.metrics.figures import EpisodeFigures
from medeyes_monai.metrics.intervals import Values
from medeyes_monai.metrics.scoring import OWN, preset
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = [
    "BINS",
    "Bin",
    "Calibration",
    "CalibrationMetric",
    "Selection",
    "abstain",
    "calibration",
    "choose_threshold",
    "risk_coverage",
]

BINS = 10
"""Bins of equal width."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about one confidence: a point of the reliability diagram.

    Args:
        low: Confidences above this.
        high: And up to this.
        count: Answers in it.
        confidence: Their mean confidence, NaN of none.
        accuracy: Share of them that is right, NaN of none.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """How confidence relates to being right.

    Args:
        count: Number of answers.
        ece: Expected calibration error: mean distance of a bin's accuracy from its confidence, weighted by
            count.
        brier: Mean squared distance of confidence from 1 where right and 0 where wrong.
        aurc: Area under the risk-coverage curve: mean risk over all coverages 1/n to 1.
        bins: The reliability diagram.
        coverage: Shares of answers kept, the surest first. Shape ``[n]``.
        risk: Share of wrong ones among those kept. Shape ``[n]``.
        confidence: Confidence of each answer. Shape ``[n]``.
        right: Whether it is right. Shape ``[n]``, bool.
    """

    count: int
    ece: float
    brier: float
    aurc: float
    bins: tuple[Bin, ...]
    coverage: Values
    risk: Values
    confidence: Values
    right: npt.NDArray[np.bool_]

    def scalars(self) -> dict[str, float]:
        """Return one number for each figure, for loggers that take names and floats."""
        return {"ece": self.ece, "brier": self.brier, "aurc": self.aurc}

    def to_dict(self) -> dict[str, Any]:
        """Return everything but single answers as plain values that JSON can hold."""
        bins = [
            {name: None if math.isnan(v) else v for name, v in asdict(part).items()} for part in self.bins
        ]
        figures = {"count": self.count, "ece": self.ece, "brier": self.brier, "aurc": self.aurc}
        return figures | {"accuracy": float(self.right.mean()), "bins": bins}


@dataclass(frozen=True, slots=True)
class Selection:
    """What is left when unsure answers are withheld.

    Args:
        threshold: Least confidence of an answer that is given; infinite if none is.
        coverage: Share of answers that are given.
        risk: Share of wrong ones among them, NaN if there are none.
        count: Number of answers, given or not.
    """

    threshold: float
    coverage: float
    risk: float
    count: int


class CalibrationMetric(EpisodeFigures):
    """Relates the probability of answers to their being right, batch by batch and across processes.

    Args:
        decode: The policy's ``decode``.
        preset: Protocol that says what is right; an answer is if its score is 1.
        per_token: See :func:`~medeyes_monai.metrics.confidence.answer_confidence`.

    Raises:
        ConfigError: If there is no such protocol.
    """

    columns = ("confidence", "right")

    def __init__(self, decode: Decode, preset: str = OWN, per_token: bool = False) -> None:
        """Look up the protocol."""
        super().__init__()
        self.decode, self.per_token, self.judge = decode, per_token, _judge(preset)

    def row(self, episode: Episode, case: Case) -> tuple[float, float]:
        """Return how sure the policy was of an answer, and whether that is right."""
        answer = episode.trajectory.answer
        right = answer is not None and self.judge(answer, case).score == 1
        return answer_confidence(episode, self.decode, per_token=self.per_token), float(right)

    def aggregate(self) -> Calibration:
        """Summarise all episodes since the last reset, of all processes.

        Raises:
            ConfigError: If there are none.
        """
        figures = self.collected().figures
        return calibration(figures[:, 0], figures[:, 1] == 1)


def calibration(confidence: npt.ArrayLike, right: npt.ArrayLike, bins: int = BINS) -> Calibration:
    """Relate confidences to being right.

    Args:
        confidence: Confidence of each answer, from 0 to 1. Shape ``[n]``.
        right: Whether it is right. Shape ``[n]``.
        bins: Number of bins of equal width; MONAI sorts into them, in single precision.

    Raises:
        ConfigError: If there are no answers, shapes differ, or a confidence is outside of 0 to 1.

    Example:
        >>> found = calibration([0.95, 0.95, 0.55, 0.55], [True, True, True, False])
        >>> round(found.ece, 4), found.aurc  # 0.05 twice; risks 0, 0, 1/6 and 1/4
        (0.05, 0.10416666666666666)
    """
    sure, truth = _checked(confidence, right)
    parts = _bins(sure, truth, bins)
    gaps = [part.count * abs(part.accuracy - part.confidence) for part in parts if part.count]
    coverage, risk = risk_coverage(sure, truth)
    return Calibration(
        count=len(sure),
        ece=math.fsum(gaps) / len(sure),
        brier=float(((sure - truth) ** 2).mean()),
        aurc=float(risk.mean()),
        bins=parts,
        coverage=coverage,
        risk=risk,
        confidence=sure,
        right=truth,
    )


def risk_coverage(confidence: npt.ArrayLike, right: npt.ArrayLike) -> tuple[Values, Values]:
    """Return the risk when only the surest answers are given, from the first one to all.

    Answers of equal confidence cannot be told apart: among them, wrong ones are spread evenly.

    Returns:
        Coverage and risk, each of shape ``[n]``.

    Raises:
        ConfigError: As :func:`calibration`.

    Example:
        >>> coverage, risk = risk_coverage([0.9, 0.6, 0.6], [True, True, False])
        >>> coverage.round(3).tolist(), risk.round(3).tolist()
        ([0.333, 0.667, 1.0], [0.0, 0.25, 0.333])
    """
    sure, truth = _checked(confidence, right)
    _, sizes, wrong = _levels(sure, truth)
    given = np.arange(1, len(sure) + 1)
    return given / len(sure), np.cumsum(np.repeat(wrong / sizes, sizes)) / given


def choose_threshold(confidence: npt.ArrayLike, right: npt.ArrayLike, risk: float) -> float:
    """Return the lowest confidence from which on the answers of a set have at most some risk.

    The risk holds on the set that it is chosen on, not surely on another: apply it there with
    :func:`abstain`.

    Args:
        confidence: Confidence of each answer. Shape ``[n]``.
        right: Whether it is right. Shape ``[n]``.
        risk: Largest share of wrong answers among those that are given.

    Returns:
        The threshold; infinite if no threshold keeps the risk.

    Raises:
        ConfigError: As :func:`calibration`, or if the risk is outside of 0 to 1.

    Example:
        >>> choose_threshold([0.9, 0.8, 0.7, 0.6], [True, True, False, True], risk=0.3)
        0.6
        >>> choose_threshold([0.9, 0.8, 0.7, 0.6], [True, True, False, True], risk=0.0)
        0.8
    """
    if not 0 <= risk <= 1:
        raise ConfigError(f"a risk is a share from 0 to 1, got {risk}")
    sure, truth = _checked(confidence, right)
    levels, sizes, wrong = _levels(sure, truth)
    allowed = levels[np.cumsum(wrong) <= risk * np.cumsum(sizes)]
    return float(allowed[-1]) if len(allowed) else math.inf


def abstain(confidence: npt.ArrayLike, right: npt.ArrayLike, threshold: float) -> Selection:
    """Return coverage and risk when answers below a threshold are withheld.

    Raises:
        ConfigError: As :func:`calibration`.

    Example:
        >>> abstain([0.9, 0.8, 0.7, 0.6], [True, False, False, True], 0.75)
        Selection(threshold=0.75, coverage=0.5, risk=0.5, count=4)
    """
    sure, truth = _checked(confidence, right)
    given = sure >= threshold
    risk = float((~truth[given]).mean()) if given.any() else math.nan
    return Selection(threshold, float(given.mean()), risk, len(sure))


def _levels(sure: Values, truth: npt.NDArray[np.bool_]) -> tuple[Values, npt.NDArray[np.intp], Values]:
    """Return the different confidences, highest first, with the answers and the wrong answers of each."""
    negative, places = np.unique(-sure, return_inverse=True)
    wrong = np.bincount(places, weights=(~truth).astype(np.float64))
    return -negative, np.bincount(places), wrong.astype(np.float64)


def _bins(sure: Values, truth: npt.NDArray[np.bool_], bins: int) -> tuple[Bin, ...]:
    rows = [torch.as_tensor(values, dtype=torch.float32)[None, None] for values in (sure, truth)]
    confidence, accuracy, counts = (part[0, 0].tolist() for part in calibration_binning(*rows, num_bins=bins))
    return tuple(
        Bin(n / bins, (n + 1) / bins, int(count), mean, share)
        for n, (count, mean, share) in enumerate(zip(counts, confidence, accuracy, strict=True))
    )


def _checked(confidence: npt.ArrayLike, right: npt.ArrayLike) -> tuple[Values, npt.NDArray[np.bool_]]:
    sure, truth = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    if sure.ndim != 1 or sure.shape != truth.shape or not len(sure):
        raise ConfigError(
            f"calibration needs one confidence for each answer, got shapes {sure.shape} and {truth.shape}"
        )
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ConfigError("a confidence lies from 0 to 1; give probabilities, not their logarithms")
    return sure, truth


def _judge(name: str) -> Any:
    return preset(name).judge
