"""Is the whole episode well formed (``r_grammar`` of equation 4)."""

from __future__ import annotations

from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["grammar"]


def grammar(episode: Episode, case: Case) -> float:
    """Return 1 if the episode has no defect, has an answer, and stayed inside the image; else 0."""
    path, shape = episode.trajectory, case.scene.shape
    whole = episode.defect is None and path.answer is not None
    boxes = (*path.boxes, *(call.box for call in path.calls if call.box is not None))
    return float(whole and all(box.is_inside(shape) for box in boxes))
