"""What the tables report: answers, looks, whether looking was real, confidence, and baselines."""

from medeyes_monai.metrics.answers import AnswerMetric, Scores, Section, score
from medeyes_monai.metrics.baseline import majority_accuracy, same_text
from medeyes_monai.metrics.calibration import (
    Calibration,
    CalibrationMetric,
    Selection,
    abstain,
    calibration,
    choose_threshold,
    risk_coverage,
)
from medeyes_monai.metrics.confidence import answer_confidence, turn_confidences
from medeyes_monai.metrics.early_answering import LookGain, look_gain_table, look_gains
from medeyes_monai.metrics.evaluation import EpisodeMetric, Evaluation, evaluate
from medeyes_monai.metrics.faithfulness import (
    Change,
    Laterality,
    answer_change,
    faithfulness_table,
    laterality,
)
from medeyes_monai.metrics.figures import Collected, EpisodeFigures
from medeyes_monai.metrics.grounding import Grounding, GroundingMetric, agreement, is_hit, marked_findings
from medeyes_monai.metrics.intervals import Estimate, estimates
from medeyes_monai.metrics.paired import Paired, compare_runs, mcnemar, paired, score_table
from medeyes_monai.metrics.progression import LookStep, Progression, ProgressionMetric, look_curve, look_table
from medeyes_monai.metrics.raters import cohen_kappa, fleiss_kappa, krippendorff_alpha
from medeyes_monai.metrics.share import Share, pool_groups
from medeyes_monai.metrics.table import Table, compare, compare_table

__all__ = [
    "AnswerMetric",
    "Calibration",
    "CalibrationMetric",
    "Change",
    "Collected",
    "EpisodeFigures",
    "EpisodeMetric",
    "Estimate",
    "Evaluation",
    "Grounding",
    "GroundingMetric",
    "Laterality",
    "LookGain",
    "LookStep",
    "Paired",
    "Progression",
    "ProgressionMetric",
    "Scores",
    "Section",
    "Selection",
    "Share",
    "Table",
    "abstain",
    "agreement",
    "answer_change",
    "answer_confidence",
    "calibration",
    "choose_threshold",
    "cohen_kappa",
    "compare",
    "compare_runs",
    "compare_table",
    "estimates",
    "evaluate",
    "faithfulness_table",
    "fleiss_kappa",
    "is_hit",
    "krippendorff_alpha",
    "laterality",
    "look_curve",
    "look_gain_table",
    "look_gains",
    "look_table",
    "majority_accuracy",
    "marked_findings",
    "mcnemar",
    "paired",
    "pool_groups",
    "risk_coverage",
    "same_text",
    "score",
    "score_table",
    "turn_confidences",
]
