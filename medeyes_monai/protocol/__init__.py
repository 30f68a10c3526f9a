"""The episode's text: written by ``render``, read by ``parse``, which accepts any string."""

from medeyes_monai.protocol.actions import GAZE, MAX_ACTION_CHARACTERS, MAX_COORDINATE, ToolForm
from medeyes_monai.protocol.turns import (
    ACTION,
    ANSWER,
    DEFECTS,
    FEEDBACK,
    REASONING,
    TAGS,
    Defect,
    Parsed,
    Turn,
    parse,
    parse_turn,
    render,
    render_answer,
    render_call,
    render_fixation,
    render_step,
)

__all__ = [
    "ACTION",
    "ANSWER",
    "DEFECTS",
    "FEEDBACK",
    "GAZE",
    "MAX_ACTION_CHARACTERS",
    "MAX_COORDINATE",
    "REASONING",
    "TAGS",
    "Defect",
    "Parsed",
    "ToolForm",
    "Turn",
    "parse",
    "parse_turn",
    "render",
    "render_answer",
    "render_call",
    "render_fixation",
    "render_step",
]
