"""The answers as pages for a reader: a PDF without a patient's name."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medeyes_monai.deploy.codes import ALGORITHM, NOTICE, VERSION
from medeyes_monai.deploy.result import FocusResult, Look
from medeyes_monai.reports.gaze import COLOURS, draw_crop, enlarge

__all__ = ["pdf_of"]

A4 = (8.27, 11.69)
"""Width and height. Unit: inches."""
LETTERS = 92
"""Letters of a line."""
MOST_PAGES = 24
"""Pages of a PDF; more results stand in the report and the JSON, and the last page says so."""
MOST_LOOKS = 8
"""Looks whose pictures are shown on a page."""
MOST_LINES = 6
"""Lines of a text; what is longer is cut, and stands whole in the JSON."""
SIDE = 512
"""Longest side to which overviews are enlarged. Unit: pixels."""


def pdf_of(results: Sequence[FocusResult]) -> bytes:
    """Return a PDF with a page for each result, up to 24.

    A page holds the notice, the question, the answer with its probability, the overview with numbered boxes
    (of a slice), what each look showed, and a table of looks with their sizes.

    Args:
        results: What was found.
    """
    buffer = io.BytesIO()
    info = {"Title": "AI result, not for clinical use", "Creator": ALGORITHM, "CreationDate": None}
    with warnings.catch_warnings(), rc_context({"pdf.fonttype": 42}):
        warnings.filterwarnings("ignore", message="Glyph")  # a model may write letters that the font lacks
        with PdfPages(buffer, metadata=info) as pages:
            shown = results[:MOST_PAGES]
            for number, result in enumerate(shown, start=1):
                more = len(results) - len(shown) if number == len(shown) else 0
                note = f"; {more} more results stand in the structured report" if more else ""
                pages.savefig(_page(result, f"{number} of {len(shown)}{note}"))
    return buffer.getvalue()


def _page(result: FocusResult, number: str) -> Figure:
    figure = Figure(figsize=A4)
    figure.text(0.08, 0.95, NOTICE, fontsize=9, color="white", backgroundcolor="#8b0000", parse_math=False)
    top = 0.915
    for label, words in _words(result):
        figure.text(0.08, top, label, fontsize=8, color="#555555", va="top")
        lines = _lines(words)
        figure.text(0.08, top - 0.016, "\n".join(lines), fontsize=11, va="top", parse_math=False)
        top -= 0.032 + 0.0165 * len(lines)
    _draw_pictures(figure, result, top - 0.02)
    _draw_table(figure, result)
    figure.text(0.08, 0.03, f"{ALGORITHM} {VERSION}   page {number}", fontsize=8, color="#555555")
    return figure


def _words(result: FocusResult) -> list[tuple[str, str]]:
    said = "(no answer)" if result.answer is None else result.answer
    where = "" if result.slice_index is None else f"   (slice {result.slice_index + 1} of the series)"
    sure = f"{result.confidence:.1%} (probability of the model's own words; not calibrated)"
    words = [("Question", result.question + where), ("Answer", said), ("Confidence", sure)]
    if result.reasoning:
        words.append(("Reasoning", result.reasoning))
    if result.defect:
        words.append(("Defect", f"the model's text is not complete: {result.defect}"))
    return words


def _lines(words: str) -> list[str]:
    return textwrap.wrap(words, LETTERS, max_lines=MOST_LINES, placeholder=" ...") or [""]


def _draw_pictures(figure: Figure, result: FocusResult, top: float) -> None:
    """Draw the overview on the left and up to eight looks in two columns on the right."""
    if not result.pictures:
        return
    bottom = 0.3
    overview = figure.add_axes((0.08, bottom, 0.46, top - bottom), anchor="NW")
    picture = enlarge(result.pictures[0], SIDE)
    overview.imshow(picture, origin="upper")
    _bare(overview, "overview")
    if result.slice_index is not None:
        for number, look in enumerate(result.looks, start=1):
            _outline(overview, look, result, picture.size, number)
    shown = result.pictures[1 : 1 + MOST_LOOKS]
    high = (top - bottom) / max(2, -(-len(shown) // 2))
    for n, crop in enumerate(shown):
        place = (0.57 + 0.18 * (n % 2), top - (n // 2 + 1) * high, 0.16, high - 0.025)
        axes = figure.add_axes(place, anchor="NW")
        axes.imshow(draw_crop(crop, n + 1), origin="upper")
        _bare(axes, f"look {n + 1}")


def _outline(axes: Axes, look: Look, result: FocusResult, size: tuple[int, int], number: int) -> None:
    (x1, y1, _), (x2, y2, _) = look.box.start, look.box.stop
    wide, high = size[0] / result.grid.shape[0], size[1] / result.grid.shape[1]
    colour = COLOURS[(number - 1) % len(COLOURS)]
    corner = (x1 * wide - 0.5, y1 * high - 0.5)
    for line, edge in ((3.5, "black"), (2.0, colour)):
        axes.add_patch(Rectangle(corner, (x2 - x1) * wide, (y2 - y1) * high, fill=False, ec=edge, lw=line))
    tag = {"facecolor": colour, "pad": 1.5}
    axes.text(*corner, str(number), fontsize=9, va="bottom", bbox=tag)


def _bare(axes: Axes, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8, loc="left")


def _draw_table(figure: Figure, result: FocusResult) -> None:
    """Write where each look went; sizes in millimetres, or in pixels where an image has none."""
    unit = "mm" if result.grid.placed else "pixels"
    lines = [f"{'look':<6}{'columns':<14}{'rows':<14}{'slices':<14}size ({unit})"]
    for number, look in enumerate(result.looks[:MOST_LOOKS], start=1):
        sides = look.extent_mm(result.grid) if result.grid.placed else look.box.extent[:2]
        spans = [f"{a + 1}-{b}" for a, b in zip(look.box.start, look.box.stop, strict=True)]
        size = " x ".join(f"{side:.1f}" for side in sides)
        size += "" if look.confidence is None else f"   expert {look.confidence:.0%} sure"
        lines.append(f"{number:<6}" + "".join(f"{span:<14}" for span in spans) + size)
    if not result.looks:
        lines = ["The model did not look at any region."]
    figure.text(0.08, 0.27, "\n".join(lines), fontsize=9, va="top", family="monospace")
