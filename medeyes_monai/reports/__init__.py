"""Pictures and HTML of a gaze path, and curves of a training run."""

from medeyes_monai.reports.card import write_card
from medeyes_monai.reports.curves import curves_png, read_records
from medeyes_monai.reports.focus import write_focus_report
from medeyes_monai.reports.gaze import draw_crop, draw_overview, gaze_path_figure, png_bytes
from medeyes_monai.reports.page import write_report
from medeyes_monai.reports.summary import write_summary

__all__ = [
    "curves_png",
    "draw_crop",
    "draw_overview",
    "gaze_path_figure",
    "png_bytes",
    "read_records",
    "write_card",
    "write_focus_report",
    "write_report",
    "write_summary",
]
