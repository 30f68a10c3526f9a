"""The pipeline as operators of the MONAI Deploy App SDK: each is a thin wrap of one plain function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from medeyes_monai.deploy.model import BundleModel
from medeyes_monai.deploy.pipeline import answer_series, select, sources_of, write_study
from medeyes_monai.deploy.questions import Question
from medeyes_monai.deploy.study import read_study

__all__ = [
    "FocusOperator",
    "ResultsWriterOperator",
    "SeriesSelectorOperator",
    "SeriesToSourceOperator",
    "StudyLoaderOperator",
]


class StudyLoaderOperator(Operator):
    """Finds the image series of a folder.

    Named output:
        series_list: list of :class:`~medeyes_monai.deploy.study.Series`.

    Args:
        fragment: The application.
        input_folder: Folder with DICOM files, searched with the folders inside it.
        args: For the operator of the SDK.
        kwargs: For the operator of the SDK.
    """

    def __init__(self, fragment: Fragment, *args: Any, input_folder: Path, **kwargs: Any) -> None:
        """Remember the folder; the SDK's constructor comes last."""
        self.input_folder = input_folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.output("series_list")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Read the headers."""
        op_output.emit(read_study(self.input_folder), "series_list")


class SeriesSelectorOperator(Operator):
    """Chooses the series that each question means.

    Named input:
        series_list: list of :class:`~medeyes_monai.deploy.study.Series`.

    Named output:
        selected: list of pairs of a series and its questions.

    Args:
        fragment: The application.
        questions: What is asked.
        args: For the operator of the SDK.
        kwargs: For the operator of the SDK.
    """

    def __init__(self, fragment: Fragment, *args: Any, questions: Sequence[Question], **kwargs: Any) -> None:
        """Remember the questions; the SDK's constructor comes last."""
        self.questions = tuple(questions)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("series_list")
        spec.output("selected")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Choose."""
        op_output.emit(select(op_input.receive("series_list"), self.questions), "selected")


class SeriesToSourceOperator(Operator):
    """Sorts the slices of each series into a volume, and refuses those that make none.

    Named input:
        selected: list of pairs of a series and its questions.

    Named output:
        sources: list of pairs of a :class:`~medeyes_monai.deploy.source.Source` and its questions.
    """

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("selected")
        spec.output("sources")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Sort."""
        op_output.emit(sources_of(op_input.receive("selected")), "sources")


class FocusOperator(Operator):
    """Lets the policy of a bundle look at each series and answer.

    Named input:
        sources: list of pairs of a :class:`~medeyes_monai.deploy.source.Source` and its questions.

    Named output:
        answered: list of :class:`~medeyes_monai.deploy.pipeline.Answered`: answers, path and focus map.

    Args:
        fragment: The application.
        model: The bundle, see :func:`~medeyes_monai.deploy.model.load_bundle`.
        args: For the operator of the SDK.
        kwargs: For the operator of the SDK.
    """

    def __init__(self, fragment: Fragment, *args: Any, model: BundleModel, **kwargs: Any) -> None:
        """Remember the model; the SDK's constructor comes last."""
        self.model = model
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("sources")
        spec.output("answered")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Ask."""
        pairs = op_input.receive("sources")
        op_output.emit([answer_series(self.model, *pair) for pair in pairs], "answered")


class ResultsWriterOperator(Operator):
    """Writes SR, SEG, presentation states, PDF and JSON of each series into a folder of its own.

    Named input:
        answered: list of :class:`~medeyes_monai.deploy.pipeline.Answered`.

    Args:
        fragment: The application.
        output_folder: Where the folders of results appear, each complete or not at all.
        args: For the operator of the SDK.
        kwargs: For the operator of the SDK.
    """

    def __init__(self, fragment: Fragment, *args: Any, output_folder: Path, **kwargs: Any) -> None:
        """Remember the folder; the SDK's constructor comes last."""
        self.output_folder = output_folder
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("answered")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write."""
        write_study(self.output_folder, op_input.receive("answered"))
