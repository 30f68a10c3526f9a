"""``focus`` on the command line: a file in, places out, and one line where something is wrong."""

import json
import sys
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from searched import ball

from medeyes_monai.__main__ import EXIT_ERROR, main
from medeyes_monai.experts import BlobExpert
from medeyes_monai.focus import Grid, read_markups
from medeyes_monai.focusing import configured_search, focus_on
from medeyes_monai.geometry import Box
from medeyes_monai.io import read_any

sys.path.insert(0, str(Path(__file__).parent / "io"))
from dicom_series import enhanced, save, series

BLOBS = "expert: {_target_: medeyes_monai.experts.BlobExpert, min_extent: 8}"
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
    (tmp_path / "blobs.yaml").write_text(BLOBS)
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
        (("--expert", "classical", "--overview-pixels", "100"), "the budgets are 100 and 4096; raise them"),
        (("--expert", "classical", "--look-pixels", "100"), "the budgets are 16384 and 100; raise them"),
        (("--expert", "classical", "--max-voxels", "100"), "raise max_voxels to accept"),
        (("--expert", "classical", "--decoder", "gdcm"), "unknown decoder 'gdcm'"),
        (("--expert", "classical", "--tilt", "no"), "tilt is 'refuse' or 'resample'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_nothing_is_written(more, said, volume, tmp_path, capsys):
    assert focus(volume[0], tmp_path / "out", *more) == EXIT_ERROR
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def in_two_series(folder, voxels):
    save(folder / "image", series(voxels[..., :9]))
    return save(folder / "image", series(voxels, SeriesInstanceUID="1.2.4"), [f"b{k}" for k in range(60)])


def nifti(folder, voxels, affine):
    nibabel.save(nibabel.Nifti1Image(voxels, affine), folder / "image.nii")
    return folder / "image.nii"


TILTED = np.array([[1.0, 0, 0, 0], [0, 1, 0.5, 0], [0, 0, 2, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("write", "option", "said"),
    [
        (in_two_series, ("--series", 1), "with series=0 to 1"),
        (
            lambda to, v: nifti(to, np.stack([0 * v, v], -1), np.eye(4)),
            ("--frame", 1),
            "with frame=0 to 1",
        ),
        (lambda to, v: nifti(to, v, TILTED), ("--tilt", "resample"), "pass tilt='resample'"),
        (lambda to, v: nifti(to, v, None), ("--axes", "LPS"), "pass axes, such as axes='LPS'"),
    ],
)
def test_what_a_message_says_to_pass_can_be_passed(write, option, said, tmp_path, capsys):
    image = write(tmp_path, ball()[0].numpy()[0])
    (tmp_path / "blobs.yaml").write_text(BLOBS)
    ask = partial(focus, image, tmp_path / "out", "--expert", tmp_path / "blobs.yaml", "--looks", 1)
    assert ask() == EXIT_ERROR
    assert said in capsys.readouterr().err
    assert ask(*option) == 0
    (look,) = json.loads((tmp_path / "out" / "focus.json").read_text())["looks"]
    heat = nibabel.load(tmp_path / "out" / "focus_map.nii.gz")
    assert heat.get_fdata()[Box.from_corners(look["box"]).slices].all()
    assert f"look 1: voxels {tuple(look['box'])}" in capsys.readouterr().out


def test_an_enhanced_dicom_file_is_searched_like_its_slices(tmp_path):
    slices = series(ball()[0].numpy()[0])
    (tmp_path / "blobs.yaml").write_text(BLOBS)
    save(tmp_path, [enhanced(slices)], ["one.dcm"])
    for image in (save(tmp_path / "many", slices), tmp_path / "one.dcm"):
        assert focus(image, tmp_path / f"of {image.name}", "--expert", tmp_path / "blobs.yaml") == 0
    one, many = (json.loads((tmp_path / of / "focus.json").read_text()) for of in ("of one.dcm", "of many"))
    assert one["looks"] == many["looks"] != []


@pytest.mark.parametrize("image", [ball()[0], np.zeros((1, 600, 500), np.uint8)])
def test_pictures_are_as_large_as_asked_for(image, tmp_path):
    expert, budget = BlobExpert(min_extent=8), {"overview_pixels": 256**2, "look_pixels": 192**2}
    for sizes, (overview, look) in (({}, (128**2, 64**2)), (budget, (256**2, 192**2))):
        found = focus_on(image, "What stands out?", tmp_path / str(look), expert=expert, max_looks=1, **sizes)
        scene = found.case.scene
        views = scene.overview(), scene.look(Box.whole(scene.shape))
        for view, most in zip(views, (overview, look), strict=True):
            rows, columns, _ = view.pixels.shape
            assert most / 2 < rows * columns <= most


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
