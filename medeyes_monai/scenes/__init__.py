"""Images that can be looked at."""

from medeyes_monai.scenes.base import Case, Finding, Scene, Scoring, View
from medeyes_monai.scenes.blanked import BlankedScene
from medeyes_monai.scenes.conditions import CONDITIONS, NEEDS_LOOKS, under_condition
from medeyes_monai.scenes.erased import EditableScene, only_regions, shown_regions, without_regions
from medeyes_monai.scenes.image import ImageScene
from medeyes_monai.scenes.intensity import CT_TASKS
from medeyes_monai.scenes.mirrored import mirror_box, mirror_case, mirror_scene, mirror_text
from medeyes_monai.scenes.misplaced import OtherImageScene, RandomPlaceScene
from medeyes_monai.scenes.sheet import Panel, Sheet
from medeyes_monai.scenes.streamed import SlabSource, StreamedScene
from medeyes_monai.scenes.volume import VolumeScene
from medeyes_monai.scenes.wrapped import WrappedScene

__all__ = [
    "CONDITIONS",
    "CT_TASKS",
    "NEEDS_LOOKS",
    "BlankedScene",
    "Case",
    "EditableScene",
    "Finding",
    "ImageScene",
    "OtherImageScene",
    "Panel",
    "RandomPlaceScene",
    "Scene",
    "Scoring",
    "Sheet",
    "SlabSource",
    "StreamedScene",
    "View",
    "VolumeScene",
    "WrappedScene",
    "mirror_box",
    "mirror_case",
    "mirror_scene",
    "mirror_text",
    "only_regions",
    "shown_regions",
    "under_condition",
    "without_regions",
]
