"""Monitors that go by the numbers of the last updates."""

from __future__ import annotations

from collections.abc import Sequence

from ignite.engine import Engine

from medeyes_monai.protocol import DEFECTS
from medeyes_monai.training.experience import DEFECT
from medeyes_monai.training.monitors.base import Values, Verdict, WindowMonitor

__all__ = [
    "EntropyCollapse",
    "ExpertCopying",
    "ExpertReliance",
    "Interference",
    "NoSignal",
    "RewardCollapse",
    "VanishingLooks",
]

REWARD = "policy/reward"
SOLVED = 0.9
"""Mean reward from which a lack of progress is no failure (our choice)."""
GAIN = 0.01
"""A reward that rises by less than this over a window does not rise (our choice)."""


class ExpertReliance(WindowMonitor):
    """Warns when the policy learns the expert's words without getting better by itself.

    Of the last ``window`` updates, the later half is compared with the earlier one.

    Args:
        window: Number of updates.
        rise: Least rise of the expert tokens' mean log-probability. Unit: nats. The default is three standard
            errors of the difference for the embedded run, where one update's value varies by 0.11.
        gain: The own reward does not rise if it rises by less than this.
        solved: Own reward from which nothing is wrong.
    """

    def __init__(
        self, window: int = 20, rise: float = 0.15, gain: float = GAIN, solved: float = SOLVED
    ) -> None:
        """Set the limits."""
        super().__init__("expert_reliance", ("expert/logprob_mean", REWARD), window)
        self.rise, self.gain, self.solved = rise, gain, solved

    def judge_window(self, *values: Values) -> Verdict:
        """Compare the halves of the window."""
        rise, gain = (_rise(series) for series in values)
        stuck = gain < self.gain and float(values[1].mean()) < self.solved
        seen = f"expert log-probability {rise:+.2f} nats, own reward {gain:+.3f} over {self.window} updates"
        return Verdict(rise, rise >= self.rise and stuck, seen)


class ExpertCopying(WindowMonitor):
    """Warns when own looks are the expert's looks and the policy does not get better by it.

    An expert that is right and a policy that found the same places are no failure, so a reward that rises or
    is high keeps it silent.

    Args:
        window: Number of updates.
        share: Least mean share of own looks that repeat an expert's. The embedded policy starts at 0.58.
        gain: The own reward does not rise if it rises by less than this.
        solved: Own reward from which nothing is wrong.
    """

    def __init__(
        self, window: int = 20, share: float = 0.9, gain: float = GAIN, solved: float = SOLVED
    ) -> None:
        """Set the limits."""
        super().__init__("expert_copying", ("policy/expert_overlap", REWARD), window)
        self.share, self.gain, self.solved = share, gain, solved

    def judge_window(self, *values: Values) -> Verdict:
        """Take the mean share."""
        share, gain = float(values[0].mean()), _rise(values[1])
        stuck = gain < self.gain and float(values[1].mean()) < self.solved
        seen = (
            f"{share:.0%} of own looks repeat an expert's, own reward {gain:+.3f} over {self.window} updates"
        )
        return Verdict(share, share >= self.share and stuck, seen)


class Interference(WindowMonitor):
    """Warns when the gradients of the two streams point against each other.

    Args:
        window: Number of updates.
        limit: Mean cosine below which they do. In the embedded run one update's cosine varies by 0.14, a mean
            of 20 by 0.03, so a mean below the default is negative by three standard errors.
    """

    def __init__(self, window: int = 20, limit: float = -0.1) -> None:
        """Set the limit."""
        super().__init__("interference", ("gradient_cosine",), window)
        self.limit = limit

    def judge_window(self, *values: Values) -> Verdict:
        """Take the mean cosine."""
        cosine = float(values[0].mean())
        return Verdict(
            cosine, cosine < self.limit, f"mean gradient cosine {cosine:+.2f} over {self.window} updates"
        )


class _Fall(WindowMonitor):
    """Remembers the mean of a run's first window, below a share of which a number has fallen."""

    def __init__(self, name: str, keys: Sequence[str], window: int, share: float, floor: float) -> None:
        """Set the limits."""
        super().__init__(name, keys, window)
        self.share, self.floor = share, floor
        self.first: float | None = None

    def has_fallen(self, mean: float) -> bool:
        """Tell whether the mean of a window is below the share or the floor."""
        self.first = mean if self.first is None else self.first
        return mean < max(self.floor, self.share * self.first)

    def begin(self, engine: Engine) -> None:
        """Forget the first window too."""
        super().begin(engine)
        self.first = None


class EntropyCollapse(_Fall):
    """Warns when the policy has become nearly certain of every token it draws.

    Args:
        window: Number of updates.
        share: Least mean entropy, as a share of that of the first window since the run began or was resumed.
        floor: Least mean entropy whatever the first window was. Unit: nats.
    """

    def __init__(self, window: int = 10, share: float = 0.25, floor: float = 0.01) -> None:
        """Set the limits."""
        super().__init__("entropy_collapse", ("policy/entropy_mean",), window, share, floor)

    def judge_window(self, *values: Values) -> Verdict:
        """Compare the mean with that of the first window."""
        entropy = float(values[0].mean())
        fallen = self.has_fallen(entropy)
        seen = (
            f"mean entropy {entropy:.3f} nats a token over {self.window} updates, at first {self.first:.3f}"
        )
        return Verdict(entropy, fallen, seen)


class RewardCollapse(WindowMonitor):
    """Warns when most questions have own episodes of one and the same reward, which teach nothing.

    Args:
        window: Number of updates.
        share: Least mean share of such questions.
        solved: Own reward from which nothing is wrong.
    """

    def __init__(self, window: int = 10, share: float = 0.8, solved: float = SOLVED) -> None:
        """Set the limits."""
        super().__init__("reward_collapse", ("policy/zero_variance_share", REWARD), window)
        self.share, self.solved = share, solved

    def judge_window(self, *values: Values) -> Verdict:
        """Take the mean share."""
        share, reward = (float(series.mean()) for series in values)
        seen = f"{share:.0%} of questions over {self.window} updates, at a mean own reward of {reward:.2f}"
        return Verdict(share, share >= self.share and reward < self.solved, seen)


class NoSignal(WindowMonitor):
    """Warns when own episodes teach nothing at all: the usual first minutes of a model that was not prepared.

    It does so when at every update of the window all questions had own episodes of one reward, when every
    gradient was 0, or when hardly any episode was well formed; the most frequent defect is named.

    Args:
        window: Number of updates.
        least: Mean share of well-formed episodes below which hardly any is.
        solved: Own reward from which nothing is wrong.
    """

    def __init__(self, window: int = 3, least: float = 0.05, solved: float = SOLVED) -> None:
        """Set the limits."""
        numbers = ("policy/zero_variance_share", "gradient_norm", "policy/format_rate", REWARD)
        super().__init__("no_signal", (*numbers, *(DEFECT + kind for kind in DEFECTS)), window)
        self.least, self.solved = least, solved

    def judge_window(self, *values: Values) -> Verdict:
        """Look for a window in which nothing can have been learned."""
        uniform, gradient, formed, reward = values[:4]
        rate = float(formed.mean())
        seen = []
        if (uniform == 1).all():
            seen.append("all own episodes of each question had one reward")
        if (gradient == 0).all():
            seen.append("the gradient was 0")
        if rate < self.least or seen:
            seen.append(f"{rate:.0%} of own episodes were well formed{self._worst(values[4:])}")
        text = f"over {self.window} updates {', '.join(seen)}"
        return Verdict(rate, bool(seen) and float(reward.mean()) < self.solved, text)

    def _worst(self, shares: Sequence[Values]) -> str:
        share, kind = max((float(series.mean()), kind) for series, kind in zip(shares, DEFECTS, strict=True))
        return f", most frequent defect {kind} ({share:.0%})" if share else ""


class VanishingLooks(_Fall):
    """Warns when own episodes hardly look any more and are not right either.

    Leave it out where questions need no looks and are hard all the same.

    Args:
        window: Number of updates.
        share: Least mean number of looks of an episode, as a share of that of the first window since the run
            began or was resumed.
        floor: Least mean number of looks whatever the first window was. Of the runs in ``docs/results.md``,
            all but six keep 0.56 or more in every window, and the six that fell into answers without a
            look have 0.23 or less from the first window on.
        solved: Own reward from which nothing is wrong: the questions need no look.
    """

    def __init__(
        self, window: int = 10, share: float = 0.5, floor: float = 0.25, solved: float = SOLVED
    ) -> None:
        """Set the limits."""
        super().__init__("vanishing_looks", ("policy/looks", REWARD), window, share, floor)
        self.solved = solved

    def judge_window(self, *values: Values) -> Verdict:
        """Compare the mean with that of the first window."""
        looks, reward = (float(series.mean()) for series in values)
        fallen = self.has_fallen(looks)
        seen = (
            f"{looks:.2f} looks an episode over {self.window} updates, at first {self.first:.2f}, at a mean "
            f"own reward of {reward:.2f}"
        )
        return Verdict(looks, fallen and reward < self.solved, seen)


def _rise(values: Values) -> float:
    """Return the mean of the later half minus that of the earlier one; a middle value counts for neither."""
    half = len(values) // 2
    return float(values[-half:].mean() - values[:half].mean())
