"""The application: folder, series, volume, focus, results."""

from __future__ import annotations

import os
from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application

from medeyes_monai.deploy.model import find_bundle, load_bundle
from medeyes_monai.deploy.operators import (
    FocusOperator,
    ResultsWriterOperator,
    SeriesSelectorOperator,
    SeriesToSourceOperator,
    StudyLoaderOperator,
)
from medeyes_monai.deploy.questions import read_questions

__all__ = ["FocusApp"]

QUESTIONS = "MEDEYES_QUESTIONS"
"""Environment variable with the path of a list of questions; without it, the list beside this file."""
POLICY = "MEDEYES_POLICY"
"""Environment variable with the folder or hub name of a policy or adapter; without it, the bundle's."""


class FocusApp(Application):
    """Asks a bundle's policy the questions of a list about the study in a folder.

    Input, output and model are those of the SDK: ``-i``, ``-o`` and ``-m``, or ``HOLOSCAN_INPUT_PATH``,
    ``HOLOSCAN_OUTPUT_PATH`` and ``HOLOSCAN_MODEL_PATH``.
    """

    def compose(self) -> None:
        """Build the operators and join them."""
        context = Application.init_app_context(self.argv)
        listed = os.environ.get(QUESTIONS) or Path(__file__).with_name("questions.yaml")
        once = CountCondition(self, 1)
        loader = StudyLoaderOperator(self, once, name="loader", input_folder=Path(context.input_path))
        selector = SeriesSelectorOperator(self, name="selector", questions=read_questions(listed))
        volume = SeriesToSourceOperator(self, name="volume")
        model = load_bundle(find_bundle(context.model_path), policy=os.environ.get(POLICY))
        focus = FocusOperator(self, name="focus", model=model)
        writer = ResultsWriterOperator(self, name="writer", output_folder=Path(context.output_path))
        self.add_flow(loader, selector, {("series_list", "series_list")})
        self.add_flow(selector, volume, {("selected", "selected")})
        self.add_flow(volume, focus, {("sources", "sources")})
        self.add_flow(focus, writer, {("answered", "answered")})
