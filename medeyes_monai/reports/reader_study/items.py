"""What a reader is shown: a question, its image, the model's answer, and the path of looks to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from medeyes_monai.errors import ConfigError
from medeyes_monai.geometry import Box
from medeyes_monai.metrics.scoring import answers_match
from medeyes_monai.reports.gaze import OVERVIEW_SIDE, draw_crop, draw_looks, enlarge, png_bytes
from medeyes_monai.reports.reader_study.predictions import Prediction, Questions, case_of
from medeyes_monai.scenes import Case, ImageScene
from medeyes_monai.seeding import numpy_generator
from medeyes_monai.trajectory import Picture, Trajectory
from medeyes_monai.transforms.array import ToPicture

__all__ = ["StudyItem", "StudyLook", "choose_items", "study_item", "why_not"]

MAX_SIDE = 1024
"""Longest side of an image in a questionnaire. Unit: pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class StudyLook:
    """One look of the model.

    Args:
        reasoning: What it wrote before it looked.
        box: Where it looked. Unit: voxels of the scene.
        picture: What it saw, with the look's number. A PNG file.
    """

    reasoning: str
    box: Box
    picture: bytes


@dataclass(frozen=True, slots=True, eq=False)
class StudyItem:
    """One answered question, ready to be shown.

    Args:
        key: Name of the question; only the organiser sees it.
        family: Kind of question; only the organiser sees it.
        question: The question.
        options: Answers to choose from.
        answer: The model's answer.
        reference: The reference answer; only the organiser sees it.
        right: Whether the answer is right by the data's own rule; only the organiser sees it.
        image: The image as it is shown in both conditions, without findings. A PNG file.
        marked: The same with a numbered box for each look; None of a volume, whose sheet is not marked.
        looks: The looks in order.
        reasoning: What the model wrote before its answer.
        convention: How the image is turned, where that is known.
    """

    key: str
    family: str
    question: str
    options: tuple[str, ...]
    answer: str
    reference: str
    right: bool
    image: bytes
    marked: bytes | None
    looks: tuple[StudyLook, ...]
    reasoning: str
    convention: str = ""


VOLUME_CONVENTION = (
    "Slices are seen from the feet: the patient's right is on the left of the picture, the front on top. "
    "Numbers are those of slices, from the feet to the head."
)


def why_not(case: Case, path: Trajectory) -> str:
    """Say why an answered question cannot be in a study; nothing if it can.

    Example:
        >>> from medeyes_monai.scenes import ImageScene
        >>> scene = ImageScene(np.zeros((1, 64, 64), np.uint8), key="a")
        >>> why_not(Case("a", scene, "Is it?", "yes"), Trajectory(answer="yes"))
        'without a look'
    """
    if case.answer is None:
        return "without a reference answer"
    if path.answer is None or not path.answer.strip():
        return "without an answer of the model"
    return "" if path.fixations else "without a look"


def study_item(case: Case, path: Trajectory, sides: str = "") -> StudyItem:
    """Return what is shown of an answered question.

    Pictures are not mirrored or turned. The image has its own resolution, up to :data:`MAX_SIDE`, in both
    conditions, so that a path does not merely bring pixels; looks show what the model saw.

    Args:
        case: The question with its image.
        path: What the model did, boxes in voxels of the scene.
        sides: What readers are told of a picture's left and right, such as on which side of it the patient's
            right is; a picture alone does not say. Of volumes it is known.

    Raises:
        ConfigError: If it cannot be in a study, see :func:`why_not`.
        GeometryError: If a look lies outside the image.
    """
    if reason := why_not(case, path):
        raise ConfigError(f"{case.key}: is {reason}; leave it out of the study")
    flat = len(case.scene.shape) == 2
    image = _shown(case)
    looks = tuple(
        StudyLook(look.reasoning, look.box, png_bytes(draw_crop(case.scene.look(look.box).pixels, number)))
        for number, look in enumerate(path.fixations, start=1)
    )
    return StudyItem(
        key=case.key,
        family=case.family,
        question=case.question,
        options=case.options,
        answer=str(path.answer),
        reference=str(case.answer),
        right=answers_match(str(path.answer), case),
        image=png_bytes(image),
        marked=png_bytes(draw_looks(image, path.boxes, case.scene.shape)) if flat else None,
        looks=looks,
        reasoning=path.reasoning,
        convention=sides if flat else VOLUME_CONVENTION,
    )


def choose_items(
    predictions: Sequence[Prediction],
    data: Questions,
    number: int,
    seed: int,
    *,
    balanced: bool = False,
    sides: str = "",
) -> tuple[list[StudyItem], Counter[str]]:
    """Choose answered questions for a study by chance, and read their images.

    Images are read one after the other until there are enough.

    Args:
        predictions: What the model answered.
        data: The questions that it was asked.
        number: How many are wanted.
        seed: Seed of the choice.
        balanced: Whether as many right as wrong answers are wanted; where one kind has too few, the other
            fills up. The share of right answers in the study then says nothing of the model.
        sides: See :func:`study_item`.

    Returns:
        The chosen ones, fewer where there are not enough; and how many were passed over, by the reason.

    Raises:
        ConfigError: If a prediction belongs to other data.
        GeometryError: If a look lies outside its image.
    """
    quota = {True: number - number // 2, False: number // 2} if balanced else {True: number, False: number}
    chosen: list[StudyItem] = []
    spare: list[Prediction] = []
    passed: Counter[str] = Counter()
    for place in numpy_generator("reader study", "choice", seed).permutation(len(predictions)):
        if len(chosen) == number:
            break
        prediction = predictions[int(place)]
        case = case_of(prediction, data)
        if reason := why_not(case, prediction.path):
            passed[reason] += 1
            continue
        right = answers_match(str(prediction.path.answer), case)
        if quota[right]:
            quota[right] -= 1
            chosen.append(study_item(case, prediction.path, sides))
        else:
            spare.append(prediction)
    more = spare[: number - len(chosen)]
    return [*chosen, *(study_item(case_of(one, data), one.path, sides) for one in more)], passed


def _shown(case: Case) -> Picture:
    """Return the whole image: at its own resolution where it is a picture, else the overview."""
    if not isinstance(case.scene, ImageScene):
        return case.scene.overview().pixels
    picture = Image.fromarray(ToPicture()(case.scene.image))
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(enlarge(np.asarray(picture), OVERVIEW_SIDE))
