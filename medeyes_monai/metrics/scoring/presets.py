"""Scoring protocols by name: the data sets' own rules, and those of published evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.scoring import deep_tumor, llava_med, medevalkit
from medeyes_monai.metrics.scoring.overlap import OVERLAPS, overlap
from medeyes_monai.metrics.scoring.polarity import polarity
from medeyes_monai.metrics.scoring.rules import answers_match
from medeyes_monai.scenes import Case

__all__ = ["OWN", "PRESETS", "AnswerType", "Judgement", "Preset", "answer_type", "preset"]

AnswerType = Literal["closed", "open"]
"""Whether a question has a few possible answers, or any."""
OWN = "own"
"""Name of the preset that the reward uses too."""


class Judgement(NamedTuple):
    """What a protocol says of one answer.

    Args:
        kind: What it takes the question for.
        score: What it reports, from 0 to 1.
        extras: What it reports beside it, by the names of :attr:`Preset.extras`; empty for closed questions.
    """

    kind: AnswerType
    score: float
    extras: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Preset:
    """A scoring protocol.

    Args:
        name: Its name, which every result carries.
        judge: Judges an answer to a case that has a reference; an empty answer stands for none.
        measures: What the score is, of closed and of open questions.
        extras: Names of what is reported of open questions beside the score.
        known: What was taken from the protocol's public code or text, and where that is.
        assumed: What it leaves open or what differs here.
    """

    name: str
    judge: Callable[[str, Case], Judgement]
    measures: Mapping[AnswerType, str]
    extras: tuple[str, ...]
    known: str
    assumed: str


def preset(name: str) -> Preset:
    """Return a protocol by its name.

    Raises:
        ConfigError: If there is none of that name.

    Example:
        >>> from medeyes_monai.scenes import Case
        >>> case = Case("q", None, "Is there a nodule?", "yes", family="closed", scoring="closed")
        >>> [preset(name).judge("Yes, a nodule.", case).score for name in ("own", "medevalkit", "llava-med")]
        [1.0, 0.0, 1.0]
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown scoring preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def answer_type(case: Case) -> AnswerType:
    """Tell whether a question is closed: as its family says, else by its options and its reference.

    The family says so if it is ``closed`` or ``open``, or begins with that and a slash.

    Example:
        >>> answer_type(Case("q", None, "Which side?", "left", family="closed/organ"))
        'closed'
        >>> answer_type(Case("q", None, "Which side?", "left"))
        'open'
    """
    head = case.family.partition("/")[0]
    if head == "closed" or head == "open":
        return "closed" if head == "closed" else "open"
    return "closed" if case.options or (case.answer and polarity(case.answer)) else "open"


def _own(answer: str, case: Case) -> Judgement:
    right = float(answers_match(answer, case))
    if answer_type(case) == "closed" or case.answer is None:
        return Judgement("closed", right)
    return Judgement("open", right, overlap(answer, case.answer))


def _medevalkit(answer: str, case: Case) -> Judgement:
    """VQA-RAD and PathVQA: closed is what has the answer yes or no."""
    wanted, given = _reference(case).lower().strip(), answer.lower().strip()
    if case.options:
        return Judgement("closed", float(medevalkit.choice_is_right(answer, wanted, case.options)))
    if wanted in ("yes", "no"):
        return Judgement("closed", float(medevalkit.yes_no_is_right(given, wanted)))
    extras = medevalkit.open_extras(given, wanted)
    return Judgement("open", float(medevalkit.read(given) == wanted), extras)


def _medevalkit_slake(answer: str, case: Case) -> Judgement:
    """SLAKE: closed is what the data call closed, and only "yes" and "no" in small letters are yes and no."""
    wanted = _reference(case)
    if case.options:
        raise ConfigError(
            f"preset 'medevalkit-slake' has no rule for options (case {case.key!r}); take 'medevalkit'"
        )
    if answer_type(case) == "closed":
        rule = medevalkit.yes_no_is_right if wanted in ("yes", "no") else medevalkit.text_is_same
        return Judgement("closed", float(rule(answer, wanted)))
    extras = medevalkit.open_extras(answer, wanted)
    return Judgement("open", float(medevalkit.read(answer) == wanted.lower()), extras)


def _llava_med(answer: str, case: Case) -> Judgement:
    wanted = _reference(case)
    if case.options:
        raise ConfigError(
            f"preset 'llava-med' has no rule for options (case {case.key!r}); take 'medevalkit'"
        )
    if answer_type(case) == "closed":
        return Judgement("closed", float(llava_med.closed_is_right(answer, wanted)))
    recall, *extras = llava_med.open_scores(answer, wanted)
    return Judgement("open", recall, tuple(extras))


def _deep_tumor(answer: str, case: Case) -> Judgement:
    wanted = _reference(case)
    if case.options:
        return Judgement("closed", float(deep_tumor.choice_is_right(answer, wanted, case.options)))
    if case.scoring == "closed" or wanted.strip().lower() in ("yes", "no"):
        return Judgement("closed", float(deep_tumor.yes_no_is_right(answer, wanted)))
    if case.scoring == "numeric":
        score, *within = deep_tumor.number_scores(answer, wanted)
        return Judgement("open", score, tuple(within))
    same = float(deep_tumor.text_is_same(answer, wanted))
    return Judgement("open", same, (same,) * len(deep_tumor.EXTRAS))


def _reference(case: Case) -> str:
    if case.answer is None:
        raise ConfigError(f"case {case.key!r} has no reference answer to score against; give it one")
    return case.answer


_ACCURACY: Mapping[AnswerType, str] = MappingProxyType({"closed": "accuracy", "open": "accuracy"})
_MEDEVALKIT = (
    "github.com/alibaba-damo-academy/MedEvalKit, utils/utils.py and utils/*/*.py at 9b12e3b: which questions "
    "are closed, the text that counts, the rules and their order, BLEU over words between single spaces, "
    "unsmoothed."
)
_MEDEVALKIT_ASSUMED = (
    "Its language-model judge, which published figures may have used, is not run; ROUGE is left out. It "
    "reads the whole response, here the episode's answer. Its columns precision, recall and F1 of open "
    "answers are exchanged there (F1, precision, recall); here they have their names. An empty open "
    "answer, at which it stops, is wrong."
)
_ALL = (
    Preset(
        OWN,
        _own,
        _ACCURACY,
        OVERLAPS,
        "Each question by its own scoring (exact, closed, choice, numeric, open), as in the reward.",
        "Closed is what the data set's family says, else what has options or the answer yes or no.",
    ),
    Preset("medevalkit", _medevalkit, _ACCURACY, medevalkit.EXTRAS, _MEDEVALKIT, _MEDEVALKIT_ASSUMED),
    Preset(
        "medevalkit-slake",
        _medevalkit_slake,
        _ACCURACY,
        medevalkit.EXTRAS,
        _MEDEVALKIT + " SLAKE's answers Yes and No are compared as text, since they are capitalised.",
        _MEDEVALKIT_ASSUMED,
    ),
    Preset(
        "llava-med",
        _llava_med,
        MappingProxyType({"closed": "accuracy", "open": "recall"}),
        llava_med.EXTRAS,
        "github.com/microsoft/LLaVA-Med, llava/eval/run_eval.py at b9a98a7: folding, closed accuracy, recall "
        "and F1 of open answers. Before that commit, wrong answers that said yes or no were not counted.",
        "Recall is the score of open questions, as in the paper (arXiv 2306.00890). Closed is what the data "
        "call closed; the files that the authors scored are not public. Matching against a list of all "
        "answers (open accuracy) is left out, and contractions are not restored.",
    ),
    Preset(
        "deep-tumor-vqa",
        _deep_tumor,
        MappingProxyType({"closed": "accuracy", "open": "relative accuracy of numbers, else accuracy"}),
        deep_tumor.EXTRAS,
        "github.com/Schuture/DeepTumorVQA, src/deeptumorvqa/eval/metrics.py at 1df7460: the letter that "
        "counts, yes and no, the first number of an answer, relative accuracy and its bands, categories.",
        "Which subtypes are numbers, yes or no, and categories is said by the item's scoring, as prepared. "
        "Its figure of a stage weighs subtypes by their questions, as a mean over questions does; bands of "
        "categories repeat their accuracy. It reads the whole response, here the episode's answer.",
    ),
)
PRESETS: Mapping[str, Preset] = MappingProxyType({protocol.name: protocol for protocol in _ALL})
"""Every protocol by its name."""
