"""Pictures of a gaze path: the overview with numbered boxes in the order of looks, and what each showed."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from medeyes_monai.geometry import Box
from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.scenes import Case, Scene, Sheet
from medeyes_monai.trajectory import Episode, Fixation, Picture

__all__ = [
    "crops_of",
    "draw_box",
    "draw_crop",
    "draw_looks",
    "draw_overview",
    "enlarge",
    "gaze_path_figure",
    "look_words",
    "png_bytes",
]

COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00")
"""The lighter colours of Okabe and Ito's palette, in the order of looks; black text is legible on each."""
OVERVIEW_SIDE = 512
"""Longest side to which overviews are enlarged. Unit: pixels."""
CROP_SIDE = 192
"""Longest side to which crops are enlarged. Unit: pixels."""
TAG = 22
"""Side of the tag that holds a number. Unit: pixels."""

_Rectangle = tuple[int, int, int, int]


def draw_overview(episode: Episode, case: Case, findings: bool = True) -> Picture:
    """Draw the overview that the policy saw, enlarged, with a numbered box for each look.

    Numbers count looks from 1. A box is what was asked for; the crop may show context around it. Of a volume
    it is drawn in the panel of the contact sheet that shows the slice in its middle.

    Args:
        episode: An episode with at least the overview among its pictures; boxes in voxels of the scene.
        case: The case that it belongs to.
        findings: Whether the findings that the data know are outlined with dashes.

    Returns:
        ``uint8 (rows, columns, 3)``, in the orientation of the overview.
    """
    overview = enlarge(episode.pictures[0], OVERVIEW_SIDE)
    if not _shows_places(case.scene):
        return np.asarray(overview)
    if findings:
        draw = ImageDraw.Draw(overview)
        for finding in case.scene.findings:
            _draw_dashed(draw, _on_overview(finding.box, case.scene, overview))
    _draw_looks(overview, [_on_overview(box, case.scene, overview) for box in episode.trajectory.boxes])
    return np.asarray(overview)


def draw_looks(picture: Picture, boxes: Sequence[Box], shape: Sequence[int]) -> Picture:
    """Draw a numbered box for each look on any picture of the whole image, enlarged as an overview is.

    Args:
        picture: The image at any resolution.
        boxes: The looks in order, with two axes. Unit: voxels of the image.
        shape: Extent of the image, ``(x, y)``. Unit: voxels.

    Returns:
        ``uint8 (rows, columns, 3)``.
    """
    image = enlarge(picture, OVERVIEW_SIDE)
    _draw_looks(image, [_on_picture(box, shape, image) for box in boxes])
    return np.asarray(image)


def draw_crop(picture: Picture, number: int) -> Picture:
    """Draw what a look showed, enlarged, with a frame and number as in the overview.

    Args:
        picture: Pixels of the look.
        number: Number of the look, from 1.

    Returns:
        ``uint8 (rows, columns, 3)``.
    """
    crop = enlarge(picture, CROP_SIDE)
    framed = Image.new("RGB", (crop.width + 8, crop.height + 8), _colour(number))
    framed.paste(crop, (4, 4))
    _draw_tag(ImageDraw.Draw(framed), (0, 0, TAG, TAG), number)
    return np.asarray(framed)


def draw_box(draw: ImageDraw.ImageDraw, box: Box, case: Case, overview: Image.Image, number: int) -> None:
    """Draw the numbered box of one look on an enlarged overview.

    Args:
        draw: Draws on the overview.
        box: The box. Unit: voxels of the scene.
        case: The case with that scene.
        overview: The overview.
        number: Number of the look, from 1.
    """
    rectangle = _on_picture(box, case.scene.shape, overview)
    _draw_frame(draw, rectangle, number)
    _draw_tag(draw, _free_tag(rectangle, overview.size, ()), number)


def crops_of(episode: Episode) -> tuple[Picture, ...]:
    """Return what each look showed, in order; a last look on which the episode broke off shows nothing."""
    return episode.pictures[1:]


def look_words(look: Fixation) -> str:
    """Say what is known of a look: who chose it, how sure an expert is of it, how far several are apart.

    Example:
        >>> look_words(Fixation("", Box((0, 0), (9, 9)), "scan", confidence=0.9, disagreement=0.25))
        'scan, confidence 0.90, disagreement 0.25'
    """
    words: list[str] = [look.mode] if look.mode else []
    words += [f"confidence {look.confidence:.2f}"] if look.confidence is not None else []
    return ", ".join([*words, f"disagreement {look.disagreement:.2f}"] if look.disagreement else words)


def png_bytes(picture: Picture) -> bytes:
    r"""Return a picture as a PNG file.

    Example:
        >>> png_bytes(np.zeros((2, 3, 3), np.uint8))[:4]
        b'\x89PNG'
    """
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def gaze_path_figure(episode: Episode, case: Case, path: Path) -> None:
    """Write one picture of an episode: question, overview with numbered boxes, crops in a row, answer.

    Under each picture stands what was written after it had been seen, and what experts said of the look.

    Args:
        episode: The episode, boxes in voxels of the scene.
        case: The case that it belongs to.
        path: PNG file to write; it appears complete or not at all.
    """
    crops = crops_of(episode)
    figure = Figure(figsize=(4.4 + 1.9 * len(crops), 4.9), dpi=150, layout="constrained")
    grid = figure.add_gridspec(1, 1 + len(crops), width_ratios=[4.2, *[1.8] * len(crops)])
    axes = [figure.add_subplot(grid[0, column]) for column in range(1 + len(crops))]
    axes[0].imshow(draw_overview(episode, case), origin="upper")
    path_taken = episode.trajectory
    thoughts = [*(look.reasoning for look in path_taken.fixations), path_taken.reasoning]
    axes[0].set_xlabel(textwrap.fill(thoughts[0], 60), fontsize=8, loc="left", parse_math=False)
    for number, (ax, crop, thought) in enumerate(zip(axes[1:], crops, thoughts[1:], strict=False), start=1):
        ax.imshow(draw_crop(crop, number), origin="upper")
        ax.set_title(f"look {number}", fontsize=10, loc="left")
        said = [thought, look_words(path_taken.fixations[number - 1])]
        label = "\n".join(textwrap.fill(words, 24) for words in said if words)
        ax.set_xlabel(label, fontsize=8, loc="left", parse_math=False)
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    figure.suptitle(textwrap.fill(case.question, 80), fontsize=12, x=0.01, ha="left", parse_math=False)
    figure.supxlabel(_verdict(episode, case), fontsize=10, x=0.01, ha="left", parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def _verdict(episode: Episode, case: Case) -> str:
    said = "(none)" if episode.trajectory.answer is None else episode.trajectory.answer
    answer = textwrap.shorten(said, 60)
    reference = "" if case.answer is None else f"    reference: {textwrap.shorten(case.answer, 60)}"
    drawn = _shows_places(case.scene) and case.scene.findings
    dashed = "\ndashed: findings in the data" if drawn else ""
    return f"answer: {answer}{reference}{dashed}"


def enlarge(picture: Picture, side: int) -> Image.Image:
    """Repeat pixels a whole number of times, so that nothing shows which the policy did not see."""
    factor = max(1, side // max(picture.shape[:2]))
    image = Image.fromarray(picture)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _draw_looks(picture: Image.Image, places: Sequence[_Rectangle]) -> None:
    draw = ImageDraw.Draw(picture)
    rectangles: list[_Rectangle] = []
    for rectangle in places:
        while rectangle in rectangles:  # a look at the same place again is drawn around the first
            rectangle = _grown(rectangle, 4)
        rectangles.append(rectangle)
    for number, rectangle in enumerate(rectangles, start=1):
        _draw_frame(draw, rectangle, number)
    placed: list[_Rectangle] = []
    for number, rectangle in enumerate(rectangles, start=1):
        placed.append(_free_tag(rectangle, picture.size, placed))
        _draw_tag(draw, placed[-1], number)


def _on_picture(box: Box, shape: Sequence[int], picture: Image.Image) -> _Rectangle:
    """Carry a box of the scene to the corners that Pillow draws, both inside the box."""
    x1, y1, x2, y2 = box.scale(shape, picture.size).corners
    return x1, y1, x2 - 1, y2 - 1


def _shows_places(scene: Scene) -> bool:
    """Tell whether it is known where an overview shows what."""
    return len(scene.shape) == 2 or isinstance(getattr(scene, "sheet", None), Sheet)


def _on_overview(box: Box, scene: Scene, overview: Image.Image) -> _Rectangle:
    """Carry a box of a scene to its overview: of a volume, to the panel of the slice in its middle."""
    if len(scene.shape) == 2:
        return _on_picture(box, scene.shape, overview)
    sheet: Sheet = scene.sheet  # type: ignore[attr-defined]
    panel = min(sheet.panels, key=lambda one: abs(one.region.centre[2] - box.centre[2]))
    ends = [panel.to_pixel(corner) for corner in (box.start, box.stop)]
    wide, high = (n / m for n, m in zip(overview.size, sheet.size, strict=True))
    (x1, x2), (y1, y2) = (sorted(pair) for pair in zip(*ends, strict=True))
    left, top = round(x1 * wide), round(y1 * high)
    return left, top, max(left, round(x2 * wide) - 1), max(top, round(y2 * high) - 1)


def _grown(rectangle: _Rectangle, by: int) -> _Rectangle:
    x1, y1, x2, y2 = rectangle
    return x1 - by, y1 - by, x2 + by, y2 + by


def _colour(number: int) -> str:
    return COLOURS[(number - 1) % len(COLOURS)]


def _draw_frame(draw: ImageDraw.ImageDraw, rectangle: _Rectangle, number: int) -> None:
    draw.rectangle(_grown(rectangle, 1), outline="black", width=5)
    draw.rectangle(rectangle, outline=_colour(number), width=3)


def _draw_tag(draw: ImageDraw.ImageDraw, at: _Rectangle, number: int) -> None:
    x1, y1, x2, y2 = at
    draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=_colour(number), outline="black", width=2)
    font = ImageFont.load_default(size=16 if number < 10 else 13)
    draw.text(((x1 + x2) / 2, (y1 + y2) / 2), str(number), fill="black", font=font, anchor="mm")


def _free_tag(rectangle: _Rectangle, size: tuple[int, int], placed: Sequence[_Rectangle]) -> _Rectangle:
    """Choose the corner of a box whose tag covers other tags least, inside the picture."""
    x1, y1, x2, y2 = rectangle
    corners = [(x1, y1 - TAG), (x2 - TAG, y1 - TAG), (x1, y2), (x2 - TAG, y2), (x1 - TAG, y1), (x2, y1)]
    corners += [(x1 - TAG, y2 - TAG), (x2, y2 - TAG)]
    tags = []
    for x, y in corners:
        left = min(max(x, 0), max(size[0] - TAG, 0))
        top = min(max(y, 0), max(size[1] - TAG, 0))
        tags.append((left, top, left + TAG, top + TAG))
    return min(tags, key=lambda tag: sum(_overlap(tag, other) for other in placed))


def _overlap(a: _Rectangle, b: _Rectangle) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _draw_dashed(draw: ImageDraw.ImageDraw, rectangle: _Rectangle, dash: int = 5) -> None:
    """Outline with dashes of black and white, which show on every ground."""
    x1, y1, x2, y2 = rectangle
    draw.rectangle(rectangle, outline="black", width=1)
    for x in range(x1, x2, 2 * dash):
        for y in (y1, y2):
            draw.line((x, y, min(x + dash, x2), y), fill="white", width=1)
    for y in range(y1, y2, 2 * dash):
        for x in (x1, x2):
            draw.line((x, y, x, min(y + dash, y2)), fill="white", width=1)
