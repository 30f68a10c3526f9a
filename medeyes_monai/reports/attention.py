"""Pictures and words of where the policy attended at each step of an episode."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.policy import HuggingFacePolicy, Policy
from medeyes_monai.policy.attention import Map, StepAttention, attention_maps, can_show_attention
from medeyes_monai.policy.attention_numbers import box_preference, box_share, map_distance
from medeyes_monai.reports.gaze import draw_box, enlarge
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode, Picture

__all__ = ["attention_figure", "attention_of", "attention_words", "draw_attention"]

MORE, LESS = (213, 94, 0), (0, 114, 178)
"""Vermilion and blue of Okabe and Ito's palette, laid over pictures that are mostly grey."""
STRONGEST = 0.7
"""Opacity at :data:`FULL`."""
FULL = 4.0
"""An image token with this many times an even share, or this fraction of one, has the full colour."""
OVERVIEW_SIDE = 256
"""Longest side to which overviews are enlarged. Unit: pixels."""
CROP_SIDE = 128
"""Longest side to which crops are enlarged. Unit: pixels."""
GAP = 8
"""Space between the pictures. Unit: pixels."""


def attention_of(policy: Policy | None, episodes: Sequence[Episode]) -> list[tuple[StepAttention, ...]]:
    """Return the attention of some episodes for a report.

    Args:
        policy: The policy that made them; None for no attention.
        episodes: The episodes.

    Returns:
        The steps of each episode; an empty list where there is no policy, or its family allows none.
    """
    if not isinstance(policy, HuggingFacePolicy) or not can_show_attention(policy):
        return []
    return [attention_maps(policy, episode) for episode in episodes]


def draw_attention(episode: Episode, case: Case, step: StepAttention, number: int) -> Picture:
    """Draw what was shown before a turn, side by side, coloured where the turn's tokens attended.

    A cell of the grid of image tokens is vermilion if more went to it than an even share over all image
    tokens that were shown, blue if less; the further from even, the stronger (on a log scale, up to a factor
    of 4). The box that the turn asked for is drawn on the overview.

    Args:
        episode: The episode, boxes in voxels of the scene.
        case: The case that it belongs to.
        step: Where the turn's tokens attended.
        number: Number of the turn, from 1.

    Returns:
        ``uint8 (rows, columns, 3)``.
    """
    even = sum(step.mass) / sum(one.size for one in step.maps)
    sides = [OVERVIEW_SIDE, *[CROP_SIDE] * (len(step.maps) - 1)]
    pictures = [
        _coloured(enlarge(picture, side), attention / even)
        for picture, attention, side in zip(episode.pictures, step.maps, sides, strict=False)
    ]
    boxes = episode.trajectory.boxes
    if number <= len(boxes) and len(case.scene.shape) == 2:
        draw_box(ImageDraw.Draw(pictures[0]), boxes[number - 1], case, pictures[0], number)
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    canvas = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width + GAP
    return np.asarray(canvas)


def attention_words(episode: Episode, case: Case, steps: Sequence[StepAttention], number: int) -> str:
    """Say in numbers what :func:`draw_attention` shows of a turn.

    Args:
        episode: The episode, boxes in voxels of the scene.
        case: The case that it belongs to.
        steps: Attention of all turns.
        number: Number of the turn, from 1.
    """
    step, boxes = steps[number - 1], episode.trajectory.boxes
    total = sum(step.mass)
    names = ["overview", *(f"look {n}" for n in range(1, len(step.maps)))]
    parts = [f"{name} {mass / total:.0%}" for name, mass in zip(names, step.mass, strict=True)]
    words = f"{total:.0%} of the attention goes to pictures; of that {', '.join(parts)}."
    if number <= len(boxes) and boxes[number - 1].ndim == 2:
        box, shape = boxes[number - 1], case.scene.shape
        words += (
            f" Of the overview's, {box_share(step.maps[0], box, shape):.0%} lies in the box, "
            f"{box_preference(step.maps[0], box, shape):.2f} times its share of the area."
        )
    if number > 1:
        moved = map_distance(steps[number - 2].maps[0], step.maps[0])
        words += f" Moved on the overview since the last step: {moved:.2f} of 1."
    return words


def attention_figure(episode: Episode, case: Case, steps: Sequence[StepAttention], path: Path) -> None:
    """Write one picture of an episode: a row for each turn, with its attention drawn and in words.

    Args:
        episode: The episode, boxes in voxels of the scene.
        case: The case that it belongs to.
        steps: Attention of its turns, see :func:`~medeyes_monai.policy.attention.attention_maps`.
        path: PNG file to write; it appears complete or not at all.
    """
    figure = Figure(figsize=(8.0, 0.8 + 3.0 * len(steps)), dpi=120, layout="constrained")
    axes = figure.subplots(len(steps), 1, squeeze=False).ravel()
    widest = OVERVIEW_SIDE + (len(steps) - 1) * (CROP_SIDE + GAP)
    for number, (ax, step) in enumerate(zip(axes, steps, strict=True), start=1):
        ax.imshow(draw_attention(episode, case, step, number), origin="upper")
        ax.set(xlim=(0, widest), anchor="W")
        ax.set_axis_off()
        words = attention_words(episode, case, steps, number)
        ax.set_title(f"step {number}: {words}", fontsize=8, loc="left", wrap=True, parse_math=False)
    figure.suptitle(case.question, fontsize=11, x=0.01, ha="left", parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def _coloured(picture: Image.Image, ratio: Map) -> Image.Image:
    """Colour each cell of the grid by its ratio to an even share."""
    rows, columns = ratio.shape
    down = np.arange(picture.height) * rows // picture.height
    across = np.arange(picture.width) * columns // picture.width
    cells = ratio[np.ix_(down, across)][..., None].clip(1 / FULL, FULL)
    opacity = STRONGEST * np.abs(np.log(cells)) / np.log(FULL)
    mixed = (1 - opacity) * np.asarray(picture) + opacity * np.where(cells > 1, MORE, LESS)
    return Image.fromarray(mixed.round().astype(np.uint8))
