"""Measures whether the search of an expert that errs brings a look onto organs and a tumour of real volumes.

    python scripts/measure_focus.py --folder path/to/data --output runs/measured_focus
    python scripts/measure_focus.py --folder path/to/data --output runs/slabs --slab-mm 80

Each study is one scene that holds all its labelled organs, or its tumour. Each of them is asked for by name,
once for each seed. The expert knows the labels, but overlooks 20 % of them in a scan, moves its boxes, adds
false alarms, is unsure by 0.2 of what it was asked for, and names something else in 20 % of its drills. It
searches by itself, with ``FocusInferer``, up to four looks: once with its first scan believed, and once with
what is around each candidate scanned again. A look hits from an IoU of 0.3 in 3D on. Looks are the median
number up to the first hit, of the searches that have one.

This expert's errors are drawn anew for each part of a volume that it is shown, so scanning again averages
them out; those of a trained one change less from part to part, and so it gains less.

The output folder gets ``results.json``, with the IoU of each look, and ``table.md``. Studies that the folder
lacks are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from medeyes_monai.data.organ_questions import LEAST_ML, TOTALSEGMENTATOR, organs_of
from medeyes_monai.experts import AnnotationExpert, Candidate, Reading
from medeyes_monai.inferers import FocusInferer
from medeyes_monai.io import read_volume
from medeyes_monai.io.atomic import write_atomic
from medeyes_monai.metrics import Share, Table
from medeyes_monai.navigator import Navigator
from medeyes_monai.scenes import Finding, VolumeScene

MAX_LOOKS, HIT_IOU = 4, 0.3
NOISE = {"miss_rate": 0.2, "confidence_noise": 0.2, "drill_error": 0.2}  # false alarms: the expert's default
LEAST_VOXELS = 8  # of a candidate, along the finest axis
NEVER = 2.0  # the expert is also sure of what is wrong, so the whole budget is spent
QUESTION = "Where is the {}?"

Paths = dict[str, list[list[float]]]
"""For each way of searching, the IoU of each look, for each seed."""


@dataclass(frozen=True, slots=True)
class Study:
    """A labelled volume.

    Args:
        name: Name in the table.
        image: Path of the volume, from the data folder.
        labels: Path of its label map.
        names: Names by label.
        window: What of its values is shown; searching alone does not read it.
    """

    name: str
    image: str
    labels: str
    names: Mapping[int, str]
    window: tuple[float, float]


STUDIES = (
    Study(
        "CT",
        "totalseg_ct/example_ct.nii.gz",
        "totalseg_ct/example_seg_fast_force_split.nii.gz",
        TOTALSEGMENTATOR,
        (50.0, 400.0),
    ),
    Study(
        "MR",
        "pyradiomics_tumour/brain1_image.nrrd",
        "pyradiomics_tumour/brain1_label.nrrd",
        {1: "tumour"},
        (1000.0, 2000.0),
    ),
)


class Named:
    """Reads a finding as the answer if the question asks for it by its name."""

    def read(self, query: str, seen: Sequence[str], candidates: Sequence[Candidate]) -> Reading:
        """Return the name that is asked for, as soon as it was seen."""
        answer = next((name for name in seen if query == QUESTION.format(name)), None)
        return Reading(answer, decisive=answer is not None)


def scene_of(study: Study, folder: Path) -> VolumeScene:
    """Return a study with all its labelled organs of at least 1 ml."""
    image, labels = (read_volume(folder / path) for path in (study.image, study.labels))
    organs = organs_of(image, labels, study.names).values()
    findings = [Finding(organ.box, organ.name) for organ in organs if organ.volume_ml >= LEAST_ML]
    return VolumeScene(image, key=study.name, findings=findings, window=study.window)


def paths_to(scene: VolumeScene, target: Finding, asked: argparse.Namespace) -> Paths:
    """Search for one of a scene's findings, with each seed and in both ways."""
    found: Paths = {}
    for name, rescans in (("first scan", 0), ("scanned again", asked.rescans)):
        thorough = partial(
            Navigator, xi=NEVER, finer=asked.finer, rescans=rescans, min_extent=2 * LEAST_VOXELS
        )
        for seed in range(asked.seeds):
            expert = AnnotationExpert(
                Named(), **NOISE, jitter=asked.jitter, min_extent=LEAST_VOXELS, seed=seed
            )
            infer = FocusInferer(expert, max_looks=MAX_LOOKS, navigator=thorough, slab_mm=asked.slab_mm)
            focus = infer(scene, question=QUESTION.format(target.label))
            found.setdefault(name, []).append([box.iou(target.box) for box in focus.trajectory.boxes])
    return found


def table_of(found: Mapping[str, Paths]) -> Table:
    """Return the share of seeds with a hit, with its 95 % interval, and the median of the looks up to it."""
    ways = list(next(iter(found.values())))
    everything = {way: [path for paths in found.values() for path in paths[way]] for way in ways}
    rows = []
    for name, paths in [*found.items(), ("all", everything)]:
        cells = [cell for way in ways for cell in _cells(paths[way])]
        rows.append((name, str(len(paths[ways[0]])), *cells))
    header = [text for way in ways for text in (f"{way}, hits", f"{way}, %", "looks")]
    return Table(("asked for", "n", *header), tuple(rows))


def _cells(paths: Sequence[Sequence[float]]) -> tuple[str, str, str]:
    needed = [next((n for n, iou in enumerate(path, 1) if iou >= HIT_IOU), None) for path in paths]
    looks = [n for n in needed if n is not None]
    share = Share(len(looks), len(paths))
    return f"{share.hits}/{share.count}", share.percent(), f"{median(looks):g}" if looks else "-"


def measured(asked: argparse.Namespace, studies: Sequence[Study]) -> Iterator[tuple[str, Paths]]:
    """Search for everything in each study; iterate over what was asked for and what was found."""
    for study in studies:
        scene = scene_of(study, asked.folder)
        for target in tqdm(scene.findings, desc=study.name, disable=None):
            yield f"{study.name}, {target.label}", paths_to(scene, target, asked)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    studies = [study for study in STUDIES if (asked.folder / study.image).is_file()]
    if not studies:
        wanted = " or ".join(study.image for study in STUDIES)
        parser.error(f"--folder {asked.folder} holds no study; wanted {wanted}")
    found = dict(measured(asked, studies))
    table = table_of(found).markdown()
    run: dict[str, Any] = {name: str(value) for name, value in vars(asked).items()}
    asked.output.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"run": run, "iou": found}, indent=1) + "\n"
    write_atomic(asked.output / "results.json", content.encode())
    write_atomic(asked.output / "table.md", f"{table}\n".encode())
    print(f"\n{table}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where the studies are")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/measured_focus"), help="folder of the results"
    )
    parser.add_argument("--seeds", type=int, default=20, help="searches for each organ")
    parser.add_argument(
        "--jitter", type=int, default=2, help="most that a box is moved, in voxels along each axis"
    )
    parser.add_argument("--rescans", type=int, default=8, help="scans around each candidate")
    parser.add_argument("--finer", type=int, default=2, help="finer scales, where nothing new comes up")
    parser.add_argument(
        "--slab-mm", type=float, default=1000.0, help="thickness of a slab of the coarse pass"
    )
    return parser


if __name__ == "__main__":
    main()
