"""The questionnaire: one HTML file for each reader, which needs nothing but a browser."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from medeyes_monai.errors import ConfigError
from medeyes_monai.io import write_atomic
from medeyes_monai.reports.reader_study.design import Key
from medeyes_monai.reports.reader_study.items import StudyItem, StudyLook
from medeyes_monai.reports.style import STYLE

__all__ = ["SCALES", "questionnaire", "write_questionnaires"]

SCALES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "correctness": (
        "Is the model's answer correct?",
        ("certainly wrong", "rather wrong", "cannot tell", "rather correct", "certainly correct"),
    ),
    "confidence": (
        "How sure are you of this judgement of yours?",
        ("a guess", "rather unsure", "half sure", "rather sure", "sure"),
    ),
    "trust": (
        "How far would you rely on this answer?",
        ("not at all", "little", "halfway", "largely", "fully"),
    ),
    "usefulness": (
        "How useful is look {number} for judging the answer?",
        ("misleading", "useless", "of little use", "useful", "decisive"),
    ),
}
"""What is asked, and what the ratings 1 to 5 mean."""
MAX_COMMENT = 2000
"""Longest comment. Unit: characters."""


def write_questionnaires(folder: Path, key: Key, items: Sequence[StudyItem]) -> list[Path]:
    """Write ``reader-1.html`` and so on.

    Args:
        folder: Where to; it is made. Nothing in it tells what the key tells.
        key: Who sees what.
        items: The items of the key.

    Raises:
        ConfigError: If the items are not those of the key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for reader in key.readers:
        written.append(folder / f"{reader}.html")
        write_atomic(written[-1], questionnaire(key, reader, items).encode("utf-8", errors="replace"))
    return written


def questionnaire(key: Key, reader: str, items: Sequence[StudyItem]) -> str:
    """Return the page of a reader.

    Pictures are inside the page, and its content policy lets nothing be loaded or sent: it runs one script,
    ours, by its digest. Every text of data and model is escaped.

    Args:
        key: Who sees what; of it, the page has the order and the condition of each case, nothing else.
        reader: Name of the reader.
        items: The items of the key.

    Raises:
        ConfigError: If the items are not those of the key.
    """
    by_key = {item.key: item for item in items}
    shown = key.readers[reader]
    if by_key.keys() != key.items.keys():
        raise ConfigError(
            f"the key knows {len(key.items)} items, got {len(by_key)}; take those it was made of"
        )
    style, script = STYLE + _part("questionnaire.css"), _part("questionnaire.js")
    cases = [
        _case(number, len(shown), by_key[one.item], one.path) for number, one in enumerate(shown, start=1)
    ]
    return _PAGE.format(
        policy=_content_policy(style, script),
        style=style,
        script=script,
        study=escape(key.study),
        reader=escape(reader),
        number=len(cases),
        cases="\n".join(cases),
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Reader study, {reader}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>Reader study</h1>
<noscript><p class="note">This questionnaire needs JavaScript, which is switched off here.</p></noscript>
<p id="storage" class="note" hidden>This browser keeps no answers: closing or reloading the page loses them.
Finish in one go, and save the file at the end.</p>
<div id="state" hidden><label for="progress">Progress: <span id="done"></span></label>
<progress id="progress" max="{number}" value="0"></progress></div>
<form id="study" data-study="{study}" data-reader="{reader}" autocomplete="off" novalidate>
<section class="page" data-page="start" hidden>
<h2 tabindex="-1">Before you begin</h2>
<p>You are {reader}. There are {number} cases. Each shows an image, a question about it, and what a model
answered. In about half of them you also see where the model looked: numbered boxes in the image, what each
look showed the model, and what it wrote.</p>
<ul>
<li>Judge the answer by what you see yourself. No reference answer is shown, here or later.</li>
<li>Images are shown as they are stored, never mirrored or turned. What is known of their sides stands under
them; where that is not enough to judge an answer, say so in the comment.</li>
<li>Every rating is a choice of five. A case that you do not want to rate in full has a box to tick that says
so; you can go back to it.</li>
<li>Your answers stay in this browser until you save them as a file on the last page. Nothing is sent.</li>
</ul>
</section>
{cases}
<section class="page" data-page="end" hidden>
<h2 tabindex="-1">Your answers</h2>
<p id="summary"></p>
<ol id="cases" class="cases"></ol>
<p><button type="button" id="save">Save answers as a file</button></p>
<p id="saved" role="status"></p>
</section>
<p id="message" role="alert"></p>
<nav aria-label="Cases">
<button type="button" id="back">Back</button>
<button type="button" id="next">Next</button>
<button type="button" id="finish" hidden>To the last page</button>
</nav>
</form>
</main>
<script>{script}</script>
</body>
</html>
"""


def _case(number: int, count: int, item: StudyItem, path: bool) -> str:
    options = f"<p>Options: {escape(' | '.join(item.options))}</p>" if item.options else ""
    convention = f'<p class="meta">{escape(item.convention)}</p>' if item.convention else ""
    return "\n".join(
        [
            f'<section class="page case" data-page="case" data-case="{number}" hidden>',
            f'<h2 tabindex="-1">Case {number} of {count}</h2>',
            f'<p class="asked">{escape(item.question)}</p>{options}',
            f"{_image(item.image, f'Image of case {number}', 'whole')}{convention}",
            f'<p class="answer">The model answered: <strong>{escape(item.answer)}</strong></p>',
            _path(number, item) if path else "",
            *(_rating(number, name) for name in ("correctness", "confidence", "trust")),
            f'<p><label for="comment-{number}">Comment (not required)</label><br>',
            f'<textarea id="comment-{number}" rows="3" maxlength="{MAX_COMMENT}"></textarea></p>',
            f'<p class="leave"><input type="checkbox" id="left-{number}">',
            f'<label for="left-{number}">I go on without rating case {number} in full</label></p>',
            "</section>",
        ]
    )


def _path(number: int, item: StudyItem) -> str:
    marked = (
        "" if item.marked is None else _image(item.marked, f"Looks of case {number} in the image", "whole")
    )
    looks = [_look(number, n, look) for n, look in enumerate(item.looks, start=1)]
    return "\n".join(
        [
            "<h3>Where the model looked</h3>",
            '<p class="meta">Boxes are what the model asked for; a picture of a look may show more around '
            "its box. It has the pixels that the model got, enlarged without smoothing.</p>",
            marked,
            f'<ol class="looks">{"".join(looks)}</ol>',
            f"<p>Before its answer the model wrote:</p>{_written(item.reasoning)}",
        ]
    )


def _look(number: int, n: int, look: StudyLook) -> str:
    picture = _image(look.picture, f"What look {n} of case {number} showed", "crop")
    return f"<li>{_written(look.reasoning)}{picture}{_rating(number, 'usefulness', n)}</li>"


def _written(text: str) -> str:
    return f"<pre>{escape(text)}</pre>" if text.strip() else '<p class="meta">(nothing)</p>'


def _rating(number: int, scale: str, look: int | None = None) -> str:
    question, words = SCALES[scale]
    name = f"{scale}-{number}" if look is None else f"{scale}-{number}-{look}"
    which = "" if look is None else f' data-look="{look}"'
    choices = "".join(
        f'<label><input type="radio" name="{name}" value="{value}"> {value} <span>{escape(word)}</span>'
        "</label>"
        for value, word in enumerate(words, start=1)
    )
    legend = escape(question.format(number=look))
    return f'<fieldset data-rating="{scale}"{which}><legend>{legend}</legend>{choices}</fieldset>'


def _image(png: bytes, text: str, kind: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img class="{kind}" src="data:image/png;base64,{data}" alt="{escape(text)}">'


def _content_policy(style: str, script: str) -> str:
    """Return what the page may do: show its pictures, and use exactly this style and this script."""
    own = {name: _digest(text) for name, text in (("style-src", style), ("script-src", script))}
    rules = "; ".join(f"{name} '{digest}'" for name, digest in own.items())
    return f"default-src 'none'; img-src data:; {rules}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")
