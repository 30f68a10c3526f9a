"""One HTML page that shows what a run did: figures, curves, and episodes step by step."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.metrics import Table
from medeyes_monai.policy.attention import StepAttention
from medeyes_monai.reports.attention import attention_words, draw_attention
from medeyes_monai.reports.filters import Filters
from medeyes_monai.reports.gaze import crops_of, draw_crop, draw_overview, look_words, png_bytes
from medeyes_monai.reports.style import CONTENT_POLICY, STYLE
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode, Fixation, ToolCall

__all__ = ["image_html", "table_html", "write_page", "write_report"]


def write_report(
    directory: str | Path,
    *,
    title: str,
    tables: Mapping[str, Table],
    episodes: Sequence[tuple[Episode, Case]] = (),
    curves: bytes | None = None,
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    attention: Sequence[Sequence[StepAttention]] = (),
    plots: Mapping[str, bytes] | None = None,
    filters: bool = False,
    facts: Sequence[Mapping[str, str]] = (),
) -> Path:
    """Write ``index.html``: one file without scripts or links, which opens anywhere and prints.

    Every text is escaped, so that what a model or a data set says is shown and never run.

    Args:
        directory: Folder to write into; made if it is missing.
        title: Headline.
        tables: Tables by their caption, see :func:`medeyes_monai.metrics.compare`.
        episodes: Episodes to show step by step, with their cases; boxes in voxels of the scene.
        curves: PNG file of the training curves, see :func:`medeyes_monai.reports.curves_png`.
        notes: Paragraphs under the headline.
        warnings: What went wrong in training, or that nothing did.
        attention: Where each episode's turns attended, one for each episode; none to leave it out.
        plots: Further PNG files by what they show.
        filters: Whether episodes can be chosen by outcome and kind of question.
        facts: What else is known of each episode, by name, one for each episode; none to leave it out.

    Returns:
        Path of the page. It appears complete or not at all.
    """
    parts = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(note)}</p>" for note in notes)]
    if tables:
        parts.append(_section("Results", *(table_html(caption, table) for caption, table in tables.items())))
    if warnings:
        parts.append(_section("Warnings", _list(warnings)))
    if curves is not None:
        picture = image_html(curves, "Training diagnostics by step; one panel for each", "curves")
        parts.append(_section("Training", picture))
    if plots:
        parts.append(_section("Plots", *(image_html(png, text, "curves") for text, png in plots.items())))
    chooser = Filters(episodes) if filters else None
    if episodes:
        steps = attention or [()] * len(episodes)
        known = facts or [{}] * len(episodes)
        shown = [
            _episode(ep, case, own, chooser, more)
            for (ep, case), own, more in zip(episodes, steps, known, strict=True)
        ]
        controls = [chooser.controls] if chooser else []
        parts.append(_section("Episodes", *_legend(episodes, bool(attention)), *controls, *shown))
    return write_page(directory, title, parts, chooser.style if chooser else "")


def write_page(directory: str | Path, title: str, parts: Sequence[str], style: str = "") -> Path:
    """Write ``index.html`` of HTML parts, in the report's style; it appears complete or not at all.

    Args:
        directory: Folder to write into; made if it is missing.
        title: Title of the page.
        parts: HTML, every text in it escaped.
        style: CSS besides the report's.
    """
    page = _PAGE.format(
        title=escape(title), policy=CONTENT_POLICY, style=STYLE + style, body="\n".join(parts)
    )
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "index.html", page.encode("utf-8", errors="replace"))
    return folder / "index.html"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _section(heading: str, *parts: str) -> str:
    return "\n".join([f"<section><h2>{escape(heading)}</h2>", *parts, "</section>"])


def table_html(caption: str, table: Table) -> str:
    """Return a table as HTML."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in table.header)
    rows = [
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in row[1:])
        + "</tr>"
        for row in table.rows
    ]
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _list(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def _legend(episodes: Sequence[tuple[Episode, Case]], attention: bool) -> list[str]:
    families = ", ".join(sorted({case.family for _, case in episodes}))
    legend = (
        f"<p>{len(episodes)} episodes; kinds of question: {escape(families)}. Numbered boxes are the looks "
        "in their order, as they were asked for; a crop may show context around its box. Dashed boxes are "
        "findings in the data, which the model is not told. Pictures are those that the model got, "
        "enlarged without smoothing.</p>"
    )
    return [legend, _ATTENTION_LEGEND] if attention else [legend]


_ATTENTION_LEGEND = (
    "<p>Under each step: where its tokens attended among the pictures shown before it, averaged over tokens, "
    "layers and heads. A cell (one image token) is vermilion if more went to it than an even share over the "
    "image tokens shown, blue if less, at full strength from 4 times and a quarter on. Attention is where "
    "the model takes its input from, no proof of what it used.</p>"
)


def _episode(
    episode: Episode,
    case: Case,
    attention: Sequence[StepAttention],
    chooser: Filters | None,
    facts: Mapping[str, str],
) -> str:
    looks = len(episode.trajectory.boxes)
    classes = f' class="{chooser.classes(episode, case)}"' if chooser else ""
    overview = image_html(
        png_bytes(draw_overview(episode, case)),
        f"Overview of {case.scene.key} with {looks} numbered looks",
        "overview",
    )
    return "\n".join(
        [
            f"<article{classes}><h3>{escape(case.question)}</h3>",
            f'<p class="meta">{escape(f"{case.key} · {case.family} · {episode.stream} stream")}</p>',
            _options(case),
            f'<div class="path"><div>{overview}{_outcome(episode, case, facts)}</div>',
            f"<ol>{''.join(_steps(episode, case, attention))}</ol></div></article>",
        ]
    )


def _options(case: Case) -> str:
    return f"<p>Options: {escape(' | '.join(case.options))}</p>" if case.options else ""


def _steps(episode: Episode, case: Case, attention: Sequence[StepAttention]) -> list[str]:
    """One list item for each turn: what was written, where it attended, and what it brought."""
    made, items = episode.trajectory.steps, []
    looks = 0
    for number, text in enumerate(episode.turns, start=1):
        step = made[number - 1] if number <= len(made) else None
        looks += isinstance(step, Fixation)
        attended = _attended(episode, case, attention, number) if number <= len(attention) else ""
        items.append(f"<li><pre>{escape(text)}</pre>{attended}{_brought(episode, step, looks)}</li>")
    return items


def _brought(episode: Episode, step: Fixation | ToolCall | None, look: int) -> str:
    """Show what a look brought and what experts made of it, or what a tool said."""
    if step is None:
        return ""
    if isinstance(step, ToolCall):
        return f'<p class="meta">{escape(step.reply)}</p>'
    known = look_words(step)
    words = f'<p class="meta">{escape(known)}</p>' if known else ""
    shown = crops_of(episode)[look - 1 : look]
    return words + "".join(
        image_html(png_bytes(draw_crop(picture, look)), f"What look {look} showed", "crop")
        for picture in shown
    )


def _attended(episode: Episode, case: Case, attention: Sequence[StepAttention], number: int) -> str:
    png = png_bytes(draw_attention(episode, case, attention[number - 1], number))
    words = attention_words(episode, case, attention, number)
    picture = image_html(png, f"Where step {number} attended", "attention")
    return f'{picture}<p class="meta">{escape(words)}</p>'


def _outcome(episode: Episode, case: Case, facts: Mapping[str, str]) -> str:
    rows = {"answer": episode.trajectory.answer, "reference": case.answer, "defect": episode.defect, **facts}
    rows |= {f"reward: {name}": f"{value:.2f}" for name, value in episode.reward_parts.items()}
    if not math.isnan(episode.reward):
        rows["reward"] = f"{episode.reward:.2f}"
    items = [
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows.items() if text is not None
    ]
    return f"{_verdict(episode)}<dl>{''.join(items)}</dl>"


def _verdict(episode: Episode) -> str:
    """Say whether the answer is right, in words and a sign, not by colour alone."""
    accuracy = episode.reward_parts.get("accuracy")
    if accuracy is None:
        return '<p class="verdict">not scored</p>'
    if accuracy >= 1:
        return '<p class="verdict right">&#10003; right</p>'
    return '<p class="verdict wrong">&#10007; wrong</p>'


def image_html(png: bytes, text: str, kind: str) -> str:
    """Return a picture as HTML, with the words that stand for it."""
    data = base64.b64encode(png).decode("ascii")
    return f'<img class="{kind}" src="data:image/png;base64,{data}" alt="{escape(text)}">'
