"""What the tables report: accuracy by kind of question, readable text, looks, gaze, and baselines."""

from medeyes_monai.metrics.baseline import majority_accuracy, same_text
from medeyes_monai.metrics.evaluation import EpisodeMetric, Evaluation, evaluate
from medeyes_monai.metrics.share import Share, pool_groups
from medeyes_monai.metrics.table import Table, compare, compare_table

__all__ = [
    "EpisodeMetric",
    "Evaluation",
    "Share",
    "Table",
    "compare",
    "compare_table",
    "evaluate",
    "majority_accuracy",
    "pool_groups",
    "same_text",
]
