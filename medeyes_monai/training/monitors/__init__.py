"""Handlers that watch a training for known ways to fail.

Each goes into the trainer's list of handlers *before* those that write: it adds its measure and a warning of
0 or 1 to ``engine.state.output``, so that step log, TensorBoard and report show them like any diagnostic. The
log gets one warning when a failure begins to show, and another only after it was gone. What a monitor
remembers begins anew when a run is resumed.
"""

from medeyes_monai.training.monitors.base import Monitor, Verdict, WindowMonitor
from medeyes_monai.training.monitors.probes import MemorisedPaths, Probe, SuperficialFocusing
from medeyes_monai.training.monitors.windows import (
    EntropyCollapse,
    ExpertCopying,
    ExpertReliance,
    Interference,
    NoSignal,
    RewardCollapse,
    VanishingLooks,
)

__all__ = [
    "EntropyCollapse",
    "ExpertCopying",
    "ExpertReliance",
    "Interference",
    "MemorisedPaths",
    "Monitor",
    "NoSignal",
    "Probe",
    "RewardCollapse",
    "SuperficialFocusing",
    "VanishingLooks",
    "Verdict",
    "WindowMonitor",
]
