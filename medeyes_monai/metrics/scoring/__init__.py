"""How answers are compared with references: the data sets' own rules, and published protocols by name."""

from medeyes_monai.metrics.scoring.options import is_option, named_option
from medeyes_monai.metrics.scoring.overlap import OVERLAPS, bleu, overlap
from medeyes_monai.metrics.scoring.polarity import polarity, stated
from medeyes_monai.metrics.scoring.presets import (
    OWN,
    PRESETS,
    AnswerType,
    Judgement,
    Preset,
    answer_type,
    preset,
)
from medeyes_monai.metrics.scoring.quantities import Quantity, distance, read_quantity
from medeyes_monai.metrics.scoring.rules import answers_match
from medeyes_monai.metrics.scoring.words import SPELLINGS, normalise, words

__all__ = [
    "OVERLAPS",
    "OWN",
    "PRESETS",
    "SPELLINGS",
    "AnswerType",
    "Judgement",
    "Preset",
    "Quantity",
    "answer_type",
    "answers_match",
    "bleu",
    "distance",
    "is_option",
    "named_option",
    "normalise",
    "overlap",
    "polarity",
    "preset",
    "read_quantity",
    "stated",
    "words",
]
