"""The command line: ``python -m medeyes_monai train``, ``evaluate`` or ``infer`` runs a bundle's workflow.

``compare`` puts evaluations that have run side by side; ``focus`` searches one image or volume.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medeyes_monai import __version__
from medeyes_monai.errors import ConfigError, MedEyesError

__all__ = ["main"]

NOT_BUILT = {
    "Failed to instantiate component": (TypeError, ValueError),
    "Failed to evaluate": (NameError,),
    "detected circular references": (type(None),),
}
"""What MONAI says where a configuration is wrong, and what is behind it."""
EXIT_ERROR = 2
EXIT_STOPPED = 130


class _Verb(NamedTuple):
    file: str
    run_id: str
    kind: str
    help: str
    data: str | None = None  # the file that --data lays over the bundle's, below configs


VERBS = {
    "train": _Verb(
        "train.yaml", "training", "train", "train a policy, and compare it before and after", "datalist.yaml"
    ),
    "evaluate": _Verb(
        "evaluate.yaml",
        "evaluating",
        "eval",
        "evaluate a policy on held-out questions",
        "evaluation/datalist.yaml",
    ),
    "infer": _Verb("inference.yaml", "inference", "infer", "ask a policy about your images"),
    "plan": _Verb(
        "train.yaml", "training", "train", "tell from shapes what memory a training needs", "datalist.yaml"
    ),
}
LITERALS = {
    "policy": "policy_path",
    "data": "datalist",
    "output": "output_dir",
    "image": "image_path",
    "question": "question",
}
"""Options whose words are texts and paths, never configuration, with the ids that they set."""


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
        _check_words(arguments)
        {"compare": _compare, "focus": _focus, "export": _export, "plan": _plan}.get(asked.verb, _run)(asked)
    except KeyboardInterrupt:
        print(_STOPPED.get(asked.verb, "stopped"), file=sys.stderr)
        return EXIT_STOPPED
    except Exception as error:
        reason = _reason(error)
        if reason is None or asked.debug:
            raise
        print(f"error: {' '.join(str(reason).split())}", file=sys.stderr)
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
        own.add_argument("--policy", metavar="FOLDER|NAME", help="a checkpoint directory or a hub name")
        own.add_argument("--output", metavar="FOLDER", help="folder of what is written")
        own.add_argument("--debug", action="store_true", help="show where an error comes from")
        if verb.data is not None:
            own.add_argument("--data", metavar="FILE", help=f"your datalist; lays configs/{verb.data} below")
        if name == "train":
            own.add_argument(
                "--expert",
                metavar="NAME|FILE",
                help="who makes the paths of the expert stream: a file of configs/experts, by its name or "
                "path; laid over --config",
            )
            own.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
        if name == "plan":
            own.description = f"{verb.help}; no weights are read, nothing is downloaded"
            wanted = own.add_mutually_exclusive_group(required=True)
            wanted.add_argument("--memory", metavar="SIZE", help="memory of the device, such as 24GB")
            wanted.add_argument("--table", action="store_true", help="all recipes over common sizes of GPUs")
        if name == "infer":
            own.add_argument("--image", "--data", help="an image, a folder of images, or a datalist")
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


def _check_words(arguments: Sequence[str] | None) -> None:
    from medeyes_monai.io.literals import check_words

    check_words(sys.argv[1:] if arguments is None else arguments)


def _settings(asked: argparse.Namespace) -> dict[str, Any]:
    from medeyes_monai.io.configs import read_setting

    settings = dict(read_setting(text) for text in asked.set)
    return settings | ({"resume": True} if getattr(asked, "resume", False) else {})


def _literals(asked: argparse.Namespace, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return texts and paths by id; an option goes before ``--set``, except for the bundle's folder."""
    given = {name: getattr(asked, option, None) for option, name in LITERALS.items()}
    root = {} if "bundle_root" in settings else {"bundle_root": str(asked.bundle)}
    return root | {name: text for name, text in given.items() if text is not None}


def _overlays(asked: argparse.Namespace) -> list[str]:
    """Return the files that are laid over the bundle's, that of the user's data first, the expert's last."""
    data, files = VERBS[asked.verb].data, list(asked.config)
    if data is not None and asked.data is not None:
        files = [str(asked.bundle.resolve().parent / "configs" / data), *files]
    if getattr(asked, "expert", None) is not None:
        files.append(str(_expert_file(asked)))
    return files


def _expert_file(asked: argparse.Namespace) -> Path:
    from medeyes_monai.io.configs import find_overlay

    return find_overlay(asked.expert, asked.bundle.resolve().parent / "configs" / "experts")


def _run(asked: argparse.Namespace) -> None:
    workflow = _workflow(asked)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def _workflow(asked: argparse.Namespace) -> Any:
    """Return the workflow of a bundle, checked, with what the command line says; nothing is built yet."""
    verb, configs = VERBS[asked.verb], asked.bundle / "configs"
    if not (configs / verb.file).is_file():
        raise ConfigError(
            f"{configs / verb.file} does not exist; run this in the folder that holds the bundle, "
            "or give its place with --bundle"
        )
    from monai.bundle import ConfigWorkflow

    from medeyes_monai.io.configs import check_config, refers_to
    from medeyes_monai.io.literals import literal_settings, set_literals

    settings, overlays = _settings(asked), _overlays(asked)
    literals = _literals(asked, settings)
    check_config(configs / verb.file, overlays, **(settings | literal_settings(literals)))
    _quieten()
    workflow = ConfigWorkflow(
        config_file=[str(configs / verb.file), *overlays],
        meta_file=str(configs / "metadata.json"),
        logging_file=str(configs / "logging.conf"),
        run_id=verb.run_id,
        workflow_type=verb.kind,
        **settings,
    )
    set_literals(workflow.parser, literals)
    if "datalist" in literals and not refers_to(workflow.parser, "datalist"):
        raise ConfigError("--data is given, but the data sets of --config read another source; leave one out")
    return workflow


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


def _plan(asked: argparse.Namespace) -> None:
    from medeyes_monai.planning import (
        Estimator,
        described,
        find_shapes,
        fit,
        read_memory,
        read_settings,
        table,
    )

    recipes = asked.bundle.resolve().parent / "configs" / "recipes"

    def planned(*configs: str) -> tuple[Any, Any]:
        asked.config = configs
        settings = read_settings(_workflow(asked).parser)
        return Estimator(find_shapes(settings.model, recipes / "shapes")), settings

    if asked.table:
        given = tuple(asked.config)
        models = {file.stem: planned(str(file), *given) for file in sorted(recipes.glob("*.yaml"))}
        print(table(models))
        return
    memory = read_memory(asked.memory)
    estimator, settings = planned(*asked.config)
    print(described(fit(estimator, settings, memory), estimator(settings), memory))


def _given(asked: argparse.Namespace, *options: str) -> dict[str, Any]:
    """Return those of some options that were given."""
    return {name: value for name in options if (value := getattr(asked, name)) is not None}


def _reason(error: BaseException) -> Exception | None:
    """Return what can be said in a line: the error of this package or the system behind an error.

    Otherwise, what MONAI says of a component or an expression that it cannot build; None for a fault of ours.
    """
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for kind in (MedEyesError, OSError):
        for found in chain:
            if isinstance(found, kind):
                return found
    for found in reversed(chain):
        what, cause = str(found).partition("\n set ")[0], found.__cause__
        for beginning, kinds in NOT_BUILT.items():
            if what.startswith(beginning) and isinstance(cause, kinds):
                because = f" ({cause})" if cause else ""
                return ConfigError(f"{what.rstrip('.')}{because}; check its values, --debug shows where")
    return None


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
