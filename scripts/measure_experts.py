"""Measures what experts find: paths on PhantomVQA, boxes on blood smears.

    python scripts/measure_experts.py --output runs/measured_experts
    python scripts/measure_experts.py --parts bccd --folder path/to/bccd --bccd-expert runs/bccd_expert

``phantom`` draws the paths of GRN and CVS over the network in ``bundle/models/phantom_expert``, over
annotations and over random boxes, on questions of the val split that need looking. ``bccd`` counts the white
cells and platelets of the val split that a scan finds at an IoU of 0.5, of an expert trained by
``train_expert.py --data bccd`` and of the classical one. Prints tables and writes ``experts.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expert_parts.boxes import measure_boxes
from expert_parts.paths import drill_calibration, measure_paths, phantom_cases, samplers
from expert_parts.tasks import task_of

from medeyes_monai.data.phantom import PhantomReader
from medeyes_monai.experts import AnnotationExpert, BlobExpert, bundle_expert
from medeyes_monai.io import write_atomic
from medeyes_monai.scenes import Case

ROOT = Path(__file__).resolve().parents[1]
PHANTOM_EXPERT = ROOT / "bundle" / "models" / "phantom_expert"
CELLS = ("WBC", "Platelets")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    found: dict[str, dict[str, Any]] = {}
    if "phantom" in asked.parts:
        found |= phantom(asked)
    if "bccd" in asked.parts:
        if asked.folder is None:
            parser.error("--parts bccd needs --folder, where its val.jsonl and images are")
        found |= bccd(asked)
    for name, figures in found.items():
        print(f"\n{name}")
        for what, value in figures.items():
            print(f"  {what:<42}{'-' if value is None else value:>10}")
    asked.output.mkdir(parents=True, exist_ok=True)
    write_atomic(asked.output / "experts.json", (json.dumps(found, indent=2) + "\n").encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=("phantom", "bccd"), default=["phantom"])
    parser.add_argument("--output", type=Path, default=Path("runs/measured_experts"))
    parser.add_argument("--expert", type=Path, default=PHANTOM_EXPERT, help="bundle for the phantoms")
    parser.add_argument("--questions", type=int, default=200, help="questions about phantoms")
    parser.add_argument("--folder", type=Path, help="where the files of bccd are")
    parser.add_argument(
        "--bccd-expert", type=Path, help="bundle for bccd; the classical expert alone if not given"
    )
    parser.add_argument("--images", type=int, help="most images of bccd")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def phantom(asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Measure paths over the network, over annotations and over random boxes."""
    cases, reader = phantom_cases(asked.questions), PhantomReader()
    experts = {
        "network": bundle_expert(asked.expert, reader=reader),
        "annotations": AnnotationExpert(reader, false_alarm_rate=0.1, seed=asked.seed),
    }
    found = {
        f"phantom, paths over {name}": measure_paths(name, sampler, cases)
        for name, sampler in samplers(experts, asked.seed).items()
    }
    plain = bundle_expert(asked.expert)
    return {**found, "phantom, drills of the network": drill_calibration(plain, cases, _lesions)}


def _lesions(case: Case) -> list[tuple[Any, str]]:
    return [(f.box, f.label) for f in case.scene.findings if f.subtle]


def bccd(asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Measure the cells that scans find."""
    task = task_of("bccd", asked.folder)
    found = {}
    if asked.bccd_expert is not None:
        expert = bundle_expert(asked.bccd_expert, max_candidates=64)
        found["bccd, network"] = measure_boxes("network", expert, task.scenes("val", asked.images), CELLS)
    blobs = BlobExpert(64, min_extent=1)
    scenes = task.scenes("val", asked.images)
    found["bccd, classical"] = measure_boxes("classical", blobs, scenes, CELLS, named=False)
    return found


if __name__ == "__main__":
    main()
