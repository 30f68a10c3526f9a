"""What a preparation did, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from preparing.work import Done

MEANS = ("looks", "distinct", "diversity", "disagreement")


def summarise(done: Sequence[Done], seconds: float) -> dict[str, Any]:
    """Return the report.

    Args:
        done: What became of each question.
        seconds: Time from the first question to the last.
    """
    drawn = [numbers for one in done for numbers in one.numbers]
    fates = sum((one.fates for one in done), Counter())
    report: dict[str, Any] = {
        "questions": len(done),
        "images": len({one.image for one in done}),
        "calls": dict(sum((one.calls for one in done), Counter())),
        "hits": dict(sum((one.hits for one in done), Counter())),
        "seconds": seconds,
        "expert_seconds": sum(one.expert_s for one in done),
        "questions_per_second": len(done) / seconds if seconds else 0.0,
        "paths": fates.total(),
        "fates": dict(fates),
        "yield": fates["kept"] / fates.total() if fates else 0.0,
        "ends": dict(sum((one.ends for one in done), Counter())),
        "lost": sorted(one.key for one in done if one.lost),
    }
    for name in MEANS:
        if values := [numbers[name] for numbers in drawn if name in numbers]:
            report[name] = fmean(values)
    report["images_per_second"] = report["images"] / seconds if seconds else 0.0
    return report


def lines(report: dict[str, Any]) -> str:
    """Say the report in a few lines."""
    calls, hits = (sum(report[name].values()) for name in ("calls", "hits"))
    text = [
        f"questions   {report['questions']:,} about {report['images']:,} images",
        f"calls       {calls:,} ({_kinds(report['calls'])}), {hits:,} hits",
        f"seconds     {report['seconds']:.1f}, of which the expert took {report['expert_seconds']:.1f} "
        "(summed over processes)",
        f"speed       {report['images_per_second']:.1f} images/s",
        f"paths       {report['paths']:,}, {report['yield']:.1%} kept ({_kinds(report['fates'])})",
        f"lost        {len(report['lost']):,}{_some(report['lost'])}",
    ]
    return "\n".join(text)


def _kinds(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {kind}" for kind, number in sorted(counts.items())) or "none"


def _some(keys: Sequence[str]) -> str:
    shown = ", ".join(keys[:5]) + (", …" if len(keys) > 5 else "")
    return f": {shown}" if keys else ""
