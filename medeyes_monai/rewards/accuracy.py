"""Is the answer right, by the data set's own rule (``r_acc`` of equation 4)."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType

from medeyes_monai.errors import ConfigError
from medeyes_monai.scenes import Case, Scoring
from medeyes_monai.trajectory import Episode

__all__ = ["accuracy", "answers_match", "normalise"]

_MAX_NUMERIC_CHARACTERS = 64
"""Longest answer that is read as a number with its unit."""
_BEFORE = " ,;:!?\"'`()[]{}"
_AFTER = _BEFORE + "."  # a point before an answer may be a decimal point
_ARTICLES = ("a ", "an ", "the ")
_NUMBER = re.compile(r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]{1,2})?)\s*(.*)", re.DOTALL)
_UNIT = re.compile(r"(?:(?:[^\W\d_]+|[%°][^\W\d_]*)(?:/[^\W\d_]+)?\^?[23]?)?")


def accuracy(episode: Episode, case: Case) -> float:
    """Return 1 if the episode's answer is right and 0 if it is wrong or missing.

    Raises:
        ConfigError: If the case cannot be scored, see :func:`answers_match`.
    """
    answer = episode.trajectory.answer
    return float(answer is not None and answers_match(answer, case))


def answers_match(answer: str, case: Case) -> bool:
    """Tell whether an answer is right, by ``case.scoring``.

    - ``exact``: equal after :func:`normalise`.
    - ``closed``: both begin with *yes*, or both with *no*, and do not say the other word as well; a
      reference that is neither is compared as under ``exact``.
    - ``choice``: names the same of ``case.options`` by its letter, by its text, or by both where they agree;
      without options as under ``exact``.
    - ``numeric``: a number with a decimal point, at most ``case.tolerance`` away (computed exactly). A unit
      may follow; where both have one the units must be equal, nothing is converted.

    Args:
        answer: The answer to judge. Any string; it is compared, never evaluated.
        case: The question with its reference answer.

    Raises:
        ConfigError: If the case cannot be scored: no reference, a reference that is none of the options, or
            one that is no number. ``answers_match(case.answer, case)`` checks a case before training.

    Example:
        >>> from medeyes_monai.scenes import Case
        >>> options = ("cyst", "nodule")
        >>> answers_match("(B)", Case("q", None, "?", "nodule", options, scoring="choice"))
        True
        >>> answers_match("12.4 mm", Case("q", None, "?", "12.5", scoring="numeric", tolerance=0.1))
        True
    """
    if case.answer is None:
        raise ConfigError(f"case {case.key!r} has no reference answer to score against; give it one")
    return _RULES[case.scoring](answer, case.answer, case)


def normalise(text: str) -> str:
    """Return an answer in the form in which answers are compared.

    Compatibility forms and case are folded, white space is collapsed, punctuation around the answer and a
    leading article are dropped.

    Example:
        >>> normalise(" The  LEFT lung. ")
        'left lung'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    plain = " ".join(folded.split()).lstrip(_BEFORE).rstrip(_AFTER)
    for article in _ARTICLES:
        if plain.startswith(article):
            return plain[len(article) :].lstrip(_BEFORE)
    return plain


def _exact(answer: str, reference: str, case: Case) -> bool:
    return normalise(answer) == normalise(reference)


def _closed(answer: str, reference: str, case: Case) -> bool:
    wanted = _polarity(reference)
    return _exact(answer, reference, case) if wanted is None else _polarity(answer) == wanted


def _polarity(text: str) -> str | None:
    """Return "yes" or "no" if the text begins with it and does not also say the other."""
    words = re.findall(r"\w+", normalise(text))
    both = {"yes", "no"}
    return words[0] if words and words[0] in both and not (both - {words[0]}).intersection(words) else None


def _choice(answer: str, reference: str, case: Case) -> bool:
    if not case.options:
        return _exact(answer, reference, case)
    options = [normalise(option) for option in case.options]
    wanted = _option(reference, options)
    if wanted is None:
        raise ConfigError(
            f"the reference answer of case {case.key!r} is none of its {len(options)} options; "
            "give one option's text or letter"
        )
    return _option(answer, options) == wanted


def _option(text: str, options: list[str]) -> int | None:
    """Return the number of the (normalised) option that a text names, or None."""
    plain = normalise(text)
    if plain in options:
        return options.index(plain)
    bare = unicodedata.normalize("NFKC", text).casefold().strip().lstrip("([")
    letter, rest = bare[:1], bare[1:]
    number = ord(letter) - ord("a") if letter else -1
    if not 0 <= number < min(len(options), 26) or (rest and rest[0] not in ")].:"):
        return None
    return number if normalise(rest) in ("", options[number]) else None


def _numeric(answer: str, reference: str, case: Case) -> bool:
    wanted = _quantity(reference)
    if wanted is None:
        raise ConfigError(
            f"the reference answer of case {case.key!r} is not a number with an optional unit; "
            "write one, or choose another scoring"
        )
    if not 0 <= case.tolerance < math.inf:
        raise ConfigError(f"the tolerance of case {case.key!r} must be 0 or more, got {case.tolerance}")
    given = _quantity(answer)
    if given is None or (given[1] and wanted[1] and given[1] != wanted[1]):
        return False
    return abs(given[0] - wanted[0]) <= Fraction(str(case.tolerance))


def _quantity(text: str) -> tuple[Fraction, str] | None:
    """Return a number and its unit (empty where there is none), or None if the text is something else."""
    if len(text) > _MAX_NUMERIC_CHARACTERS:
        return None
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\N{MINUS SIGN}", "-").strip()
    match = _NUMBER.fullmatch(folded)
    if match is None:
        return None
    unit = match[2].rstrip(".")
    return (Fraction(match[1]), unit) if _UNIT.fullmatch(unit) else None


_RULES: Mapping[Scoring, Callable[[str, str, Case], bool]] = MappingProxyType(
    {"exact": _exact, "closed": _closed, "choice": _choice, "numeric": _numeric}
)
