"""A reader study: blinded questionnaires from an evaluation, and what readers' answers say.

Each reader judges a model's answers, half of them with its looks shown; which half changes from reader to
reader. :func:`write_questionnaires` writes a page for each reader, :func:`write_key` the key, elsewhere;
:func:`read_answers` and :func:`analyse` join what readers send back.
"""

from medeyes_monai.reports.reader_study.analysis import analyse
from medeyes_monai.reports.reader_study.answers import RatedCase, read_answers
from medeyes_monai.reports.reader_study.design import Key, design_study, read_key, write_key
from medeyes_monai.reports.reader_study.findings import StudyResults
from medeyes_monai.reports.reader_study.items import StudyItem, choose_items, study_item
from medeyes_monai.reports.reader_study.predictions import Prediction, predictions_of, read_predictions
from medeyes_monai.reports.reader_study.questionnaire import questionnaire, write_questionnaires
from medeyes_monai.reports.reader_study.results import write_results

__all__ = [
    "Key",
    "Prediction",
    "RatedCase",
    "StudyItem",
    "StudyResults",
    "analyse",
    "choose_items",
    "design_study",
    "predictions_of",
    "questionnaire",
    "read_answers",
    "read_key",
    "read_predictions",
    "study_item",
    "write_key",
    "write_questionnaires",
    "write_results",
]
