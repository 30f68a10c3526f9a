"""Evaluation: any policy on any questions, written down answer by answer, measured and compared."""

from medeyes_monai.evaluation.chat import ChatRespondent
from medeyes_monai.evaluation.compare import compare_predictions
from medeyes_monai.evaluation.evaluator import RecordingEvaluator
from medeyes_monai.evaluation.journal import Journal, read_predictions
from medeyes_monai.evaluation.measures import Measured, measure
from medeyes_monai.evaluation.records import Record
from medeyes_monai.evaluation.respondents import PolicyRespondent, Respondent
from medeyes_monai.evaluation.workflow import under_conditions, write_evaluation

__all__ = [
    "ChatRespondent",
    "Journal",
    "Measured",
    "PolicyRespondent",
    "Record",
    "RecordingEvaluator",
    "Respondent",
    "compare_predictions",
    "measure",
    "read_predictions",
    "under_conditions",
    "write_evaluation",
]
