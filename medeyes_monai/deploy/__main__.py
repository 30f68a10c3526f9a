"""``python -m medeyes_monai.deploy``: a folder of DICOM and questions in, a folder of results out."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medeyes_monai.errors import ConfigError, MedEyesError
from medeyes_monai.io.literals import check_words

__all__ = ["main"]

EXIT_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer the questions about a study; return 0, or 2 after one line on stderr that says what is wrong.

    Places are those of a MONAI Application Package, unless they are given: ``HOLOSCAN_INPUT_PATH``,
    ``HOLOSCAN_OUTPUT_PATH`` and ``HOLOSCAN_MODEL_PATH``.

    Args:
        arguments: Words of the command line; None for those of this process.
    """
    asked = _parser().parse_args(arguments)
    try:
        check_words(sys.argv[1:] if arguments is None else arguments)
        with _shown():
            _run(asked)
    except ImportError as error:
        print(f"error: {error}; install the extra: pip install 'medeyes-monai[deploy]'", file=sys.stderr)
        return EXIT_ERROR
    except (MedEyesError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medeyes_monai.deploy", description=__doc__)
    parser.add_argument("-i", "--input", default=os.environ.get("HOLOSCAN_INPUT_PATH"), help="DICOM folder")
    parser.add_argument("-o", "--output", default=os.environ.get("HOLOSCAN_OUTPUT_PATH"), help="new folder")
    parser.add_argument(
        "-m", "--model", default=os.environ.get("HOLOSCAN_MODEL_PATH", "bundle"), help="folder of the bundle"
    )
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--question", help="what is asked; the folder then holds one series")
    asked.add_argument("--questions", type=Path, help="JSON or YAML list of questions")
    parser.add_argument("--policy", metavar="FOLDER|NAME", help="a checkpoint directory or a hub name")
    parser.add_argument(
        "--config", action="append", default=[], help="file that is laid over the bundle's; may be repeated"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override an id; may be repeated"
    )
    return parser


@contextmanager
def _shown() -> Iterator[None]:
    """Show what this package says, not what libraries tell of headers and fonts."""
    own, handler = logging.getLogger("medeyes_monai"), logging.StreamHandler()
    own.addHandler(handler)
    own.setLevel(logging.INFO)
    try:
        yield
    finally:
        own.removeHandler(handler)


def _run(asked: argparse.Namespace) -> None:
    from medeyes_monai.deploy.model import load_bundle
    from medeyes_monai.deploy.pipeline import answer_study, write_study
    from medeyes_monai.deploy.questions import Question, read_questions
    from medeyes_monai.io.configs import read_setting

    for option in ("input", "output"):
        if not getattr(asked, option):
            raise ConfigError(f"--{option} is missing, and HOLOSCAN_{option.upper()}_PATH is not set")
    questions: Sequence[Any] = (
        read_questions(asked.questions) if asked.questions else [Question(asked.question, name="question")]
    )
    settings = dict(read_setting(text) for text in asked.set)
    model = load_bundle(asked.model, settings, policy=asked.policy, overlays=asked.config)
    for path in write_study(asked.output, answer_study(model, asked.input, questions)):
        print(path)


if __name__ == "__main__":
    sys.exit(main())
