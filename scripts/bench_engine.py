"""Measures the engine: rollouts and training steps beside those of others, scaling, memory, a GPU's limits.

    python scripts/bench_engine.py                                  # on the CPU; 'step' needs the extra bench
    python scripts/bench_engine.py --only rollout,scaling,memory    # without TRL
    python scripts/bench_engine.py --only precision                 # bfloat16 weights against float32, 135 M
    python scripts/bench_engine.py --device cuda --size 3b          # the part 'gpu' alone

Contestants take turns in one process (A, B, A, B, ...) after a warm-up; figures are medians over the repeats.
Each line has checks that the work that was timed was right. The output folder gets ``bench.json`` with all
raw times and ``bench.md``, both written anew after every line, and ``bench.png``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PARTS = {
    "rollout": "bench.rollouts:rollout_jobs",
    "step": "bench.steps:step_jobs",
    "scaling": "bench.rollouts:scaling_jobs",
    "memory": "bench.memory:memory_jobs",
    "precision": "bench.precision:precision_jobs",
    "gpu": "bench.gpu:gpu_jobs",
}
CHILDREN = {
    "score": "bench.memory:score_child",
    "step-ours": "bench.steps:ours_child",
    "step-trl": "bench.trl_side:trl_child",
}
"""Functions that are run in a fresh process; see ``bench.process``."""
REPEATS, TOKENS = 5, 48
"""Defaults; targets are judged from this number of repeats on, and at this length of a turn."""
PACKAGES = ("torch", "transformers", "trl", "peft", "monai", "medeyes-monai")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if asked.child:
        _run_child(*asked.child)
        return
    default = ["gpu"] if asked.device != "cpu" else [part for part in PARTS if part != "gpu"]
    parts = asked.only.split(",") if asked.only else default
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"--only: unknown part {', '.join(map(repr, unknown))}; there are {', '.join(PARTS)}")
    if asked.repeats < 1 or asked.tokens < 2 or (asked.threads is not None and asked.threads < 1):
        parser.error("--repeats and --threads must be at least 1 and --tokens at least 2")
    _measure(parser, asked, parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder of the results")
    parser.add_argument("--only", help=f"parts, with commas between: {', '.join(PARTS)}")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="measurements of each figure")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script itself")
    parser.add_argument("--threads", type=int, help="threads of torch; its own choice if not given")
    families = ["qwen2_5_vl", "qwen3_vl"]
    parser.add_argument("--family", choices=families, default=families[0], help="of rollout and scaling")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens of a turn, end of turn included")
    parser.add_argument("--device", default="cpu", help="of the part gpu; the others run on the CPU")
    parser.add_argument("--size", choices=["tiny", "3b"], default="tiny", help="policy of the part gpu")
    parser.add_argument("--compiled", action="store_true", help="compile the token step of our rollouts")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    return parser


def _measure(parser: argparse.ArgumentParser, asked: argparse.Namespace, parts: Sequence[str]) -> None:
    import torch
    from bench.plots import draw
    from bench.results import Report
    from bench.setting import Settings
    from tqdm import tqdm

    from medeyes_monai.errors import ConfigError

    _quiet()
    if asked.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(asked.threads)  # for fresh processes
        torch.set_num_threads(asked.threads)
    names = ("family", "repeats", "quick", "tokens", "device", "size", "compiled")
    head = {
        "environment": _environment(asked.device),
        "arguments": {"parts": list(parts)} | {name: getattr(asked, name) for name in names},
    }
    with tempfile.TemporaryDirectory() as work:
        settings = Settings(work=Path(work), **{name: getattr(asked, name) for name in names})
        try:
            jobs = [job for part in parts for job in _find(PARTS[part])(settings)]
        except ConfigError as error:
            parser.error(str(error))
        report = Report(asked.output, head, judged=_is_judged(asked))
        with tqdm(jobs, unit="job", disable=None) as bar:
            for job in bar:
                bar.set_description(job.name)
                for line in job.run():
                    report.add(line)
    draw(report.lines, asked.output / "bench.png")
    print(report.table())
    print(f"written to {asked.output}: bench.json, bench.md, bench.png")


def _is_judged(asked: argparse.Namespace) -> bool:
    """Tell whether the sizes are those that the targets are set for."""
    return not asked.quick and asked.repeats >= REPEATS and asked.tokens == TOKENS


def _run_child(name: str, arguments: str) -> None:
    _quiet()
    print(json.dumps(_find(CHILDREN[name])(json.loads(arguments))), flush=True)


def _find(target: str) -> Callable[..., Any]:
    module, name = target.split(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def _quiet() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()


def _environment(device: str) -> dict[str, Any]:
    import torch

    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine(),
        "CPUs": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": sys.platform,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
