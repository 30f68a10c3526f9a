"""Is an answer right, by the data set's own rule: the same for the reward and for every table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.scoring.options import is_option, named_option
from medeyes_monai.metrics.scoring.polarity import polarity, stated
from medeyes_monai.metrics.scoring.quantities import distance, read_quantity
from medeyes_monai.metrics.scoring.words import fold, normalise
from medeyes_monai.scenes import Case, Scoring

__all__ = ["answers_match"]


def answers_match(answer: str, case: Case) -> bool:
    """Tell whether an answer is right, by ``case.scoring``.

    - ``exact`` and ``open``: equal after :func:`~medeyes_monai.metrics.scoring.normalise`. Tables report
      overlap of words beside it for ``open``.
    - ``closed``: both begin with *yes*, or both with *no*, and do not say the other word as well; a
      reference that is neither is compared as under ``exact``.
    - ``choice``: names the same of ``case.options`` as the reference does and no other, see
      :func:`~medeyes_monai.metrics.scoring.named_option`; without options as under ``exact``.
    - ``numeric``: a number, at most ``case.tolerance`` away in the unit of the reference (computed exactly).
      mm, cm and the like are converted; a number without a unit is taken to have the reference's.

    Under ``closed``, ``choice`` and ``numeric`` an answer may begin with "the answer is".

    Args:
        answer: The answer to judge. Any string; it is compared, never evaluated.
        case: The question with its reference answer.

    Raises:
        ConfigError: If the case cannot be scored: no reference, a reference that is none of the options, or
            one that is no number. ``answers_match(case.answer, case)`` checks a case before training.

    Example:
        >>> from medeyes_monai.scenes import Case
        >>> options = ("cyst", "nodule")
        >>> answers_match("I think (B)", Case("q", None, "?", "nodule", options, scoring="choice"))
        True
        >>> answers_match("1.24 cm", Case("q", None, "?", "12.5 mm", scoring="numeric", tolerance=0.1))
        True
    """
    if case.answer is None:
        raise ConfigError(f"case {case.key!r} has no reference answer to score against; give it one")
    return _RULES[case.scoring](answer, case.answer, case)


def _exact(answer: str, reference: str, case: Case) -> bool:
    wanted = normalise(reference)
    return normalise(answer) == wanted if wanted else fold(answer).strip() == fold(reference).strip()


def _closed(answer: str, reference: str, case: Case) -> bool:
    wanted = polarity(reference)
    return _exact(answer, reference, case) if wanted is None else polarity(answer) == wanted


def _choice(answer: str, reference: str, case: Case) -> bool:
    if not case.options:
        return _exact(answer, reference, case)
    wanted = is_option(reference, case.options)
    if wanted is None:
        raise ConfigError(
            f"the reference answer of case {case.key!r} is none of its {len(case.options)} options; "
            "give one option's text or letter"
        )
    return named_option(answer, case.options) == wanted


def _numeric(answer: str, reference: str, case: Case) -> bool:
    wanted = read_quantity(reference)
    if wanted is None:
        raise ConfigError(
            f"the reference answer of case {case.key!r} is not a number with an optional unit; "
            "write one, or choose another scoring"
        )
    if not 0 <= case.tolerance < math.inf:
        raise ConfigError(f"the tolerance of case {case.key!r} must be 0 or more, got {case.tolerance}")
    given = read_quantity(stated(answer))
    apart = None if given is None else distance(given, wanted)
    return apart is not None and apart <= Fraction(str(case.tolerance))


_RULES: Mapping[Scoring, Callable[[str, str, Case], bool]] = MappingProxyType(
    {"exact": _exact, "open": _exact, "closed": _closed, "choice": _choice, "numeric": _numeric}
)
