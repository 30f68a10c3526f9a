"""GRN, the Gaze-guided Reasoning Navigator: turns a frozen expert into a search path (method, section 2)."""

from medeyes_monai.navigator.decisions import Decision, Reason, Search
from medeyes_monai.navigator.search import Choose, Navigator, conclusion
from medeyes_monai.navigator.slabs import KeepSlab, SlabExpert, joined, slabs_of
from medeyes_monai.navigator.state import (
    Mode,
    NavigatorState,
    after_drill,
    after_scan,
    closer,
    relative_gain,
    switch,
)

__all__ = [
    "Choose",
    "Decision",
    "KeepSlab",
    "Mode",
    "Navigator",
    "NavigatorState",
    "Reason",
    "Search",
    "SlabExpert",
    "after_drill",
    "after_scan",
    "closer",
    "conclusion",
    "joined",
    "relative_gain",
    "slabs_of",
    "switch",
]
