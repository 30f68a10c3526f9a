"""Choosing among the episodes of a page without scripts: buttons that hide by style alone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["Filters", "outcome_of"]

OUTCOMES = {"wrong": "wrong", "unanswered": "without an answer", "right": "right"}
"""Class of an episode's outcome, and what it is called."""


class Filters:
    """Two rows of buttons over some episodes: by outcome, and by kind of question.

    Names of families come from data: in styles they are numbers, in labels they are escaped.

    Args:
        episodes: The episodes of a page with their cases.

    Example:
        >>> Filters([]).style
        ''
    """

    def __init__(self, episodes: Sequence[tuple[Episode, Case]]) -> None:
        """Count what there is to choose from."""
        self._outcomes = [outcome_of(episode) for episode, _ in episodes]
        self._families = [case.family for _, case in episodes]
        self._numbers = {name: f"family-{n}" for n, name in enumerate(sorted(set(self._families)))}

    @property
    def style(self) -> str:
        """Rules that hide what was not chosen."""
        names = [f"is-{name}" for name in OUTCOMES if name in self._outcomes] + [*self._numbers.values()]
        return "".join(
            f"#only-{name}:checked ~ article:not(.{name}) {{ display: none; }}\n" for name in names
        )

    @property
    def controls(self) -> str:
        """The buttons, to stand beside the episodes and before them."""
        outcomes = [
            (f"is-{name}", f"{words} ({self._outcomes.count(name)})")
            for name, words in OUTCOMES.items()
            if name in self._outcomes
        ]
        families = [
            (number, f"{name} ({self._families.count(name)})") for name, number in self._numbers.items()
        ]
        return _row("outcome", "Answers", outcomes) + "<br>" + _row("family", "Kinds of question", families)

    def classes(self, episode: Episode, case: Case) -> str:
        """Return the classes by which an episode is chosen."""
        return f"is-{outcome_of(episode)} {self._numbers[case.family]}"


def outcome_of(episode: Episode) -> str:
    """Return the outcome of an episode: unanswered, right or wrong."""
    if episode.trajectory.answer is None:
        return "unanswered"
    return "right" if episode.reward_parts.get("accuracy", 0.0) >= 1 else "wrong"


def _row(group: str, title: str, choices: Sequence[tuple[str, str]]) -> str:
    buttons = [_button(group, f"all-{group}", "all", chosen=True)]
    buttons += [_button(group, f"only-{name}", words) for name, words in choices]
    return f'<span class="filter">{escape(title)}:</span>' + "".join(buttons)


def _button(group: str, name: str, words: str, chosen: bool = False) -> str:
    checked = " checked" if chosen else ""
    return (
        f'<input type="radio" name="{group}" id="{name}"{checked}><label for="{name}">{escape(words)}</label>'
    )
