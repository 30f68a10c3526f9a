"""What an inference leaves behind: answers as JSON, a picture of each gaze path, and a page to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.policy import Policy
from medeyes_monai.reports.attention import attention_of
from medeyes_monai.reports.gaze import gaze_path_figure
from medeyes_monai.reports.page import write_report
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["Answered", "write_answers"]


class Answered(Protocol):
    """An evaluator that has run, with or without reference answers."""

    episodes: list[Episode]
    cases: list[Case]


def write_answers(
    directory: str | Path,
    *,
    evaluator: Answered,
    title: str,
    pictures: int = 50,
    policy: Policy | None = None,
) -> None:
    """Print the answers and write them into a folder.

    Writes ``answers.json`` (all), ``gaze/001.png`` and so on, and ``report/index.html`` (the first ones). A
    question that was asked twice because its neighbour's image could not be read is written once.

    Args:
        directory: The folder; it is made.
        evaluator: Who asked.
        title: Headline of the page.
        pictures: Largest number of episodes that are drawn.
        policy: The policy that was asked, whose attention is drawn if its family allows it; None draws none.
    """
    folder = Path(directory)
    (folder / "gaze").mkdir(parents=True, exist_ok=True)
    by_key = {case.key: case for case in evaluator.cases}
    distinct = {(episode.case, episode.draw): episode for episode in evaluator.episodes}
    pairs = [(episode, by_key[episode.case]) for episode in distinct.values()]
    answers = [_plain(episode, case) for episode, case in pairs]
    text = json.dumps(answers, indent=1, ensure_ascii=False) + "\n"
    write_atomic(folder / "answers.json", text.encode("utf-8", errors="replace"))
    for number, (episode, case) in enumerate(pairs[:pictures], start=1):
        gaze_path_figure(episode, case, folder / "gaze" / f"{number:03d}.png")
    attention = attention_of(policy, [episode for episode, _ in pairs[:pictures]])
    page = write_report(
        folder / "report", title=title, tables={}, episodes=pairs[:pictures], attention=attention
    )
    for answer in answers:
        print(f"{answer['key']}: {answer['question']} -> {answer['answer'] or '(no answer)'}")
    print(f"\nanswers: {folder / 'answers.json'}\nreport: {page}")


def _plain(episode: Episode, case: Case) -> dict[str, Any]:
    path = episode.trajectory
    calls = [
        {"tool": call.name, "after": call.after, "reasoning": call.reasoning, "reply": call.reply}
        for call in path.calls
    ]
    return {
        "key": case.key,
        "image": case.scene.key,
        "question": case.question,
        "answer": path.answer,
        "defect": episode.defect,
        "looks": [{"box": list(look.box.corners), "reasoning": look.reasoning} for look in path.fixations],
        "reasoning": path.reasoning,
    } | ({"calls": calls} if calls else {})
