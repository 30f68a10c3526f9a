"""The command line: ``python -m medeyes_monai train``, ``evaluate`` or ``infer`` runs a bundle's workflow.

``compare`` puts evaluations that have run side by side; ``focus`` searches one image or volume.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medeyes_monai import __version__
from medeyes_monai.errors import ConfigError, MedEyesError

__all__ = ["main"]

EXIT_ERROR = 2
EXIT_STOPPED = 130


class _Verb(NamedTuple):
    file: str
    run_id: str
    kind: str
    help: str


VERBS = {
    "train": _Verb("train.yaml", "training", "train", "train a policy, and compare it before and after"),
    "evaluate": _Verb("evaluate.yaml", "evaluating", "eval", "evaluate a policy on held-out questions"),
    "infer": _Verb("inference.yaml", "inference", "infer", "ask a policy about your images"),
}


_STOPPED = {
    "train": "stopped; a training goes on with --resume",
    "evaluate": "stopped; the same command goes on with what was not asked yet",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a workflow; return 0, or 2 after one line on stderr that says what is wrong.

    Args:
        arguments: Words of the command line; None for those of this process.
    """
    asked = _parser().parse_args(arguments)
    try:
        {"compare": _compare, "focus": _focus, "export": _export}.get(asked.verb, _run)(asked)
    except KeyboardInterrupt:
        print(_STOPPED.get(asked.verb, "stopped"), file=sys.stderr)
        return EXIT_STOPPED
    except Exception as error:
        reason = _reason(error)
        if reason is None or asked.debug:
            raise
        print(f"error: {reason}", file=sys.stderr)
        return EXIT_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m medeyes_monai", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, verb in VERBS.items():
        own = verbs.add_parser(name, help=verb.help, description=f"{verb.help}: runs {verb.file} of a bundle")
        own.add_argument("--bundle", type=Path, default=Path("bundle"), help="folder of the bundle")
        own.add_argument(
            "--config",
            action="append",
            default=[],
            help="file that is laid over the bundle's; may be repeated",
        )
        own.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="override an id; may be repeated"
        )
        own.add_argument("--debug", action="store_true", help="show where an error comes from")
        if name == "train":
            own.add_argument(
                "--expert",
                metavar="NAME|FILE",
                help="who makes the paths of the expert stream: a file of configs/experts, by its name or "
                "path; laid over --config",
            )
            own.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
        if name == "infer":
            own.add_argument("--image", help="an image, a folder of images, or a datalist")
            own.add_argument("--question", help="what is asked about each image")
    _add_compare(verbs)
    _add_focus(verbs)
    _add_export(verbs)
    return parser


def _add_compare(verbs: Any) -> None:
    words = "compare evaluations on the same questions, paired, each with the first"
    own = verbs.add_parser("compare", help=words, description=words)
    own.add_argument("runs", nargs="+", type=Path, help="folders of evaluations, or files of predictions")
    own.add_argument("--preset", default="own", help="protocol by which answers are scored")
    own.add_argument("--shared", action="store_true", help="compare on the questions that all have")
    own.add_argument("--output", type=Path, help="folder for comparison.md and comparison.json")
    own.add_argument("--debug", action="store_true", help="show where an error comes from")


def _add_focus(verbs: Any) -> None:
    words = "look closer and closer at an image or a volume, and write where"
    own = verbs.add_parser("focus", help=words, description=words)
    own.add_argument("--image", type=Path, required=True, help="a file, or a folder of DICOM slices")
    own.add_argument("--question", required=True, help="what is looked for")
    own.add_argument("--output", type=Path, required=True, help="folder for maps, markups, JSON and a page")
    own.add_argument("--expert", metavar="NAME|FILE", help="who points at places, as of train")
    own.add_argument("--policy", metavar="FOLDER", help="who looks on and answers")
    own.add_argument("--looks", type=int, help="most looks; else the policy's own setting, or 4")
    own.add_argument("--seconds", type=float, help="time after which no look is begun")
    own.add_argument("--window", help="how a volume is shown: a CT window by name, or [centre, width]")
    own.add_argument("--overview-pixels", type=int, help="most pixels of the overview; else the policy's own")
    own.add_argument("--look-pixels", type=int, help="most pixels of a look; else the policy's own")
    own.add_argument("--series", type=int, help="which series of a DICOM folder that holds several, from 0")
    own.add_argument("--frame", type=int, help="which volume of a NIfTI file that holds several, from 0")
    own.add_argument("--tilt", help="slices of a tilted gantry: refuse them, or resample")
    own.add_argument("--axes", help="how axes lie of which the file does not say it, such as LPS")
    own.add_argument("--decoder", help="who unpacks DICOM pixels: pydicom or itk")
    own.add_argument("--max-voxels", type=int, help="most voxels of the image")
    own.add_argument("--bundle", type=Path, default=Path("bundle"), help="folder of the bundle")
    own.add_argument("--debug", action="store_true", help="show where an error comes from")


def _add_export(verbs: Any) -> None:
    words = "write a trained policy into a directory of its own, its adapter merged into the base or as it is"
    own = verbs.add_parser("export", help=words, description=words)
    own.add_argument("--policy", required=True, metavar="FOLDER|NAME", help="an adapter, or a checkpoint")
    own.add_argument("--output", type=Path, required=True, help="directory that is written")
    own.add_argument("--merge", action="store_true", help="merge the adapter into its base, in float32")
    own.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="type of the merged weights; else that of the policy",
    )
    own.add_argument("--revision", help="revision of a hub name")
    own.add_argument("--push", metavar="OWNER/NAME", help="also push it to a private repository of the hub")
    own.add_argument("--debug", action="store_true", help="show where an error comes from")


def _settings(asked: argparse.Namespace) -> dict[str, Any]:
    from medeyes_monai.io.configs import read_setting

    settings = dict(read_setting(text) for text in asked.set)
    short = {"resume": "resume", "image": "image_path", "question": "question"}
    given = {name: getattr(asked, option, None) for option, name in short.items()}
    return settings | {name: value for name, value in given.items() if value not in (None, False)}


def _overlays(asked: argparse.Namespace) -> list[str]:
    """Return the files that are laid over the bundle's, the expert's last."""
    if getattr(asked, "expert", None) is None:
        return list(asked.config)
    return [*asked.config, str(_expert_file(asked))]


def _expert_file(asked: argparse.Namespace) -> Path:
    from medeyes_monai.io.configs import find_overlay

    return find_overlay(asked.expert, asked.bundle.resolve().parent / "configs" / "experts")


def _run(asked: argparse.Namespace) -> None:
    verb, configs = VERBS[asked.verb], asked.bundle / "configs"
    if not (configs / verb.file).is_file():
        raise ConfigError(
            f"{configs / verb.file} does not exist; run this in the folder that holds the bundle, "
            "or give its place with --bundle"
        )
    from monai.bundle import ConfigWorkflow

    from medeyes_monai.io.configs import check_config

    settings, overlays = _settings(asked), _overlays(asked)
    check_config(configs / verb.file, overlays, **settings)
    _quieten()
    workflow = ConfigWorkflow(
        config_file=[str(configs / verb.file), *overlays],
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf"),
        run_id=verb.run_id,
        workflow_type=verb.kind,
        **({"bundle_root": str(asked.bundle)} | settings),
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def _compare(asked: argparse.Namespace) -> None:
    from medeyes_monai.evaluation import compare_predictions

    table = compare_predictions(asked.runs, preset=asked.preset, shared=asked.shared, output=asked.output)
    print(table.markdown())


def _focus(asked: argparse.Namespace) -> None:
    import torch

    from medeyes_monai.focusing import configured_search, focus_on
    from medeyes_monai.io import read_any
    from medeyes_monai.io.configs import read_setting
    from medeyes_monai.policy import HuggingFacePolicy

    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    reading = _given(asked, "series", "frame", "tilt", "axes", "decoder", "max_voxels")
    more = _given(asked, "overview_pixels", "look_pixels")
    if asked.expert is not None:
        more["expert"], more["navigator"] = configured_search(_expert_file(asked), asked.bundle, device)
    if asked.policy is not None:
        more["policy"] = HuggingFacePolicy(asked.policy, device=device)
    if asked.window is not None:
        more["window"] = read_setting(f"window={asked.window}")[1]
    found = focus_on(
        read_any(asked.image, **reading),
        asked.question,
        asked.output,
        max_looks=asked.looks,
        max_seconds=asked.seconds,
        **more,
    )
    for place in found.as_stored().places:
        print(f"look {place.number}: voxels {place.box.corners} {place.finding}")
    print(f"\n{found.answer or '(no answer)'}; ended: {found.ended}\nreport: {asked.output / 'index.html'}")


def _export(asked: argparse.Namespace) -> None:
    from medeyes_monai.exporting import export_policy

    survival = export_policy(
        asked.policy,
        asked.output,
        merge=asked.merge,
        dtype=asked.dtype,
        revision=asked.revision,
        push=asked.push,
    )
    print(f"{asked.output}{'' if survival is None else f': {survival}'}")


def _given(asked: argparse.Namespace, *options: str) -> dict[str, Any]:
    """Return those of some options that were given."""
    return {name: value for name in options if (value := getattr(asked, name)) is not None}


def _reason(error: BaseException) -> MedEyesError | None:
    """Return the error of this package that an error is, or was raised from."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, MedEyesError):
        found = found.__cause__ or found.__context__
    return found


def _quieten() -> None:
    """Leave out MONAI's notes on merged files, and what engines say of errors that :func:`main` reports."""
    from monai.apps.utils import get_logger

    get_logger("monai.bundle.workflows").setLevel(logging.ERROR)
    get_logger("monai.handlers.StatsHandler").addFilter(_is_news)
    logging.getLogger("ignite.engine.engine").setLevel(logging.CRITICAL)


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and record.exc_info[1] and _reason(record.exc_info[1]))


if __name__ == "__main__":
    sys.exit(main())
