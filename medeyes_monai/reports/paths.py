"""Expert paths on one page: what an expert would show a policy, to be looked at before it does."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.reports.gaze import draw_overview
from medeyes_monai.sampler import DrawnPath
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode, Fixation, Trajectory

__all__ = ["as_episode", "contact_sheet"]

COLUMNS = 4
PICTURE_INCHES = 3.4  # side of one question's picture, with what is around it
LINE_INCHES = 0.14  # of a line under a picture
_LETTERS = 52  # of a line under a picture
_NOTHING = torch.zeros(0)


def contact_sheet(questions: Iterable[tuple[Case, Sequence[DrawnPath]]], path: Path) -> None:
    """Draw a path of each question on one page.

    Of a question's paths, the longest that is kept is drawn, or the longest if none is. Under the overview
    with its numbered looks stand what was found at each, the answer with the reference, and how many of the
    paths were kept.

    Args:
        questions: Questions with the paths that were drawn for them; a question without paths is left out.
        path: PNG file to write; it appears complete or not at all.
    """
    shown = [(case, _best(paths), paths) for case, paths in questions if paths]
    texts = [f"{_thoughts(best.trajectory)}\n{_verdict(best, case, paths)}" for case, best, paths in shown]
    rows = max(1, -(-len(shown) // COLUMNS))
    lines = 3 + max((text.count("\n") + 1 for text in texts), default=0)  # two for the question, one between
    size = (COLUMNS * PICTURE_INCHES, rows * (PICTURE_INCHES + lines * LINE_INCHES))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    for ax, text, (case, best, _) in zip(axes, texts, shown, strict=False):
        ax.imshow(draw_overview(as_episode(best.trajectory, case), case), origin="upper")
        ax.set_title(_filled(case.question, 2), fontsize=9, loc="left", parse_math=False)
        ax.set_xlabel(text, fontsize=7, loc="left", parse_math=False)
    figure.supxlabel(
        "dashed: findings in the data; in brackets: confidence, and how far several experts are apart",
        fontsize=8,
        x=0.01,
        ha="left",
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(path, buffer.getvalue())


def as_episode(path: Trajectory, case: Case) -> Episode:
    """Return a path as far as it is needed for a picture of it."""
    return Episode(
        case=case.key,
        stream="expert",
        draw=0,
        token_ids=_NOTHING.long(),
        response_mask=_NOTHING.bool(),
        behaviour_logprobs=_NOTHING,
        pictures=(case.scene.overview().pixels,),
        turns=(),
        trajectory=path,
    )


def _best(paths: Sequence[DrawnPath]) -> DrawnPath:
    return max(paths, key=lambda drawn: (drawn.fate == "kept", len(drawn.trajectory.boxes)))


def _thoughts(path: Trajectory) -> str:
    looks = path.fixations
    found = [*(look.reasoning for look in looks[1:]), path.reasoning] if looks else []
    lines = [
        f"{number} {textwrap.shorten(said, 34)} ({look.mode}, {_numbers(look)})"
        for number, (look, said) in enumerate(zip(looks, found, strict=True), start=1)
    ]
    return "\n".join(lines) or "no look"


def _numbers(look: Fixation) -> str:
    """Return a look's confidence, and how far several experts are apart about it if they are."""
    apart = f", apart {look.disagreement:.2f}" if look.disagreement else ""
    return f"{look.confidence or 0:.2f}{apart}"


def _verdict(drawn: DrawnPath, case: Case, paths: Sequence[DrawnPath]) -> str:
    answer = "none" if drawn.trajectory.answer is None else drawn.trajectory.answer
    reference = "" if case.answer is None else f", reference: {case.answer}"
    kept = sum(other.fate == "kept" for other in paths)
    fate = "" if drawn.fate == "kept" else f" ({drawn.fate})"
    return f"{_filled(f'answer: {answer}{fate}{reference}', 2)}\n{kept} of {len(paths)} paths kept"


def _filled(text: str, lines: int) -> str:
    return textwrap.fill(text, _LETTERS, max_lines=lines, placeholder=" …")
