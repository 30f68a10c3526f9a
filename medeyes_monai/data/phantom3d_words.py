"""The questions of PhantomVQA-3D, stage by stage, and the rule by which findings answer them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from medeyes_monai.data.phantom3d_image import LEVELS
from medeyes_monai.data.phantom_image import BENIGN, KINDS
from medeyes_monai.errors import ConfigError
from medeyes_monai.experts import Candidate, Reading

__all__ = [
    "ANSWERS_3D",
    "FAMILIES_3D",
    "LOOK_FAMILIES_3D",
    "MEASURES",
    "MEASURE_FAMILIES_3D",
    "QUESTIONS_3D",
    "STAGES",
    "PhantomReader3D",
]

STAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "recognition": ("kind", "presence", "side", "level"),
        "measurement": ("diameter", "volume", "density", "ratio"),
        "visual reasoning": ("count", "larger", "denser"),
        "rules": ("size rule", "density rule"),
        "one glance": ("candidates", "liver"),
    }
)
"""Families by what they ask for; those of the last are answered by the overview."""
FAMILIES_3D = tuple(family for families in STAGES.values() for family in families)
LOOK_FAMILIES_3D = (*STAGES["recognition"], *STAGES["visual reasoning"])
"""Families that need looking, and no more than looking: a policy with one glance is at chance."""
MEASURE_FAMILIES_3D = (*STAGES["measurement"], *STAGES["rules"])
"""Families that need looking and a measurement; one glance is at chance here too."""
MEASURES: Mapping[str, str] = MappingProxyType(
    {
        "diameter": "mm",
        "volume": "ml",
        "density": "HU",
        "ratio": "mm",
        "size rule": "mm",
        "density rule": "HU",
    }
)
"""What the findings of a question state besides their words, by its family."""
QUESTIONS_3D: Mapping[str, str] = MappingProxyType(
    {
        "kind": "Which kind is the lesion?",
        "presence": "Is there a {0} lesion?",
        "side": "On which side is the {0} lesion?",
        "level": "At which level is the {0} lesion?",
        "diameter": "What is the diameter of the {0} lesion in mm?",
        "volume": "What is the volume of the {0} lesion in ml?",
        "density": "What is the mean density of the {0} lesion in HU?",
        "ratio": "How many times as wide as the {1} lesion is the {0} lesion?",
        "count": "How many {0} lesions in the {1}?",
        "larger": "Which is larger, {0} or {1}?",
        "denser": "Which is denser, {0} or {1}?",
        "size rule": "Lesions of {1} mm or more are treated. Is the {0} lesion treated?",
        "density rule": "Lesions of {1} HU or more are followed. Is the {0} lesion followed?",
        "candidates": "How many candidates?",
        "liver": "Is the liver enlarged?",
    }
)
ANSWERS_3D: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "kind": KINDS,
        "presence": ("yes", "no"),
        "side": ("left", "right"),
        "level": LEVELS,
        "count": ("0", "1", "2", "3"),
        "larger": KINDS,
        "denser": KINDS,
        "size rule": ("yes", "no"),
        "density rule": ("yes", "no"),
        "candidates": ("2", "3", "4"),
        "liver": ("yes", "no"),
        **dict.fromkeys(STAGES["measurement"], ("0", "1", "2", "3")),
    }
)
"""Answers by family, equally frequent; of measurements, the number of the range in which the answer lies."""
WORDS = 6
"""Words of a finding, before what was measured."""
_PATTERNS = {
    family: re.compile(re.sub(r"\\{(\d)\\}", r"(?P<w\1>\\w+)", re.escape(text)))
    for family, text in QUESTIONS_3D.items()
}


class _Found(NamedTuple):
    """A finding, word by word."""

    side: str
    level: str
    organ: str
    size: str
    density: str
    kind: str
    measured: str = ""

    @property
    def value(self) -> float:
        """The number that was measured."""
        return float(self.measured.split()[0])


class PhantomReader3D:
    """Reads an answer out of findings such as ``"right upper liver large dense solid"``.

    Findings of questions that need a measurement end in it: ``"right ... solid 48 mm"``.

    Example:
        >>> seen = ["left lower kidney small faint benign", "right upper liver large dense solid"]
        >>> PhantomReader3D().read("Which kind is the lesion?", seen, ())
        Reading(answer='solid', decisive=True)
        >>> query = "Lesions of 50 mm or more are treated. Is the solid lesion treated?"
        >>> PhantomReader3D().read(query, ["right upper liver large dense solid 48 mm"], ())
        Reading(answer='no', decisive=True)
    """

    def read(self, query: str, seen: Sequence[str], candidates: Sequence[Candidate]) -> Reading:
        """Answer a question of :data:`QUESTIONS_3D` (see :class:`medeyes_monai.experts.Reader`).

        Raises:
            ConfigError: If the question is not one of this benchmark, or needs a measurement that a finding
                does not state.
        """
        family, words = _family_of(query)
        found = [_Found(*text.split(" ", WORDS)) for text in seen if text.count(" ") >= WORDS - 1]
        if family in STAGES["one glance"]:
            return _glance(family, candidates)
        if family in MEASURE_FAMILIES_3D:
            return _measured(family, words, found)
        return _seen(family, words, found)


def _family_of(query: str) -> tuple[str, tuple[str, ...]]:
    for family, pattern in _PATTERNS.items():
        if match := pattern.fullmatch(query):
            words = match.groupdict()
            return family, tuple(words[name] for name in sorted(words))
    raise ConfigError(f"not a question of PhantomVQA-3D: {query!r}; use the data set's own reader or none")


def _glance(family: str, candidates: Sequence[Candidate]) -> Reading:
    """Answer from what the scan says of the whole."""
    livers = [c.finding for c in candidates if c.finding.endswith("liver")]
    if family == "liver":
        return _first(["yes" if "enlarged liver" in livers else "no"] if livers else [])
    number = sum(not c.finding.endswith("liver") for c in candidates)
    return Reading(str(number), number > 0)


def _seen(family: str, words: Sequence[str], found: Sequence[_Found]) -> Reading:
    """Answer from what looks show."""
    if family == "kind":
        return _first([lesion.kind for lesion in found if lesion.kind != BENIGN])
    if family in ("larger", "denser"):
        most = "large" if family == "larger" else "dense"
        return _first([f.kind for f in found if f.kind in words and most in (f.size, f.density)])
    asked = [lesion for lesion in found if lesion.kind == words[0]]
    if family == "count":
        return Reading(str(sum(lesion.organ == words[1] for lesion in asked)), False)
    if family == "presence":
        return Reading("yes" if asked else "no", bool(asked))
    return _first([lesion.side if family == "side" else lesion.level for lesion in asked])


def _measured(family: str, words: Sequence[str], found: Sequence[_Found]) -> Reading:
    """Answer from what was measured."""
    if any(lesion.kind in words and not lesion.measured for lesion in found):
        raise ConfigError("the question needs a measurement, which the finding does not state")
    asked = [lesion for lesion in found if lesion.kind == words[0]]
    if family == "ratio":
        others = [lesion for lesion in found if lesion.kind == words[1]]
        return _first([f"{a.value / b.value:.2f}" for a in asked for b in others])
    if family in STAGES["rules"]:
        return _first(["yes" if lesion.value >= float(words[1]) else "no" for lesion in asked])
    return _first([lesion.measured for lesion in asked])


def _first(answers: Sequence[str]) -> Reading:
    return Reading(answers[0], True) if answers else Reading(None, False)
