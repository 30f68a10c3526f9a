"""Numbers with units: reading them and comparing them exactly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

from medeyes_monai.metrics.scoring.words import CARDINALS, fold, normalise

__all__ = ["Quantity", "distance", "read_quantity"]

_MAX_CHARACTERS = 64
"""Longest answer that is read as a number with its unit."""
_NUMBER = re.compile(r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]{1,2})?)\s*(.*)", re.DOTALL)
_UNIT = re.compile(r"(?:(?:[^\W\d_]+|[%°][^\W\d_]*)(?:/[^\W\d_]+)?\^?[23]?)?")
_SPELLINGS = {
    "mm": "millimeter millimeters millimetre millimetres",
    "cm": "centimeter centimeters centimetre centimetres",
    "m": "meter meters metre metres",
    "um": "μm micrometer micrometers micrometre micrometres micron microns",
    "ml": "cc cm3 cm^3 ccm milliliter milliliters millilitre millilitres",
    "l": "liter liters litre litres",
    "mm3": "mm^3",
    "mm2": "mm^2",
    "cm2": "cm^2",
    "hu": "hounsfield",
    "%": "percent",
    "°": "deg degree degrees",
}
_NAMES = {other: unit for unit, others in _SPELLINGS.items() for other in others.split()} | {
    "hounsfield unit": "hu",
    "hounsfield units": "hu",
    "per cent": "%",
}
_FACTORS: Mapping[str, tuple[str, Fraction]] = MappingProxyType(
    {
        "um": ("length", Fraction(1, 1000)),
        "mm": ("length", Fraction(1)),
        "cm": ("length", Fraction(10)),
        "m": ("length", Fraction(1000)),
        "mm2": ("area", Fraction(1)),
        "cm2": ("area", Fraction(100)),
        "mm3": ("volume", Fraction(1, 1000)),
        "ml": ("volume", Fraction(1)),
        "l": ("volume", Fraction(1000)),
    }
)
"""What a unit measures, and how many mm, mm2 or ml one is. All other units are measures of their own."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit.

    Args:
        value: The number, exact.
        unit: Its unit in one spelling, empty where there is none.
    """

    value: Fraction
    unit: str = ""


def read_quantity(text: str) -> Quantity | None:
    """Read a number with a decimal point and perhaps a unit, or None if the text is something else.

    Whole numbers up to 99 may be words. Nothing may stand before the number but a sign.

    Example:
        >>> read_quantity("12.5 Millimeters")
        Quantity(value=Fraction(25, 2), unit='mm')
        >>> read_quantity("twelve cc").unit, read_quantity("about 12")
        ('ml', None)
    """
    if len(text) > _MAX_CHARACTERS:
        return None
    folded = fold(text).casefold().strip()
    match = _NUMBER.fullmatch(folded) or _NUMBER.fullmatch(_spelled(folded))
    if match is None:
        return None
    unit = _NAMES.get(match[2].rstrip("."), match[2].rstrip("."))
    return Quantity(Fraction(match[1]), unit) if _UNIT.fullmatch(unit) else None


def distance(given: Quantity, wanted: Quantity) -> Fraction | None:
    """Return how far a quantity is from another, in the other's unit, or None if they cannot be compared.

    Lengths, areas and volumes are converted. One without a unit is taken to be in the unit of the other.

    Example:
        >>> distance(Quantity(Fraction(1), "cm"), Quantity(Fraction(12), "mm"))
        Fraction(2, 1)
        >>> distance(Quantity(Fraction(1), "hu"), Quantity(Fraction(1), "%")) is None
        True
    """
    if not given.unit or not wanted.unit or given.unit == wanted.unit:
        return abs(given.value - wanted.value)
    if given.unit not in _FACTORS or wanted.unit not in _FACTORS:
        return None
    (what, factor), (other, least) = _FACTORS[given.unit], _FACTORS[wanted.unit]
    return abs(given.value * factor / least - wanted.value) if what == other else None


def _spelled(folded: str) -> str:
    """Return a text that begins with a number in words with the number in digits."""
    first = re.match(r"[a-z]*", folded)
    return normalise(folded) if first and first[0] in CARDINALS else ""
