"""The way of a study as plain functions: folder, series, volume, focus, results."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from monai.data import MetaTensor

from medeyes_monai.deploy.model import BundleModel
from medeyes_monai.deploy.questions import Question
from medeyes_monai.deploy.result import FocusResult, Grid, result_of
from medeyes_monai.deploy.source import Source, read_sources
from medeyes_monai.deploy.study import Series, choose_series, read_study
from medeyes_monai.deploy.writers import write_results
from medeyes_monai.errors import ConfigError, UnreadableImageError
from medeyes_monai.io import DEFAULT_MAX_VOXELS, as_stored, read_image, read_volume
from medeyes_monai.scenes import Case

__all__ = ["Answered", "answer_image", "answer_series", "answer_study", "select", "sources_of", "write_study"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """A series and what was found in it.

    Args:
        source: The series.
        results: In the order of the questions, and of the slices of a question.
    """

    source: Source
    results: tuple[FocusResult, ...]


def select(series: Sequence[Series], questions: Sequence[Question]) -> list[tuple[Series, list[Question]]]:
    """Group questions by the series that they mean.

    Raises:
        ConfigError: If a question means no series, or several.
    """
    chosen: dict[tuple[Path, ...], tuple[Series, list[Question]]] = {}
    for question in questions:
        one = choose_series(series, question)
        chosen.setdefault(one.files, (one, []))[1].append(question)
    return list(chosen.values())


def sources_of(
    selected: Sequence[tuple[Series, list[Question]]], max_voxels: int = DEFAULT_MAX_VOXELS
) -> list[tuple[Source, list[Question]]]:
    """Sort the files of each series into a volume, or take its radiographs one by one.

    Raises:
        UnreadableImageError: If a series makes no volume.
    """
    return [
        (source, asked)
        for series, asked in selected
        for source in read_sources(series.files, max_voxels=max_voxels)
    ]


def answer_series(model: BundleModel, source: Source, questions: Sequence[Question]) -> Answered:
    """Ask questions about a series.

    A model that reads volumes is asked once about the whole; one that reads pictures about the slices that a
    question names, each by itself.

    Args:
        model: The model.
        source: The series.
        questions: The questions.

    Raises:
        UnreadableImageError: If the pixels cannot be read.
        ConfigError: If a slice is asked for that is not there, or a model of volumes about a radiograph.
    """
    results: list[FocusResult] = []
    if model.reads_volumes:
        if not source.grid.placed:
            raise ConfigError("the model reads volumes, and this is a radiograph; load one of pictures")
        image = read_volume(source.paths)
        results += _about_volume(model, image, source.grid, questions)
    else:
        slices = _Slices(source)
        for question in questions:
            results += _about_slices(model, slices.read, source.grid, question)
    for result in results:
        logger.info("%s: %d looks, %s", result.name, len(result.looks), result.defect or "answered")
    return Answered(source, tuple(results))


def answer_study(
    model: BundleModel,
    folder: str | os.PathLike[str],
    questions: Sequence[Question],
    *,
    max_voxels: int = DEFAULT_MAX_VOXELS,
) -> list[Answered]:
    """Ask questions about the series of a folder, each about the one that its rule means.

    Raises:
        UnreadableImageError: If the folder holds no readable series.
        ConfigError: If a question means no series, or several.
    """
    if not questions:
        raise ConfigError("there is no question")
    pairs = select(read_study(folder, max_voxels=max_voxels), questions)
    sources = sources_of(pairs, max_voxels)
    return [answer_series(model, source, asked) for source, asked in sources]


def answer_image(
    model: BundleModel,
    file: str | os.PathLike[str],
    question: Question,
    *,
    max_voxels: int = DEFAULT_MAX_VOXELS,
) -> list[FocusResult]:
    """Ask a question about a picture or a volume that is not DICOM (PNG, JPEG, NIfTI, NRRD).

    Boxes are in voxels of the image as :func:`read_image` and :func:`read_volume` return it.

    Raises:
        UnreadableImageError: If it cannot be read.
        ConfigError: If the model reads volumes and the file is a picture.
    """
    image = read_image(file, max_voxels=max_voxels)
    if image.ndim == 3:
        if model.reads_volumes:
            raise ConfigError("the model reads volumes, and this is a picture; send a series or NIfTI")
        columns, rows = (int(n) for n in image.shape[1:])
        grid = Grid((columns, rows, 1), np.eye(4), placed=False)
        return _about_slices(model, lambda _: image, grid, question)
    volume = read_volume(file, max_voxels=max_voxels)
    grid = _grid_of(volume)
    if model.reads_volumes:
        return _about_volume(model, volume, grid, [question])
    return _about_slices(model, lambda k: volume[..., k], grid, question)


def write_study(folder: str | os.PathLike[str], answered: Sequence[Answered]) -> list[Path]:
    """Write the results of each series into a folder of its own, ``series_1`` and so on: all or none.

    Raises:
        ConfigError: If a folder holds something already.
        OSError: If one cannot be written; nothing is then left behind.
    """
    written: dict[Path, list[Path]] = {}
    try:
        for number, one in enumerate(answered, start=1):
            place = Path(folder, f"series_{number}")
            written[place] = write_results(place, one.results, one.source)
    except BaseException:
        for place in written:
            shutil.rmtree(place, ignore_errors=True)
        raise
    return [path for files in written.values() for path in files]


def _about_volume(
    model: BundleModel, image: MetaTensor, grid: Grid, questions: Sequence[Question]
) -> list[FocusResult]:
    scene = model.scene(image, key="volume", findings=())
    affine = np.asarray(scene.image.affine, dtype=np.float64)  # type: ignore[attr-defined]
    episodes = model.ask([Case(q.name, scene, q.question, options=q.options) for q in questions])
    return [
        result_of(
            episode,
            name=question.name,
            question=question.question,
            grid=grid,
            decode=model.policy.decode,
            scene_affine=affine,
            graded=model.grades,
        )
        for episode, question in zip(episodes, questions, strict=True)
    ]


def _about_slices(
    model: BundleModel, read: Callable[[int], MetaTensor], grid: Grid, question: Question
) -> list[FocusResult]:
    numbers = question.chosen(grid.shape[2])
    cases = [
        Case(
            f"slice {k}",
            model.scene(read(k), key=f"slice {k}", findings=()),
            question.question,
            options=question.options,
        )
        for k in numbers
    ]
    return [
        result_of(
            episode,
            name=question.name,
            question=question.question,
            grid=grid,
            decode=model.policy.decode,
            slice_index=k,
            graded=model.grades,
        )
        for episode, k in zip(model.ask(cases), numbers, strict=True)
    ]


class _Slices:
    """Reads the slices of a series as pictures: files of one frame alone, others through their volume."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._volume: MetaTensor | None = None

    def read(self, k: int) -> MetaTensor:
        """Return slice ``k``, ``(1, columns, rows)``."""
        frame = self._source.frames[k]
        if len(self._source.paths) == len(self._source.frames):
            image = read_image(frame.path)
            if tuple(image.shape) != (1, *frame.size):
                raise UnreadableImageError(f"{frame.path.name}: unpacks to another size than it declares")
            return image
        if self._volume is None:
            self._volume = as_stored(read_volume(self._source.paths))
        return self._volume[..., k]


def _grid_of(volume: MetaTensor) -> Grid:
    columns, rows, slices = (int(n) for n in volume.shape[1:])
    return Grid((columns, rows, slices), np.asarray(volume.affine, dtype=np.float64))
