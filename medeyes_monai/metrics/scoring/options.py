"""Which of some options an answer names: by letter, by text, or within a sentence."""

# ruff: noqa: SIM905 - lists of words read best as text

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from medeyes_monai.metrics.scoring.polarity import polarity
from medeyes_monai.metrics.scoring.words import Word, fold, words, words_of

__all__ = ["MAX_SENTENCE", "NEGATIONS", "is_option", "named_option"]

MAX_SENTENCE = 2000
"""Longest answer that is searched for options; a longer one may only be an option as a whole."""
NEGATIONS = frozenset(
    "no not never without neither nor cannot cant isnt arent wasnt werent doesnt dont didnt except excluded "
    "excludes unlikely unlike 不 没 无 非".split()
)
"""Words that turn what follows them in their clause into its opposite."""
_REACH = 3
"""Words before a letter among which a negation still reaches it, as in "not option B"."""
_CLAUSE = re.compile(r"[;!?\n\u3001\u3002]|[.,:](?![0-9])|\b(?:but|although|because|since)\b", re.IGNORECASE)
_GONE = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands where an option's text stood, so that its letters are not read again."""
_LEAD = (
    r"(?:(?<![A-Za-z])(?:[Aa]nswer|ANSWER|[Oo]ption|[Cc]hoice|[Ll]etter|choose|select|pick|is|be)[\s:*\"'`]+"
    r"|(?:答案|选项|选|是|为)[\s:*]*)"
)
_LETTERS = (
    re.compile(r"[(\[{]\s*([A-Za-z])\s*[)\]}]"),  # (B)
    re.compile(r"^[\W_]*([A-Za-z])(?=\s*[).:\]}*]|\s*$)"),  # B. at the beginning, or alone
    re.compile(_LEAD + r"([B-HJ-Zb-hj-z])(?![\w'-])"),  # the answer is B because
    re.compile(_LEAD + r"([A-Za-z])(?=[\s*\"'`)\]}]*(?:[.,;:!?\n\u3002]|$))"),  # the answer is A.
    re.compile(r"\b([A-Z])\s+is\s+(?:the\s+)?(?:correct|right|true|best|answer)\b"),  # B is correct
)
_MARKED = re.compile(r"[(\[]?([A-Za-z])(?:[)\].:](.*))?", re.DOTALL)
_BARE = re.compile(r"^[\W_]*([B-HJ-Zb-hj-z])(?![\w'-])")
_PAIRED = re.compile(
    r"(?<![\w'-])([A-Za-z])[)\]]?\s*(?:(?:,|/|&|\band\b|\bor\b|\bnor\b)\s*)+(?:option\s+)?"
    r"[(\[]?(?=([A-Za-z])(?![\w'-]))"
)


_POLAR = (["yes"], ["no"])


class _Mention(NamedTuple):
    """An option that a text names, and where."""

    option: int
    start: int
    stop: int
    letter: bool


def is_option(text: str, options: Sequence[str]) -> int | None:
    """Return the number of the option that a text is, from 0, or None.

    It is one by its words, by its letter with or without a mark, or by both where they agree.

    Example:
        >>> options = ["cyst", "a nodule"]
        >>> is_option("(B) nodule", options), is_option("B: cyst", options), is_option("a big cyst", options)
        (1, None, None)
    """
    plain = [words(option) for option in options]
    whole = words(text)
    if whole and whole in plain:
        return plain.index(whole)
    marked = _MARKED.fullmatch(fold(text).strip())
    number = ord(marked[1].casefold()) - ord("a") if marked else len(options)
    if marked is None or number >= len(options):
        return None
    return number if words(marked[2] or "") in ([], plain[number]) else None


def named_option(text: str, options: Sequence[str]) -> int | None:
    """Return the number of the option that a text names, from 0, or None.

    The text may be an option, see :func:`is_option`. Otherwise it is a sentence that is searched for letters
    ("the answer is B", "(B)", "B is correct") and for the options' texts as whole words; an option "yes" or
    "no" is read by :func:`~medeyes_monai.metrics.scoring.polarity`. A sentence names an option only if it
    names no other, and not only after a negation.

    Args:
        text: The answer.
        options: The options' texts. Letters reach to Z.

    Example:
        >>> options = ["cyst", "a nodule", "no finding"]
        >>> named_option("The answer is (B).", options), named_option("I see a nodule here", options)
        (1, 1)
        >>> named_option("cyst or nodule", options), named_option("not a nodule", options)
        (None, None)
    """
    whole = is_option(text, options)
    if whole is not None or len(text) > MAX_SENTENCE:
        return whole
    plain, folded, said = [words(option) for option in options], fold(text), polarity(text)
    texts = list(_texts(words_of(folded), [[] if option in _POLAR else option for option in plain]))
    rest = _without(folded, texts)
    mentions = [*texts, *_letters(rest, len(options), bare=bool(texts))]
    if said is not None and [said] in plain:
        mentions.append(_Mention(plain.index([said]), 0, 0, letter=False))
    if len({mention.option for mention in mentions}) != 1:
        return None
    meant = (mention.option for mention in mentions if not _negated(rest, mention))
    return next(meant, None)


def _texts(found: Sequence[Word], options: Sequence[Sequence[str]]) -> Iterator[_Mention]:
    """Yield the options whose words stand in a text; of two that begin at one word the longer."""
    by_first: dict[str, list[int]] = {}
    for number, option in enumerate(options):
        if option and option not in options[:number]:
            by_first.setdefault(option[0], []).append(number)
    place = 0
    while place < len(found):
        here = [
            number
            for number in by_first.get(found[place].text, ())
            if [word.text for word in found[place : place + len(options[number])]] == options[number]
        ]
        longest = max(here, key=lambda number: len(options[number]), default=None)
        length = 1 if longest is None else len(options[longest])
        if longest is not None:
            yield _Mention(longest, found[place].start, found[place + length - 1].stop, letter=False)
        place += length


def _without(text: str, mentions: Sequence[_Mention]) -> str:
    """Return a text of the same length without what was read."""
    parts, end = [], 0
    for mention in mentions:
        start = max(end, mention.start)  # two may stand in one abbreviation
        parts += [text[end:start], _GONE * (mention.stop - start)]
        end = mention.stop
    return "".join([*parts, text[end:]])


def _letters(text: str, options: int, bare: bool) -> Iterator[_Mention]:
    """Yield the options that a text names by letter.

    Args:
        text: The answer without the texts of options.
        options: How many there are.
        bare: Whether a letter at the beginning counts without a mark after it.
    """
    forms = (*_LETTERS, _PAIRED, _BARE) if bare else (*_LETTERS, _PAIRED)
    matches = [match for form in forms for match in form.finditer(text)]
    places = {match.start(group) for match in matches for group in range(1, match.re.groups + 1)}
    for start in sorted(places):
        option = ord(text[start].casefold()) - ord("a")
        if option < options:
            yield _Mention(option, start, start + 1, letter=True)


def _negated(text: str, mention: _Mention) -> bool:
    """Tell whether a negation stands before a mention in its clause, near it if it is a letter."""
    begin = max((match.end() for match in _CLAUSE.finditer(text, 0, mention.start)), default=0)
    before = [word.text for word in words_of(text[begin : mention.start])]
    return not NEGATIONS.isdisjoint(before[-_REACH:] if mention.letter else before)
