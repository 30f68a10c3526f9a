"""How many of the boxes of a data set does an expert's scan propose?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from tqdm import tqdm

from medeyes_monai.experts import Candidate, Expert
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import ImageScene

IOU = 0.5


def hits(candidates: Sequence[Candidate], boxes: Sequence[Box], iou: float = IOU) -> int:
    """Return how many boxes have a candidate of their own; the most confident candidate chooses first."""
    left = list(boxes)
    for candidate in sorted(candidates, key=lambda c: -c.confidence):
        best = max(left, key=candidate.box.iou, default=None)
        if best is not None and candidate.box.iou(best) >= iou:
            left.remove(best)
    return len(boxes) - len(left)


def measure_boxes(
    name: str, expert: Expert, scenes: Iterable[ImageScene], labels: Sequence[str], named: bool = True
) -> dict[str, Any]:
    """Scan each image and count, for each class, the boxes found and the candidates that were right.

    Args:
        name: For the progress bar.
        expert: Who scans.
        scenes: Images whose findings are the boxes.
        labels: Classes that are counted.
        named: Whether only candidates that say the class count; False for experts that name nothing.

    Returns:
        Figures by name; a recall or precision is None where there was no box or no candidate.
    """
    counts = {label: [0, 0, 0] for label in labels}
    number, seconds = 0, 0.0
    for scene in tqdm(scenes, desc=name, unit="image"):
        started = time.perf_counter()
        candidates = expert.scan(scene, "Which cells are there?")
        seconds += time.perf_counter() - started
        number += 1
        for label in labels:
            mine = [c for c in candidates if not named or c.finding == label]
            boxes = [f.box for f in scene.findings if f.label == label]
            for place, value in enumerate((hits(mine, boxes), len(boxes), len(mine))):
                counts[label][place] += value
    found: dict[str, Any] = {"images": number, "seconds per scan": round(seconds / number, 3)}
    for label, (hit, boxes, proposed) in counts.items():
        found[f"{label}: recall"] = percent(hit, boxes)
        found[f"{label}: precision"] = percent(hit, proposed)
        found[f"{label}: boxes"] = boxes
    return found


def percent(part: int, whole: int) -> float | None:
    """Return a share in percent, or None where there is nothing to have a share of."""
    return round(100 * part / whole, 1) if whole else None
