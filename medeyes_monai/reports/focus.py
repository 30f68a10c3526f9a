"""One HTML page that shows where progressive focus looked: linked planes, the path across slices, places."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from medeyes_monai.focus import Focus, Place
from medeyes_monai.metrics import Table
from medeyes_monai.reports.gaze import draw_crop, draw_overview, look_words, png_bytes
from medeyes_monai.reports.page import image_html, table_html, write_page
from medeyes_monai.reports.paths import as_episode
from medeyes_monai.reports.planes import draw_path, draw_planes
from medeyes_monai.scenes import StreamedScene, VolumeScene

__all__ = ["write_focus_report"]

VOLUMES = (VolumeScene, StreamedScene)
LEGEND = (
    "Radiological orientation: R and L are the patient's right and left, A front, P back, S head, I feet. "
    "Numbered boxes are the looks in their order; grey lines are where the planes of a row cut each other. "
    "Places are in millimetres of the RAS+ world, and in voxels of the file where its axes are known. Boxes "
    "show where was looked, which is no proof of what an answer rests on."
)


def write_focus_report(
    directory: str | Path, results: Sequence[Focus], *, title: str, notes: Sequence[str] = ()
) -> Path:
    """Write ``index.html``: one file without scripts or links, in the style of the training report.

    Every text is escaped, so that what a model says is shown and never run.

    Args:
        directory: Folder to write into; made if it is missing.
        results: What was found; one section for each. Planes are drawn of a ``VolumeScene``, and of a
            ``StreamedScene``, whose study is read once for each; of another scene its overview and its looks.
        title: Headline.
        notes: Paragraphs under the headline.

    Returns:
        Path of the page. It appears complete or not at all.
    """
    parts = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(note)}</p>" for note in (*notes, LEGEND))]
    return write_page(directory, title, [*parts, *(_result(focus.as_stored()) for focus in results)])


def _result(focus: Focus) -> str:
    said = "(none)" if focus.answer is None else focus.answer
    ended = f"{len(focus.boxes)} looks; ended: {focus.ended}; {focus.seconds:.1f} s"
    parts = [
        f"<article><h3>{escape(focus.case.question)}</h3>",
        f'<p class="verdict">{escape(said)}</p><p class="meta">{escape(f"{focus.case.key} · {ended}")}</p>',
    ]
    if focus.boxes:
        parts += [_path(focus), table_html("Looks", _table(focus)), _looks(focus)]
    return "\n".join([*parts, "</article>"])


def _path(focus: Focus) -> str:
    scene, boxes = focus.case.scene, focus.trajectory.boxes
    if isinstance(scene, VOLUMES):
        return image_html(
            png_bytes(draw_path(scene, boxes)), "The looks in their order across slices", "planes"
        )
    picture = draw_overview(as_episode(focus.trajectory, focus.case), focus.case)
    return image_html(png_bytes(picture), f"Overview with {len(boxes)} numbered looks", "overview")


def _table(focus: Focus) -> Table:
    header = ("look", "centre x, y, z [mm]", "size [mm]", "confidence", "voxels")
    return Table(header, tuple(_row(place) for place in focus.places))


def _row(place: Place) -> tuple[str, ...]:
    sure = place.fixation.confidence
    return (
        str(place.number),
        ", ".join(f"{v:.1f}" for v in place.centre_mm),
        " x ".join(f"{v:.1f}" for v in place.size_mm),
        "" if sure is None else f"{sure:.2f}",
        ", ".join(map(str, place.box.corners)),
    )


def _looks(focus: Focus) -> str:
    items = []
    for place in focus.places:
        words = " · ".join(part for part in (place.finding, look_words(place.fixation)) if part)
        items.append(f"<li><p>{escape(words)}</p>{_picture(focus, place)}</li>")
    return f"<ol>{''.join(items)}</ol>"


def _picture(focus: Focus, place: Place) -> str:
    scene, box, number = focus.case.scene, place.fixation.box, place.number
    if isinstance(scene, VOLUMES):
        return image_html(png_bytes(draw_planes(scene, box, number)), f"Planes of look {number}", "planes")
    return image_html(png_bytes(draw_crop(scene.look(box).pixels, number)), f"Look {number}", "crop")
