"""The baseline that needs no image: always say what was most often right in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from medeyes_monai.errors import ConfigError
from medeyes_monai.metrics.share import Share
from medeyes_monai.scenes import Case

__all__ = ["majority_accuracy", "same_text"]


def same_text(answer: str, case: Case) -> bool:
    """Tell whether an answer is the reference, but for capitals, outer spaces and a full stop.

    Example:
        >>> same_text(" Yes. ", Case("k", None, "Is there an effusion?", "yes"))
        True
    """
    return case.answer is not None and _plain(answer) == _plain(case.answer)


def majority_accuracy(
    cases_train: Sequence[Case],
    cases_eval: Sequence[Case],
    is_right: Callable[[str, Case], bool] = same_text,
) -> dict[str, Share]:
    """Score the answer that was most frequent in training, family by family.

    A family without training cases is given the most frequent answer of all families. Of equally frequent
    answers, the alphabetically first is taken.

    Args:
        cases_train: Cases to count answers in; those without an answer are left out.
        cases_eval: Cases to answer; all have a reference answer.
        is_right: Rule that compares an answer with a case; hand in the data set's own where it has one.

    Returns:
        Share of right answers for each family of ``cases_eval``, in alphabetical order.

    Raises:
        ConfigError: If there is no training answer, or a case to answer has no reference.
    """
    answers: dict[str, Counter[str]] = {}
    everywhere: Counter[str] = Counter()
    for case in cases_train:
        if case.answer is not None:
            answers.setdefault(case.family, Counter())[_plain(case.answer)] += 1
            everywhere[_plain(case.answer)] += 1
    if not everywhere:
        raise ConfigError("the majority answer needs training cases with answers, got none")
    if missing := [case.key for case in cases_eval if case.answer is None]:
        raise ConfigError(
            f"{len(missing)} cases have no reference answer, the first is {missing[0]!r}; leave them out"
        )
    return {
        family: Share.of(
            is_right(_most_frequent(answers.get(family, everywhere)), case)
            for case in cases_eval
            if case.family == family
        )
        for family in sorted({case.family for case in cases_eval})
    }


def _most_frequent(counts: Counter[str]) -> str:
    return min(counts, key=lambda answer: (-counts[answer], answer))


def _plain(answer: str) -> str:
    return " ".join(answer.split()).rstrip(".").casefold()
