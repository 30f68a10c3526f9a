"""A question seen in a mirror: left and right exchanged in the image, the question and the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from medeyes_monai.geometry import Box
from medeyes_monai.scenes.base import Case, Scene
from medeyes_monai.scenes.erased import editable

__all__ = ["mirror_box", "mirror_case", "mirror_scene", "mirror_text"]

_PAIRS = (
    ("left", "right"),
    ("lul", "rul"),
    ("lll", "rll"),
    ("luq", "ruq"),
    ("llq", "rlq"),
    ("左", "右"),
)
_OTHER = {word: other for pair in _PAIRS for word, other in (pair, pair[::-1])}
_SIDE = re.compile(r"左|右|(?<![^\W_])(?:left|right|[lr]ul|[lr]ll|[lr][ul]q)", re.IGNORECASE)
"""Words of a side at the beginning of a word, so that "leftmost" and "right-sided" count."""


def mirror_text(text: str) -> str:
    """Return a text with the words for left and right exchanged, capitals kept.

    "Right" in the sense of "correct" is exchanged as well.

    Example:
        >>> mirror_text("Left lung, right-sided; RLL; bright")
        'Right lung, left-sided; LLL; bright'
    """
    return _SIDE.sub(lambda match: _as_written(_OTHER[match[0].lower()], match[0]), text)


def mirror_box(box: Box, shape: Sequence[int]) -> Box:
    """Return a box as seen in a mirror, along the first axis.

    Example:
        >>> mirror_box(Box((0, 5), (10, 9)), (100, 50))
        Box(start=(90, 5), stop=(100, 9))
    """
    return Box((shape[0] - box.stop[0], *box.start[1:]), (shape[0] - box.start[0], *box.stop[1:]))


def mirror_scene(scene: Scene) -> Scene:
    """Return a scene with image and findings mirrored along the first axis, labels included.

    The first axis is a patient's left and right in frontal and axial pictures; in a lateral view it is not.
    Letters that were burnt into the picture are mirrored too.

    Raises:
        ConfigError: If the scene's voxels cannot be exchanged.
    """
    whole = editable(scene)
    findings = [
        replace(found, box=mirror_box(found.box, scene.shape), label=mirror_text(found.label))
        for found in scene.findings
    ]
    return whole.with_image(torch.flip(whole.image, dims=[1]), findings)


def mirror_case(case: Case) -> Case:
    """Return a question about the mirrored image, with its sides exchanged in question, options and answer.

    So the answer is right of the mirrored image wherever nothing but the side matters. What lies on one side
    by nature (heart, liver) does not: leave such questions out.

    Raises:
        ConfigError: If the scene's voxels cannot be exchanged.
    """
    return replace(
        case,
        scene=mirror_scene(case.scene),
        question=mirror_text(case.question),
        answer=None if case.answer is None else mirror_text(case.answer),
        options=tuple(map(mirror_text, case.options)),
    )


def _as_written(word: str, model: str) -> str:
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word
