"""``focus`` on the command line: a file in, places out, and one line where something is wrong."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from searched import ball

from medeyes_monai.__main__ import EXIT_ERROR, main
from medeyes_monai.focus import Grid, read_markups
from medeyes_monai.focusing import configured_search, read_any
from medeyes_monai.geometry import Box

ROOT = Path(__file__).resolve().parents[1]
FILES = {"focus_map.nii.gz", "focus_boxes.nii.gz", "focus.mrk.json", "focus.json", "index.html"}


def focus(image, output, *more):
    return main(["focus", "--image", str(image), "--question", "What stands out?", "--output", str(output),
                 "--bundle", str(ROOT / "bundle"), *map(str, more)])  # fmt: skip


@pytest.fixture
def volume(tmp_path):
    """A file with one bright block, and where that is in the file's voxels."""
    image, box = ball()
    nibabel.save(nibabel.Nifti1Image(image.numpy()[0], image.affine.numpy()), tmp_path / "ct.nii.gz")
    return tmp_path / "ct.nii.gz", box


def test_an_expert_finds_the_place_and_every_file_says_the_same(volume, tmp_path, capsys):
    file, ball_box = volume
    (tmp_path / "blobs.yaml").write_text(
        "expert: {_target_: medeyes_monai.experts.BlobExpert, min_extent: 8}"
    )
    out = tmp_path / "out"
    expert = ("--expert", tmp_path / "blobs.yaml", "--looks", 1, "--window", "[40, 400]")
    assert focus(file, out, *expert) == 0
    assert {path.name for path in out.iterdir()} == FILES
    (look,) = json.loads((out / "focus.json").read_text())["looks"]
    box = Box.from_corners(look["box"])
    assert box.iou(ball_box) > 0.3
    assert read_markups(out / "focus.mrk.json", Grid.of(read_any(file))) == (box,)
    heat = nibabel.load(out / "focus_map.nii.gz").get_fdata()
    assert (heat[box.slices] > 0).all()
    assert np.count_nonzero(heat) == box.size
    assert f"look 1: voxels {box.corners}" in capsys.readouterr().out


def test_a_policy_looks_at_a_picture_without_an_expert(tmp_path, checkpoints, capsys):
    Image.new("L", (90, 120), 50).save(tmp_path / "a.png")
    assert focus(tmp_path / "a.png", tmp_path / "out", "--policy", checkpoints["qwen3_vl"], "--looks", 1) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert "(no answer)" in capsys.readouterr().out  # a random policy writes no turns


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "nobody is there to look"),
        (("--expert", "annotations"), "reads annotations, which a new image lacks"),
        (("--expert", "clasical"), "did you mean 'classical'?"),
        (("--expert", "classical", "--looks", "0"), "max_looks"),
        (("--expert", "classical", "--window", "bon"), "unknown window"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(more, said, volume, tmp_path, capsys):
    assert focus(volume[0], tmp_path / "out", *more) == EXIT_ERROR
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_a_file_without_an_expert_is_refused_and_queries_reach_the_navigator(tmp_path, capsys, volume):
    (tmp_path / "none.yaml").write_text("seed: 1")
    assert focus(volume[0], tmp_path / "out", "--expert", tmp_path / "none.yaml") == EXIT_ERROR
    assert "describes no expert" in capsys.readouterr().err
    (tmp_path / "asked.yaml").write_text(
        "expert: {_target_: medeyes_monai.experts.BlobExpert}\n"
        "navigator::queries: {_target_: medeyes_monai.experts.queries.QueryTemplates, scan: s., drill: d.}"
    )
    expert, navigator = configured_search(tmp_path / "asked.yaml", ROOT / "bundle")
    assert navigator(expert).queries.scan == "s."
