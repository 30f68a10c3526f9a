"""What the words of a question say about how its image and its answer may be handled."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from medeyes_monai.errors import ConfigError

__all__ = ["letter_of", "names_a_side", "option_named"]

_SIDES = re.compile(
    r"\b(?:left|right|side[sd]?|[lr]t|[lr][uml]l|[lr]v|dextro\w*|lae?vo\w*|situs)\b|[左右侧]", re.IGNORECASE
)
_LETTERS = re.compile(r"\b[LR]\b")  # as on films; case matters
_OPTION = re.compile(r"[(\[]?\s*([a-z])\s*(?:[)\].:](.*))?", re.DOTALL)


def names_a_side(*texts: str | None) -> bool:
    """Tell whether a text names left or right, so that mirroring the image would change what is true.

    No image of such a question may be flipped unless its words are mirrored as well. Errs on the side of
    keeping the image as it is: "is that right?" counts.

    Args:
        texts: Question, answer, options; None is passed over.

    Example:
        >>> names_a_side("Which lung is abnormal?", "Left"), names_a_side("Is the heart large?", "no")
        (True, False)
        >>> names_a_side("哪一侧的肺不正常")
        True
    """
    return any(text and (_SIDES.search(text) or _LETTERS.search(text)) for text in texts)


def option_named(answer: str, options: Sequence[str]) -> int | None:
    """Return the number of the option that an answer names by its text, or else by its letter.

    Texts are compared without case, punctuation and articles. This finds out whether data are consistent;
    how an answer is scored is said in ``rewards.accuracy``.

    Args:
        answer: The text of an option, its letter, or both (``B``, ``(b)``, ``B: nodule``).
        options: At most 26 options have letters.

    Returns:
        The number from 0, or None if no option is named.

    Example:
        >>> option_named("The cyst.", ["nodule", "cyst"]), option_named("A", ["nodule", "cyst"])
        (1, 0)
        >>> option_named("mass", ["nodule", "cyst"]) is None
        True
    """
    plain = [_plain(option) for option in options]
    if _plain(answer) in plain:
        return plain.index(_plain(answer))
    marked = _OPTION.fullmatch(unicodedata.normalize("NFKC", answer).casefold().strip())
    number = ord(marked[1]) - ord("a") if marked else len(options)
    agrees = marked and number < len(options) and _plain(marked[2] or "") in ("", plain[number])
    return number if agrees else None


def letter_of(answer: str, options: Sequence[str]) -> int:
    """Return the number of the option that an answer key gives, by its letter or else by its text.

    Raises:
        ConfigError: If it is none of the options.

    Example:
        >>> letter_of("B", ["C", "B", "A"]), letter_of("nodule", ["cyst", "nodule"])
        (1, 1)
    """
    number = ord(answer.strip()) - ord("A") if len(answer.strip()) == 1 else -1
    found = number if 0 <= number < len(options) else option_named(answer, options)
    if found is None:
        last = chr(ord("A") + len(options) - 1)
        raise ConfigError(
            f"the answer is none of the {len(options)} options; wanted a letter from A to {last} or an "
            "option's text"
        )
    return found


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = re.sub(r"[^\w%+<>=./-]+", " ", folded).split()
    kept = words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words
    return " ".join(kept).strip(" .")
