"""Turns a released data set into a datalist beside its images, with a card and checksums.

    python scripts/prepare_data.py vqa_rad path/to/VQA_RAD data/vqa_rad
    python scripts/prepare_data.py slake path/to/Slake1.0 data/slake --set language=zh --set regions=all
    python scripts/prepare_data.py path_vqa hub data/path_vqa
    python scripts/prepare_data.py pmc_vqa path/to/PMC-VQA data/pmc_vqa --set version=2
    python scripts/prepare_data.py mmmu path/to/MMMU data/mmmu
    python scripts/prepare_data.py bccd path/to/BCCD data/bccd
    python scripts/prepare_data.py deep_tumor_vqa path/to/DeepTumorVQA_2.0 data/tumours --set form=choice
    python scripts/prepare_data.py ct_questions path/to/csv data/ct --set "columns={volume: Volumename}"
    python scripts/prepare_data.py detection path/to/coco data/mine --set "nouns={cyst: [cyst, cysts]}"

The source is the release as it was published, or ``hub`` (``hub@<revision>``) where there is a network. The
target gets ``<split>.jsonl``, ``images/``, ``card.md`` (counts, traps, licence, citation),
``checksums.sha256`` and, last, ``prepared.json``. The same command goes on after an interruption; where all
is done, it compares the checksums. Numbers that differ from those of a whole copy are said, here and in the
card.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from medeyes_monai.data.catalogue import RELEASES, open_release
from medeyes_monai.data.prepare import Prepared, prepare
from medeyes_monai.errors import ConfigError, UnreadableImageError
from medeyes_monai.io.configs import read_setting

EXIT_REFUSED, EXIT_STOPPED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for.

    Returns:
        0; 2 if something is wrong with the data or the command; 130 if it was stopped.
    """
    asked = _parser().parse_args(arguments)
    try:
        settings = dict(map(read_setting, asked.set))
        release = open_release(asked.name, asked.source, **settings)
        _say(prepare(release, asked.name, asked.target, on_bad=asked.on_bad, quiet=asked.quiet))
    except (ConfigError, UnreadableImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return EXIT_STOPPED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help=f"one of {', '.join(RELEASES)}")
    parser.add_argument("source", help="folder of the release, or hub")
    parser.add_argument("target", help="folder to write")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="what the data set's class takes"
    )
    parser.add_argument(
        "--on-bad", choices=("raise", "skip"), default="raise", help="rows that cannot be used"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _say(done: Prepared) -> None:
    for split, numbers in done.found.items():
        families = ", ".join(f"{number:,} {family}" for family, number in numbers.families.items())
        print(f"{split}: {numbers.questions:,} questions ({families}) about {numbers.images:,} images")
    for warning in done.warnings:
        print(f"differs: {warning}")
    if done.left_out:
        print(f"left out: {len(done.left_out):,} rows, listed in card.md")
    if done.resumed:
        print(f"resumed: {done.resumed:,} images were there")
    print(f"{'unchanged' if done.was_done else 'written'}: {done.folder}")


if __name__ == "__main__":
    sys.exit(main())
