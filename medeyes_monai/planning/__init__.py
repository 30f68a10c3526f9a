"""What a run needs before it is started: tokens, passes and memory, from a model's shapes alone."""

from medeyes_monai.planning.estimate import Estimate, Estimator
from medeyes_monai.planning.fitting import Fitted, fit, read_memory
from medeyes_monai.planning.settings import RunSettings, read_settings
from medeyes_monai.planning.shapes import Shapes, find_shapes
from medeyes_monai.planning.words import described, table

__all__ = [
    "Estimate",
    "Estimator",
    "Fitted",
    "RunSettings",
    "Shapes",
    "described",
    "find_shapes",
    "fit",
    "read_memory",
    "read_settings",
    "table",
]
