"""Pictures of looks into a volume: linked planes, and the path across slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medeyes_monai.errors import GeometryError
from medeyes_monai.geometry import Box
from medeyes_monai.reports.gaze import COLOURS
from medeyes_monai.scenes import Panel, StreamedScene, VolumeScene
from medeyes_monai.trajectory import Picture

__all__ = ["LETTERS", "draw_path", "draw_planes"]

LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
"""Which of the patient's directions lies at the left, at the right, above and below; A is front, S head."""
SIDE = 260
"""Longest side of a view. Unit: pixels."""
MARGIN = 24
"""Around a view, for the letters. Unit: pixels."""
CAPTION = 18
"""Height of the line above a view. Unit: pixels."""
CHART = 120
"""Least columns of the chart of slices. Unit: pixels."""
STEP = 34
"""Columns of a look in the chart of slices. Unit: pixels."""
GREY, WHITE = "#9a9a9a", "#ffffff"

_Corners = tuple[float, float, float, float]


def draw_planes(scene: VolumeScene | StreamedScene, box: Box, number: int) -> Picture:
    """Draw the three planes through the middle of a look, with its box and the traces of the other planes.

    Args:
        scene: The volume.
        box: Where the look went. Unit: voxels of the scene.
        number: Number of the look, from 1.

    Returns:
        ``uint8 (rows, columns, 3)``: axial, coronal and sagittal, each with the number of its slice and the
        patient's directions at its edges.

    Raises:
        GeometryError: If the box is not inside the volume.
    """
    voxel = _middle(box)
    pixels, sheet = scene.planes(voxel, SIDE)
    canvas, draw = _canvas(len(sheet.panels), sheet.size)
    for index, panel in enumerate(sheet.panels):
        left = _put(canvas, draw, pixels, panel, index)
        through = panel.region.start[_through(panel)]
        _say(
            draw, (left, CAPTION / 2), f"{panel.plane}, {'slice' if index == 0 else 'plane'} {through}", "lm"
        )
        _cross(draw, panel, voxel.centre, left)
        _frame(draw, _on_panel(panel, box, left), number)
    return np.asarray(canvas)


def draw_path(scene: VolumeScene | StreamedScene, boxes: Sequence[Box]) -> Picture:
    """Draw a path across slices: boxes on a coronal plane, and beside it which slices each look took in.

    Args:
        scene: The volume.
        boxes: Where the looks went, in order; the plane is that through the middle of the last. Unit: voxels
            of the scene.

    Returns:
        ``uint8 (rows, columns, 3)``. Both parts share their rows, the head on top.

    Raises:
        GeometryError: If there is no look, or a box is not inside the volume.
    """
    if not boxes or not all(box.is_inside(scene.shape) for box in boxes):
        raise GeometryError(f"a path has boxes inside the volume, got {[box.corners for box in boxes]}")
    pixels, sheet = scene.planes(_middle(boxes[-1]), SIDE)
    panel = sheet.panels[1]
    wide, high = panel.place.extent
    size = (3 * MARGIN + wide + max(STEP * (len(boxes) + 1), CHART), CAPTION + 2 * MARGIN + high)
    canvas = Image.new("RGB", size)
    draw = ImageDraw.Draw(canvas)
    left = _put(canvas, draw, pixels, panel, 0)
    _say(draw, (left, CAPTION / 2), f"coronal, plane {panel.region.start[1]}", "lm")
    corners = [_on_panel(panel, box, left) for box in boxes]
    middles = [((a + c) / 2, (b + d) / 2) for a, b, c, d in corners]
    if len(middles) > 1:
        draw.line(middles, fill=WHITE, width=1)
    for number, corner in enumerate(corners, start=1):
        _frame(draw, corner, number)
    _chart(draw, boxes, corners, scene.shape[2], left + wide + 2 * MARGIN, high)
    return np.asarray(canvas)


def _middle(box: Box) -> Box:
    """Return the voxel in the middle of a box."""
    start = tuple(int(c) for c in box.centre)
    return Box(start, tuple(c + 1 for c in start))


def _canvas(panels: int, size: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("RGB", (size[0] + 2 * MARGIN * panels, size[1] + 2 * MARGIN + CAPTION))
    return canvas, ImageDraw.Draw(canvas)


def _put(canvas: Image.Image, draw: ImageDraw.ImageDraw, pixels: Picture, panel: Panel, index: int) -> int:
    """Paste a view with its letters; return its first column."""
    (x1, y1), (x2, y2) = panel.place.start, panel.place.stop
    left, top = (x1 if index else 0) + MARGIN * (2 * index + 1), CAPTION + MARGIN
    canvas.paste(Image.fromarray(pixels[y1:y2, x1:x2]), (left, top))
    wide, high = x2 - x1, y2 - y1
    places = (
        (left - MARGIN / 2, top + high / 2),
        (left + wide + MARGIN / 2, top + high / 2),
        (left + wide / 2, top - MARGIN / 2),
        (left + wide / 2, top + high + MARGIN / 2),
    )
    for place, letter in zip(places, LETTERS[panel.plane], strict=True):
        _say(draw, place, letter, "mm", 15)
    return left


def _on_panel(panel: Panel, box: Box, left: float) -> _Corners:
    """Return the corners of a box on the canvas."""
    ends = [panel.to_pixel(corner) for corner in (box.start, box.stop)]
    (x1, x2), (y1, y2) = (sorted(pair) for pair in zip(*ends, strict=True))
    by = left - panel.place.start[0]
    down = CAPTION + MARGIN - panel.place.start[1]
    return x1 + by, y1 + down, x2 + by - 1, y2 + down - 1


def _cross(draw: ImageDraw.ImageDraw, panel: Panel, point: Sequence[float], left: float) -> None:
    """Draw where the other two planes cut this one."""
    x, y = panel.to_pixel(point)
    wide, high = panel.place.extent
    x, y = x + left - panel.place.start[0], y + CAPTION + MARGIN - panel.place.start[1]
    top = CAPTION + MARGIN
    draw.line((x, top, x, top + high - 1), fill=GREY, width=1)
    draw.line((left, y, left + wide - 1, y), fill=GREY, width=1)


def _frame(draw: ImageDraw.ImageDraw, corners: _Corners, number: int) -> None:
    x1, y1, x2, y2 = corners
    x2, y2 = max(x1 + 2, x2), max(y1 + 2, y2)
    colour = COLOURS[(number - 1) % len(COLOURS)]
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black", width=1)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=2)
    top = y1 - 15 if y1 - 15 >= CAPTION + MARGIN else y1  # never over the letters above
    draw.rectangle((x1, top, x1 + 14, top + 14), fill=colour)
    draw.text((x1 + 7, top + 7), str(number), fill="black", font=ImageFont.load_default(size=12), anchor="mm")


def _chart(
    draw: ImageDraw.ImageDraw,
    boxes: Sequence[Box],
    corners: Sequence[_Corners],
    slices: int,
    left: int,
    high: int,
) -> None:
    """Draw the slices of each look as a bar, in the rows of the coronal view."""
    top = CAPTION + MARGIN
    _say(draw, (left, CAPTION / 2), "slices of each look", "lm")
    draw.line((left, top, left, top + high - 1), fill=GREY, width=1)
    for slice_number, row in ((slices - 1, top), (0, top + high - 1)):
        _say(draw, (left - 3, row), str(slice_number), "rm", 11)
    for number, (box, corner) in enumerate(zip(boxes, corners, strict=True), start=1):
        x, colour = left + STEP * number, COLOURS[(number - 1) % len(COLOURS)]
        y1, y2 = corner[1], max(corner[1] + 2, corner[3])
        draw.rectangle((x - 7, y1, x + 7, y2), fill=colour)
        _say(draw, (x, y1 - 7), str(box.stop[2] - 1), "mm", 11)
        _say(draw, (x, y2 + 8), str(box.start[2]), "mm", 11)
        _say(draw, (x, top + high + MARGIN - 5), str(number), "mm", 12)


def _through(panel: Panel) -> int:
    return {"axial": 2, "coronal": 1, "sagittal": 0}[panel.plane]


def _say(
    draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, anchor: str, size: int = 12
) -> None:
    draw.text(place, text, fill=WHITE, font=ImageFont.load_default(size=size), anchor=anchor)
