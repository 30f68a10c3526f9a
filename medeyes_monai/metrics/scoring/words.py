"""The words of an answer in the form in which answers are compared."""

# ruff: noqa: SIM905 - lists of words read best as text

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["ABBREVIATIONS", "CARDINALS", "Word", "fold", "normalise", "words", "words_of"]

ABBREVIATIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "%": ("percent", "per cent"),
        "cm": ("centimeter", "centimeters", "centimetre", "centimetres"),
        "mm": ("millimeter", "millimeters", "millimetre", "millimetres"),
        "ml": ("milliliter", "milliliters", "millilitre", "millilitres"),
        "ct": ("computed tomography", "computerized tomography", "computerised tomography"),
        "mri": ("magnetic resonance imaging",),
        "xray": ("x ray",),
        "cxr": ("chest x ray", "chest xray"),
        "dwi": ("diffusion weighted imaging",),
        "flair": ("fluid attenuated inversion recovery",),
        "ecg": ("ekg", "electrocardiogram"),
        "csf": ("cerebrospinal fluid",),
        "cns": ("central nervous system",),
        "gi": ("gastrointestinal",),
        "copd": ("chronic obstructive pulmonary disease",),
        "hcc": ("hepatocellular carcinoma",),
        "ivc": ("inferior vena cava",),
        "svc": ("superior vena cava",),
        "mca": ("middle cerebral artery",),
        "rul": ("right upper lobe",),
        "rml": ("right middle lobe",),
        "rll": ("right lower lobe",),
        "lul": ("left upper lobe",),
        "lll": ("left lower lobe",),
        "ruq": ("right upper quadrant",),
        "rlq": ("right lower quadrant",),
        "luq": ("left upper quadrant",),
        "llq": ("left lower quadrant",),
    }
)
"""Abbreviations that have one reading in answers about images, with what they stand for.

Left out because they have several: PA, AP, MS, CA, PE, US, RT, LT, L, R, IV and others.
"""
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
    """Return a text with compatibility forms folded and one kind of minus; capitals stay."""
    return unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-")


def normalise(text: str) -> str:
    """Return an answer in the form in which answers are compared.

    Compatibility forms, case, white space and punctuation are folded; articles go; numbers up to 99 become
    digits; what :data:`ABBREVIATIONS` lists is abbreviated.

    Example:
        >>> normalise(" The  LEFT lung. "), normalise("Two ring-enhancing lesions")
        ('left lung', '2 ring enhancing lesions')
        >>> normalise("Chest X-ray"), normalise("hepatitis A"), normalise("-3.5 per cent")
        ('cxr', 'hepatitis a', '-3.5 %')
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
    return _abbreviated(_counted(_without_articles(found)))


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


def _phrases() -> dict[str, dict[tuple[str, ...], str]]:
    """Return what is abbreviated by its first word, longest first."""
    pairs = [(tuple(phrase.split()), short) for short, phrases in ABBREVIATIONS.items() for phrase in phrases]
    phrases: dict[str, dict[tuple[str, ...], str]] = {}
    for phrase, short in sorted(pairs, key=lambda pair: -len(pair[0])):
        phrases.setdefault(phrase[0], {})[phrase] = short
    return phrases


_PHRASES = _phrases()


def _abbreviated(found: Sequence[Word]) -> list[Word]:
    done: list[Word] = []
    place = 0
    while place < len(found):
        length, short = 1, found[place].text
        for phrase, abbreviation in _PHRASES.get(short, {}).items():
            if tuple(word.text for word in found[place : place + len(phrase)]) == phrase:
                length, short = len(phrase), abbreviation
                break
        done.append(Word(short, found[place].start, found[place + length - 1].stop))
        place += length
    return done
