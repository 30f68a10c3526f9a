"""A reader study: questionnaires from an evaluation, and what readers' answers say.

    python scripts/reader_study.py make runs/evaluation/predictions.jsonl study --readers 4 --cases 40
    python scripts/reader_study.py analyse study/organiser/key.json answers/*.json --output study/results

``make`` takes the images from the data of the evaluation: give it the same --config and --set. It writes
``questionnaires/reader-1.html`` and so on, one file for each reader, and ``organiser/key.json``, which tells
the right answers and must not reach readers. Pictures may show what is burnt into them: look through a
questionnaire before it is handed out. Where questions are about sides, say with --sides which one is which.
Readers open their file in a browser and send back the file that it saves. ``analyse`` needs the extra
``reader`` and writes ``results.md``, ``results.json`` and ``results.png``. Configurations of MONAI can run
code: use only those that you trust.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from preparing.configured import Configured

from medeyes_monai.errors import ConfigError, MedEyesError
from medeyes_monai.io.configs import check_config, read_setting
from medeyes_monai.io.literals import literal_settings
from medeyes_monai.reports.reader_study import (
    StudyItem,
    analyse,
    choose_items,
    design_study,
    read_answers,
    read_key,
    read_predictions,
    write_key,
    write_questionnaires,
    write_results,
)
from medeyes_monai.reports.reader_study.results import results_markdown

EXIT_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return 0, or 2 after a line that says what is wrong."""
    asked = _parser().parse_args(arguments)
    try:
        asked.run(asked)
    except MedEyesError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("make", help="write questionnaires and their key")
    make.add_argument("predictions", type=Path, help="predictions.jsonl of an evaluation, or its folder")
    make.add_argument("target", type=Path, help="folder to write")
    make.add_argument("--bundle", type=Path, default=Path("bundle"), help="folder of the bundle")
    make.add_argument("--config", action="append", default=[], help="laid over the bundle's evaluate.yaml")
    make.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override an id")
    make.add_argument("--data", default="dataset", help="id of the data in the configuration")
    make.add_argument("--readers", type=int, default=4, help="number of readers; even, for a full crossover")
    make.add_argument("--cases", type=int, default=40, help="questions for each reader")
    make.add_argument("--seed", type=int, default=0, help="of choice, conditions and orders")
    make.add_argument(
        "--sides",
        default="",
        metavar="TEXT",
        help='shown under each picture, such as "The patient\'s right is on the left of the picture."',
    )
    make.add_argument("--balanced", action="store_true", help="as many right as wrong answers")
    make.set_defaults(run=_make)
    study = verbs.add_parser("analyse", help="analyse the answers of readers")
    study.add_argument("key", type=Path, help="key.json of the study")
    study.add_argument("answers", type=Path, nargs="+", help="one file for each reader")
    study.add_argument("--output", type=Path, default=Path("results"), help="folder to write")
    study.add_argument("--resamples", type=int, default=1000, help="resamples of each interval")
    study.set_defaults(run=_analyse)
    return parser


def _make(asked: argparse.Namespace) -> None:
    key_file = asked.target / "organiser" / "key.json"
    if key_file.exists():
        raise ConfigError(f"{key_file} exists; a key is not overwritten, give another folder")
    predictions = read_predictions(asked.predictions)
    items, passed = choose_items(
        predictions, _data(asked), asked.cases, asked.seed, balanced=asked.balanced, sides=asked.sides
    )
    key = design_study(items, asked.readers, asked.seed)
    key_file.parent.mkdir(parents=True, exist_ok=True)
    write_key(key, key_file)
    pages = write_questionnaires(asked.target / "questionnaires", key, items)
    _say(items, passed, asked)
    for page in pages:
        print(f"questionnaire: {page} ({page.stat().st_size / 2**20:.1f} MiB)")
    print(f"key, not for readers: {key_file}")


def _data(asked: argparse.Namespace) -> object:
    base = asked.bundle / "configs" / "evaluate.yaml"
    settings = dict(map(read_setting, asked.set))
    literals = {} if "bundle_root" in settings else {"bundle_root": str(asked.bundle)}
    check_config(base, asked.config, **(settings | literal_settings(literals)))
    return Configured([str(base), *asked.config], settings, literals).get(asked.data)


def _say(items: Sequence[StudyItem], passed: Counter[str], asked: argparse.Namespace) -> None:
    right = sum(item.right for item in items)
    print(f"items: {len(items)}, of which the model answered {right} right")
    if len(items) < asked.cases:
        print(f"fewer than the {asked.cases} that were wanted: no others can be shown")
    for reason, number in sorted(passed.items()):
        print(f"passed over: {number} {reason}")
    if asked.readers % 2:
        print("note: with an odd number of readers, items are not seen equally often with and without looks")


def _analyse(asked: argparse.Namespace) -> None:
    results = analyse(read_answers(asked.answers, read_key(asked.key)), resamples=asked.resamples)
    write_results(asked.output, results)
    print(results_markdown(results))
    print(f"written: {asked.output / 'results.md'}, results.json, results.png")


if __name__ == "__main__":
    sys.exit(main())
