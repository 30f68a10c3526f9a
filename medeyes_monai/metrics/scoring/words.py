"""The words of an answer in the form in which answers are compared."""

# ruff: noqa: SIM905 - lists of words read best as text

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["CARDINALS", "MAX_CHARACTERS", "SPELLINGS", "Word", "fold", "normalise", "words", "words_of"]

SPELLINGS: tuple[tuple[str, ...], ...] = (
    ("%", "percent", "per cent"),
    ("cm", "centimeter", "centimeters", "centimetre", "centimetres"),
    ("mm", "millimeter", "millimeters", "millimetre", "millimetres"),
    ("ml", "milliliter", "milliliters", "millilitre", "millilitres"),
    ("computed tomography", "ct", "computerized tomography", "computerised tomography"),
    ("magnetic resonance imaging", "mri"),
    ("xray", "x ray"),
    ("chest xray", "cxr", "chest x ray"),
    ("diffusion weighted imaging", "dwi"),
    ("fluid attenuated inversion recovery", "flair"),
    ("electrocardiogram", "ecg", "ekg"),
    ("cerebrospinal fluid", "csf"),
    ("central nervous system", "cns"),
    ("gastrointestinal", "gi"),
    ("chronic obstructive pulmonary disease", "copd"),
    ("hepatocellular carcinoma", "hcc"),
    ("inferior vena cava", "ivc"),
    ("superior vena cava", "svc"),
    ("middle cerebral artery", "mca"),
    ("right upper lobe", "rul"),
    ("right middle lobe", "rml"),
    ("right lower lobe", "rll"),
    ("left upper lobe", "lul"),
    ("left lower lobe", "lll"),
    ("right upper quadrant", "ruq"),
    ("right lower quadrant", "rlq"),
    ("left upper quadrant", "luq"),
    ("left lower quadrant", "llq"),
)
"""What is the same: abbreviations that have one reading in answers about images. The first form is compared.

Left out because they have several readings: PA, AP, MS, CA, PE, US, RT, LT, L, R, IV and others.
"""
MAX_CHARACTERS = 10_000
"""Characters of an answer that are read; what follows is not."""
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
CARDINALS: Mapping[str, str] = MappingProxyType(
    {word: str(number) for number, word in enumerate(_SMALL)}
    | {word: str(10 * number) for number, word in enumerate(_TENS, 2)}
)
"""Words for numbers, and the number in digits."""
_NUMBERS = {
    **CARDINALS,
    **dict(zip(_ORDINALS, "1st 2nd 3rd 4th 5th 6th 7th 8th 9th 10th".split(), strict=True)),
}
_BEFORE_ARTICLE = frozenset(
    "as at by for from has have in is of on or to with and are be into near shows was were".split()
)
"""Words after which a lone "a" is an article; elsewhere it may be a name, as in "hepatitis A"."""
_WORD = re.compile(
    r"""
    [0-9]+(?:st|nd|rd|th)\b                                     # 4th
    | [^\W\d_](?:\.[^\W\d_])+(?!\w)                             # C.T., without its last point
    | (?:(?<![\w.)\]%+-])[-+])?(?:[0-9]+(?:[.,:/][0-9]+)*|\.[0-9]+)  # 12, -3.5, .5, 120/80
    | [\u3400-\u9fff\uf900-\ufaff]                             # one Chinese character
    | [^\W_\u3400-\u9fff\uf900-\ufaff]+(?:['\u2019][^\W_]+)*(?:[-+](?![\w.+-]))?  # lung, patient's, her2+
    | [%<>=~\u00b0\u00b1\u2264\u2265]                          # degree, plus-minus, at most, at least
    """,
    re.VERBOSE,
)
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?:[^0-9]|$))")


class Word(NamedTuple):
    """A word in the form in which it is compared, and where it stands in the folded text."""

    text: str
    start: int
    stop: int


def fold(text: str) -> str:
    """Return a text with compatibility forms folded and one kind of minus; capitals stay.

    At most :data:`MAX_CHARACTERS` are read, and as many are returned: folding can make 18 of one.
    """
    folded = unicodedata.normalize("NFKC", text[:MAX_CHARACTERS])[:MAX_CHARACTERS]
    return folded.replace("\N{MINUS SIGN}", "-")


def normalise(text: str) -> str:
    """Return an answer in the form in which answers are compared.

    Compatibility forms, case, white space and punctuation are folded; articles go; numbers up to 99 become
    digits; what :data:`SPELLINGS` lists is written in one way.

    Example:
        >>> normalise(" The  LEFT lung. "), normalise("Two ring-enhancing lesions")
        ('left lung', '2 ring enhancing lesions')
        >>> normalise("Chest X-ray"), normalise("hepatitis A"), normalise("-3.5 per cent")
        ('chest xray', 'hepatitis a', '-3.5 %')
    """
    return " ".join(words(text))


def words(text: str) -> list[str]:
    """Return the words of :func:`normalise`."""
    return [word.text for word in words_of(fold(text))]


def words_of(folded: str) -> list[Word]:
    """Return the words of a text that went through :func:`fold`, with their places in it."""
    found = [
        Word(_plain(match[0]), match.start(), match.end()) for match in _WORD.finditer(folded) if match[0]
    ]
    return _spelled(_counted(_without_articles(found)))


def _plain(word: str) -> str:
    plain = word.casefold().replace("'", "").replace("\u2019", "")
    return plain.replace(".", "") if plain[0].isalpha() else _THOUSANDS.sub("", plain)


def _without_articles(found: Sequence[Word]) -> list[Word]:
    """Leave out articles: words before another word, and "a" only where it can be nothing else."""
    kept = []
    for n, word in enumerate(found[:-1]):
        before = found[n - 1].text if n else None
        lone = word.text == "a" and (before is None or before in _BEFORE_ARTICLE)
        if word.text not in ("the", "an") and not lone:
            kept.append(word)
    return [*kept, *found[-1:]]


def _counted(found: Sequence[Word]) -> list[Word]:
    """Write number words as digits, "twenty one" as 21."""
    done: list[Word] = []
    after_tens = False
    for word in found:
        digits = _NUMBERS.get(word.text)
        unit = digits is not None and len(digits) == 1 and digits != "0"
        if after_tens and unit and digits is not None:
            done[-1] = Word(done[-1].text[0] + digits, done[-1].start, word.stop)
        else:
            done.append(word if digits is None else word._replace(text=digits))
        after_tens = word.text in _TENS
    return done


def _variants() -> dict[str, dict[tuple[str, ...], tuple[str, ...]]]:
    """Return the form that is compared for each other form, by its first word, longest first."""
    pairs = [(tuple(o.split()), tuple(first.split())) for first, *others in SPELLINGS for o in others]
    variants: dict[str, dict[tuple[str, ...], tuple[str, ...]]] = {}
    for other, first in sorted(pairs, key=lambda pair: -len(pair[0])):
        variants.setdefault(other[0], {})[other] = first
    return variants


_VARIANTS = _variants()


def _spelled(found: Sequence[Word]) -> list[Word]:
    """Write what has several forms in the one that is compared."""
    done: list[Word] = []
    place = 0
    while place < len(found):
        length = 1
        forms: tuple[str, ...] = (found[place].text,)
        for other, first in _VARIANTS.get(found[place].text, {}).items():
            if tuple(word.text for word in found[place : place + len(other)]) == other:
                length, forms = len(other), first
                break
        start, stop = found[place].start, found[place + length - 1].stop
        done += [Word(form, start, stop) for form in forms]
        place += length
    return done
