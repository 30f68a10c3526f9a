"""Measures what it costs to read a CT series and to look at it, against the number of slices; no model runs.

    python scripts/bench_volume.py                        # 512 x 512, up to 300 slices; writes 250 MB to /tmp
    python scripts/bench_volume.py --slices 20,40 --side 64

Each measurement is a fresh process, imports and all, that reads a DICOM series of 16-bit slices written for
the purpose, makes the overview and looks four times. Figures are medians over the repeats. The output folder
gets ``bench.json`` with all raw figures, ``bench.md`` and ``bench.png``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

SLICES, REPEATS, SIDE = (50, 100, 200, 300), 3, 512
MOST_SECONDS, MOST_GIB = 12.0, 2.5
"""Targets for the largest series at the default sizes."""
LINEAR, FLAT = 1.5, 1.5
"""Most that the time of a slice, or of a look, may grow from the smallest to the largest series."""
PARTS = ("read", "scene", "overview", "looks")
PACKAGES = ("torch", "monai", "pydicom", "numpy")

Found = dict[int, list[dict[str, Any]]]
"""What each process found, by the number of slices."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.child:
        from bench.volumes import volume_child

        print(json.dumps(volume_child(json.loads(asked.child[1]))), flush=True)
        return
    slices = sorted({int(n) for n in asked.slices.split(",")})
    if min(slices) < 1 or asked.repeats < 1 or asked.side < 8:
        parser.error("--slices and --repeats must be at least 1 and --side at least 8")
    found = _measure(slices, asked.repeats, asked.side)
    judged = (tuple(slices), asked.side) == (SLICES, SIDE) and asked.repeats >= REPEATS
    _write(found, asked, judged)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/bench_volume"), help="folder of the results"
    )
    parser.add_argument("--slices", default=",".join(map(str, SLICES)), help="numbers of slices")
    parser.add_argument("--side", type=int, default=SIDE, help="columns and rows of a slice")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="measurements of each figure")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser


def _measure(slices: Sequence[int], repeats: int, side: int) -> Found:
    from bench.process import in_fresh_process
    from bench.volumes import write_series
    from tqdm import tqdm

    found: Found = {n: [] for n in slices}
    with tempfile.TemporaryDirectory() as work, tqdm(total=len(slices) * repeats, disable=None) as bar:
        for n in slices:
            write_series(Path(work) / str(n), n, side)
        for _ in range(repeats):
            for n in slices:
                found[n].append(
                    in_fresh_process("volume", {"folder": str(Path(work) / str(n))}, "bench_volume.py")
                )
                bar.update()
    return found


def _write(found: Found, asked: argparse.Namespace, judged: bool) -> None:
    from bench.results import Report

    from medeyes_monai.io.atomic import write_atomic

    names = ("slices", "side", "repeats")
    head = {"environment": _environment(), "arguments": {name: getattr(asked, name) for name in names}}
    report = Report(asked.output, head, judged=judged)
    for line in _lines(found, asked.side):
        report.add(line)
    write_atomic(asked.output / "bench.png", _plot(found))
    print(report.table())
    print(f"written to {asked.output}: bench.json, bench.md, bench.png")


def _lines(found: Found, side: int) -> list[Any]:
    from bench.results import Bound, Line

    fewest, most = min(found), max(found)
    lines = []
    for n, runs in found.items():
        size = f"{side} x {side} x {n}"
        check = Bound("slices at a wrong place", max(run["misplaced"] for run in runs), "<=", 0)
        whole = [sum(run[part] for part in PARTS) for run in runs]
        lines.append(
            Line(
                "volume",
                f"read, overview and 4 looks of {size}",
                median(whole),
                "s",
                ("<=", MOST_SECONDS) if n == most else None,
                (check,),
                {part: [run[part] for run in runs] for part in PARTS},
                {"slices": n},
            )
        )
        memory = median(run["memory"] for run in runs)
        target: Any = ("<=", MOST_GIB) if n == most else None
        lines.append(Line("volume", f"peak memory of {size}, imports included", memory, "GiB", target))
    for part, per, limit in (("read", True, LINEAR), ("looks", False, FLAT)):
        ratio = _typical(found[most], part) / _typical(found[fewest], part)
        name = f"time of {'reading a slice' if per else 'four looks'}, {most} slices over {fewest}"
        lines.append(Line("volume", name, ratio * (fewest / most if per else 1), "x", ("<=", limit)))
    return lines


def _typical(runs: Sequence[Mapping[str, Any]], part: str) -> float:
    return median(run[part] for run in runs)


def _plot(found: Found) -> bytes:
    """Draw seconds and memory against the number of slices."""
    from matplotlib.figure import Figure

    colours = dict(zip(PARTS, ("#0072B2", "#009E73", "#E69F00", "#D55E00"), strict=True))
    figure = Figure(figsize=(7.4, 2.9), dpi=120, layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    for part, colour in colours.items():
        line = [_typical(runs, part) for runs in found.values()]
        seconds.plot(list(found), line, "-o", color=colour, markersize=4, linewidth=1.5, label=part)
        for n, runs in found.items():
            seconds.plot([n] * len(runs), [run[part] for run in runs], ".", color=colour, alpha=0.35)
    memory.plot(list(found), [_typical(runs, "memory") for runs in found.values()], "-o", color="#0072B2")
    for axes, beside in ((seconds, "time [s]"), (memory, "peak resident memory [GiB]")):
        axes.set_xlabel("slices")
        axes.set_ylabel(beside)
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    seconds.legend(fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _environment() -> dict[str, Any]:
    import torch

    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "CPUs": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": sys.platform,
    }


if __name__ == "__main__":
    main()
