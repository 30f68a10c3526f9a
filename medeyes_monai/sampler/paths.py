"""Draws expert paths for a question: the nucleus of the confidences, and what becomes of each path."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

import numpy as np

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.navigator import Choose, Decision, Navigator
from medeyes_monai.scenes import Case
from medeyes_monai.seeding import numpy_generator
from medeyes_monai.trajectory import Trajectory

__all__ = ["DrawnPath", "Nucleus", "PathSampler", "PathSource", "nucleus"]

NUCLEUS_P = 0.9  # method, section 3: p0
TEMPERATURE = 1.0  # method, section 3
N_PATHS = 6  # method, section 3: N_expert

_ROUNDING = 1e-9  # a mass short of p0 by rounding alone has reached it

Fate = Literal["kept", "wrong", "unanswered", "copy"]
"""What became of a path: the last three are dropped."""


class Nucleus(NamedTuple):
    """The regions among which a path may go on.

    Args:
        indices: Which ones, the most probable first.
        probabilities: Their probabilities, which sum to 1.
    """

    indices: tuple[int, ...]
    probabilities: tuple[float, ...]


def nucleus(confidences: Sequence[float], p0: float = NUCLEUS_P, temperature: float = TEMPERATURE) -> Nucleus:
    """Return the smallest set of regions whose mass reaches ``p0``, renormalised.

    A confidence is read as an unnormalised probability: ``p_i`` is proportional to ``c_i ** (1 / T)``. Of
    equal confidences the earlier one counts as larger. If all are 0, all are equally probable.

    Args:
        confidences: Confidence of each region, finite and not negative; at least one.
        p0: Mass to be reached, in (0, 1].
        temperature: Above 1 flattens, below 1 sharpens.

    Raises:
        ConfigError: If there is no confidence, one is no finite number >= 0, or p0 or temperature is out of
            its range.

    Example:
        >>> nucleus((0.1, 0.6, 0.3)).indices
        (1, 2)
        >>> [round(p, 3) for p in nucleus((0.1, 0.6, 0.3)).probabilities]
        [0.667, 0.333]
    """
    _check_nucleus(p0, temperature)
    if not confidences or not all(math.isfinite(c) and c >= 0 for c in confidences):
        raise ConfigError(f"a nucleus needs confidences that are finite and >= 0, got {list(confidences)}")
    values = np.asarray(confidences, dtype=np.float64)
    peak = values.max()
    weights = (values / peak) ** (1 / temperature) if peak > 0 else np.ones_like(values)
    probabilities = weights / weights.sum()
    order = np.argsort(-probabilities, kind="stable")
    mass = np.cumsum(probabilities[order])
    kept = order[: int(np.searchsorted(mass, p0 - _ROUNDING)) + 1]
    inside = probabilities[kept] / probabilities[kept].sum()
    return Nucleus(tuple(kept.tolist()), tuple(inside.tolist()))


@dataclass(frozen=True, slots=True)
class DrawnPath:
    """A path that was drawn, whether it is kept or not.

    Args:
        trajectory: The path. Boxes in voxels of the scene.
        decisions: What the navigator decided on it; empty where no navigator made it.
        fate: ``kept``; or why it is dropped: a ``wrong`` answer, ``unanswered``, or a ``copy`` of another.
    """

    trajectory: Trajectory
    decisions: tuple[Decision, ...] = ()
    fate: Fate = "kept"


class PathSource(Protocol):
    """Where the second stream's paths come from: a :class:`PathSampler`, or the policy's own past."""

    @property
    def name(self) -> str:
        """Who makes the paths, for messages."""

    def draw(self, case: Case, step: int = 0) -> Sequence[DrawnPath]:
        """Return the paths of a question, dropped ones included."""


class PathSampler:
    """Draws expert paths for a question by choosing regions from the nucleus of their confidences.

    Each draw has its own address (seed, step, question, draw), so paths can be drawn in any order, and a
    resumed run draws the same. Paths may be equal: where the expert is sure there is one way to look, and
    dropping copies would change the distribution that the sampler stands for.

    Args:
        navigator: Who searches. Its expert should be a ``MemoExpert``.
        is_right: Tells whether an answer is right for a case, by the data set's rule; needed to prune.
        n_paths: Number of paths that are drawn for a question, before any is dropped.
        p0: Mass of the nucleus.
        temperature: Temperature of the confidences.
        seed: Seed of the run.
        prune: Drop paths whose answer is wrong.
        on_no_answer: What becomes of a path that ended without an answer: ``drop`` it, or give it the
            ``reference`` answer, so that paths of an expert that cannot answer can be used at all. Where
            no path has an answer of its own, pruning then does nothing.
        greedy: Take the most confident region instead of drawing one: the ablation without CVS. All paths
            of a question are then equal.
        distinct: Drop every path that is a copy of an earlier one. Not the default, for the reason above:
            a question at which the expert is sure would then weigh less than one at which it wavers.

    Raises:
        ConfigError: If an argument is out of its range, or ``prune`` is set without ``is_right``.

    Example:
        >>> from types import SimpleNamespace
        >>> from medeyes_monai.experts import MemoExpert, RandomBoxExpert
        >>> case = Case("q", SimpleNamespace(key="a", shape=(300, 300)), "where?", answer="left")
        >>> navigator = Navigator(MemoExpert(RandomBoxExpert()))
        >>> sampler = PathSampler(navigator, n_paths=2, prune=False, on_no_answer="reference")
        >>> [path.answer for path in sampler.paths(case)]
        ['left', 'left']
    """

    def __init__(
        self,
        navigator: Navigator,
        is_right: Callable[[str, Case], bool] | None = None,
        *,
        n_paths: int = N_PATHS,
        p0: float = NUCLEUS_P,
        temperature: float = TEMPERATURE,
        seed: int = 0,
        prune: bool = True,
        on_no_answer: Literal["drop", "reference"] = "drop",
        greedy: bool = False,
        distinct: bool = False,
    ) -> None:
        """Check the settings; see the class."""
        _check_nucleus(p0, temperature)
        if n_paths < 1:
            raise ConfigError(f"n_paths must be at least 1, got {n_paths}")
        if on_no_answer not in ("drop", "reference"):
            raise ConfigError(f"on_no_answer is 'drop' or 'reference', got {on_no_answer!r}")
        if prune and is_right is None:
            raise ConfigError(
                "pruning needs is_right, the rule by which answers are compared; or prune=False"
            )
        self.navigator, self.is_right = navigator, is_right
        self.n_paths, self.p0, self.temperature = n_paths, p0, temperature
        self.seed, self.prune, self.on_no_answer = seed, prune, on_no_answer
        self.greedy, self.distinct = greedy, distinct

    @property
    def name(self) -> str:
        """The name of the expert whose paths are drawn."""
        return self.navigator.expert.name

    def paths(self, case: Case, step: int = 0) -> list[Trajectory]:
        """Draw ``n_paths`` paths for a question and return those that are kept; see :meth:`draw`.

        Returns:
            Complete paths, boxes in voxels of the scene; none if all were dropped.
        """
        return [drawn.trajectory for drawn in self.draw(case, step) if drawn.fate == "kept"]

    def draw(self, case: Case, step: int = 0) -> tuple[DrawnPath, ...]:
        """Draw ``n_paths`` paths for a question, and say of each what becomes of it and what was decided.

        Args:
            case: The question. It needs a reference answer if paths are pruned or filled with it.
            step: Epoch or step; every step draws anew.

        Returns:
            All paths, in the order of their draws.

        Raises:
            ConfigError: If the case has no reference answer and one is needed.
            ExpertError: If the expert breaks its contract.
        """
        if case.answer is None and (self.prune or self.on_no_answer == "reference"):
            raise ConfigError(
                f"{case.key}: has no reference answer; give one, or set prune=False and on_no_answer='drop'"
            )
        drawn: list[DrawnPath] = []
        for number in range(self.n_paths):
            path = self._path(case, step, number)
            kept = (other.trajectory for other in drawn if other.fate == "kept")
            is_copy = self.distinct and path.trajectory in kept
            drawn.append(replace(path, fate="copy") if is_copy and path.fate == "kept" else path)
        return tuple(drawn)

    def _path(self, case: Case, step: int, draw: int) -> DrawnPath:
        rng = numpy_generator(self.seed, step, "expert", case.key, draw)
        search = self.navigator.search(case.scene, case.question, self._chooser(rng))
        path = search.trajectory
        if path.answer is None and self.on_no_answer == "reference":
            path = replace(path, answer=case.answer)
        return DrawnPath(path, search.decisions, self._fate(path, case))

    def _chooser(self, rng: np.random.Generator) -> Choose:
        def choose(regions: Sequence[Box], confidences: Sequence[float]) -> int:
            inside = nucleus(confidences, self.p0, self.temperature)
            return (
                inside.indices[0] if self.greedy else int(rng.choice(inside.indices, p=inside.probabilities))
            )

        return choose

    def _fate(self, path: Trajectory, case: Case) -> Fate:
        if path.answer is None:
            return "unanswered"
        wrong = self.prune and self.is_right is not None and not self.is_right(path.answer, case)
        return "wrong" if wrong else "kept"


def _check_nucleus(p0: float, temperature: float) -> None:
    if not 0 < p0 <= 1 or not (temperature > 0 and math.isfinite(temperature)):
        raise ConfigError(f"p0 lies in (0, 1] and temperature is above 0, got {p0} and {temperature}")
