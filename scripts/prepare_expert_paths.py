"""Fills the memo of a training's expert ahead of it, so that the training itself asks the expert nothing.

    python scripts/prepare_expert_paths.py --expert classical --jobs 2
    python scripts/prepare_expert_paths.py --config configs/vqa_rad.yaml --set dataset_dir=path/to/vqa_rad

The configuration is that of ``python -m medeyes_monai train``, in the same form, and needs
``memo::directory``. Of each question that the training will ask, the paths are drawn that it will draw, at
every update at which it asks it. The memo is all that is kept of this, so a run that was interrupted goes on
when the command is given again: what is known costs no call. A question at which the expert fails is left out
and named; give the command again once the expert is back.

Leaves ``expert_paths.json`` (calls, hits, seconds, yield, what was lost) and ``expert_paths.png`` (paths of a
dozen questions) in the training's ``output_dir``, or where --output says. Configurations of MONAI can run
code: use only those that you trust.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from preparing.configured import Configured, Item
from preparing.processes import READY, spread
from preparing.report import lines, summarise
from preparing.work import Done, prepare
from tqdm import tqdm

from medeyes_monai.errors import ConfigError, MedEyesError
from medeyes_monai.io import write_atomic
from medeyes_monai.io.configs import check_config, find_overlay, read_setting
from medeyes_monai.io.literals import literal_settings
from medeyes_monai.reports.paths import contact_sheet
from medeyes_monai.training.lost_items import LostItems

EXIT_LOST, EXIT_ERROR, EXIT_STOPPED = 1, 2, 130
SHOWN = 12
"""Questions on the contact sheet."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for.

    Returns:
        0; 1 if the expert failed at some questions; 2 if something is wrong; 130 if it was stopped.
    """
    asked = _parser().parse_args(arguments)
    try:
        report = _run(asked)
    except MedEyesError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return EXIT_STOPPED
    print(lines(report))
    return EXIT_LOST if report["lost"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=Path("bundle"), help="folder of the bundle")
    parser.add_argument(
        "--config", action="append", default=[], help="laid over the bundle's; may be repeated"
    )
    parser.add_argument("--expert", metavar="NAME|FILE", help="a file of configs/experts, laid over --config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override an id")
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes side by side, each with its own expert"
    )
    parser.add_argument("--limit", type=int, help="only the questions that are asked first")
    parser.add_argument("--output", type=Path, help="folder of report and picture")
    return parser


def _run(asked: argparse.Namespace) -> dict[str, Any]:
    if asked.jobs < 1 or (asked.limit is not None and asked.limit < 1):
        raise ConfigError(f"--jobs and --limit are at least 1, got {asked.jobs} and {asked.limit}")
    configuration = _configuration(asked)
    configured = Configured(*configuration)
    _ = configured.memos  # refuses what would be for nothing
    items = configured.plan(asked.limit)
    jobs = min(asked.jobs, len(items))
    work = _alone(configured, items) if jobs == 1 else _shared(configured, configuration, items, jobs)
    done, seconds = _watched(work, len(items))
    report = {"expert": configured.sampler.name, "jobs": jobs} | summarise(done, seconds)
    folder = asked.output or Path(str(configured.get("output_dir")))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "expert_paths.json", (json.dumps(report, indent=1) + "\n").encode())
    lost = set(report["lost"])
    contact_sheet(_shown(configured, items, lost), folder / "expert_paths.png")
    return report


def _configuration(asked: argparse.Namespace) -> tuple[list[str], dict[str, Any], dict[str, str]]:
    """Return the files, settings and literals that a training with the same words would have, checked."""
    base = asked.bundle / "configs" / "train.yaml"
    overlays = list(asked.config)
    if asked.expert is not None:
        overlays.append(
            str(find_overlay(asked.expert, asked.bundle.resolve().parent / "configs" / "experts"))
        )
    settings = dict(map(read_setting, asked.set))
    literals = {} if "bundle_root" in settings else {"bundle_root": str(asked.bundle)}
    check_config(base, overlays, **(settings | literal_settings(literals)))
    return [str(base), *overlays], settings, literals


def _alone(configured: Configured, items: Sequence[Item]) -> Iterator[str | Done]:
    yield READY
    yield from prepare(configured, items, LostItems(_max_lost(configured)))


def _shared(
    configured: Configured,
    configuration: tuple[list[str], dict[str, Any], dict[str, str]],
    items: Sequence[Item],
    jobs: int,
) -> Iterator[str | Done]:
    """Spread the work; the policy, of which scenes need the patch, is loaded in this process alone."""
    (files, settings, literals), patch = configuration, configured.patch()
    known = settings if patch is None else settings | {"scene::patch": patch}
    return spread((files, known, literals), items, jobs, _max_lost(configured))


def _max_lost(configured: Configured) -> float:
    return float(configured.get("train::trainer::max_lost_share"))


def _watched(work: Iterator[str | Done], total: int) -> tuple[list[Done], float]:
    """Follow the work with a progress bar; return what was done and the seconds from when all were ready."""
    done: list[Done] = []
    calls = hits = lost = 0
    started = time.perf_counter()
    with tqdm(total=total, desc="expert paths", unit="question") as bar:
        for message in work:
            if not isinstance(message, Done):
                bar.reset()
                started = time.perf_counter()
                continue
            done.append(message)
            calls, hits, lost = (
                calls + message.calls.total(),
                hits + message.hits.total(),
                lost + message.lost,
            )
            bar.set_postfix(calls=calls, hits=hits, lost=lost)
            bar.update()
    return done, time.perf_counter() - started


def _shown(configured: Configured, items: Sequence[Item], lost: set[str]) -> Iterator[Any]:
    """Return some questions with the paths that were drawn for them, from all over the data set."""
    chosen = items[:: max(1, len(items) // SHOWN)][:SHOWN]
    for item in chosen:
        case = configured.dataset[item.index]
        if case.key not in lost:
            yield case, configured.sampler.draw(case, item.steps[0])


if __name__ == "__main__":
    sys.exit(main())
