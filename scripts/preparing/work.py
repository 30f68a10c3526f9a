"""The work on one question: its paths are drawn, and with them the memo is filled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from medeyes_monai.sampler import describe_paths
from medeyes_monai.training.lost_items import LostItems
from preparing.configured import Configured, Item


@dataclass
class Done:
    """What became of a question.

    Args:
        key: Its name.
        image: Name of its image.
        lost: Whether the expert failed at it.
        numbers: What is logged about its paths, for each step at which it is asked.
        fates: What became of the paths that were drawn.
        ends: Why their searches ended.
        calls: Calls of the expert, by kind.
        hits: Replies that were known, by kind.
        expert_s: Time that the expert took.
    """

    key: str
    image: str
    lost: bool = False
    numbers: list[dict[str, float]] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    expert_s: float = 0.0


def prepare(configured: Configured, items: Sequence[Item], lost: LostItems) -> Iterator[Done]:
    """Draw the paths that the training will draw.

    Raises:
        ExpertError: If the expert fails at too many questions.
    """
    for item in items:
        before = _counts(configured)
        case = configured.dataset[item.index]
        done, failed = Done(case.key, case.scene.key), len(lost.keys)
        for step in item.steps:
            drawn = lost.ask(configured.sampler, case, step)
            done.lost = len(lost.keys) > failed
            if done.lost:
                break  # it would fail again, and is asked again by the next run of this program
            done.numbers.append(describe_paths([drawn]))
            done.fates.update(path.fate for path in drawn)
            done.ends.update(path.decisions[-1].reason for path in drawn)
        done.calls, done.hits, done.expert_s = (
            now - then for now, then in zip(_counts(configured), before, strict=True)
        )
        yield done


def _counts(configured: Configured) -> tuple[Counter[str], Counter[str], float]:
    memos = configured.memos
    calls, hits = (sum((getattr(memo, name) for memo in memos), Counter()) for name in ("calls", "hits"))
    return calls, hits, sum(memo.seconds for memo in memos)
