"""The program that measures searches of real volumes, on volumes of blocks."""

import importlib
import json

import nibabel
import numpy as np
import pytest

from medeyes_monai.experts.relevance import relevance_of

BLOCKS = {1: (4, 16), 2: (18, 30), 3: (34, 44), 5: (46, 60)}
"""For each label, first and last voxel along x."""


@pytest.fixture
def program(monkeypatch, request):
    """The program."""
    monkeypatch.syspath_prepend(str(request.config.rootpath / "scripts"))
    return importlib.import_module("measure_focus")


@pytest.fixture
def folder(tmp_path, program):
    """A folder of data with a CT whose organs are blocks, and one too small to be asked for."""
    labels = np.zeros((64, 40, 30), np.uint8)
    for value, (low, high) in BLOCKS.items():
        labels[low:high, 10:26, 8:22] = value
    labels[30:32, 30:32, 2:4] = 4
    image = np.where(labels > 0, 60, -100).astype(np.int16)
    for path, voxels in ((program.STUDIES[0].image, image), (program.STUDIES[0].labels, labels)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([3.0, 3.0, 3.0, 1.0])), tmp_path / path)
    return tmp_path


def test_each_organ_is_asked_for_by_name_among_all_of_a_study(program, folder, capsys):
    out = folder / "out"
    program.main(["--folder", str(folder), "--output", str(out), "--seeds", "3"])
    table = (out / "table.md").read_text()
    names = ["CT, spleen", "CT, right kidney", "CT, left kidney", "CT, liver"]
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [*names, "all"]
    assert table in capsys.readouterr().out
    found = json.loads((out / "results.json").read_text())
    assert found["run"]["rescans"] == "8"
    assert list(found["iou"]) == names
    for paths in found["iou"].values():
        assert {len(paths[way]) for way in ("first scan", "scanned again")} == {3}
        assert all(0 <= iou <= 1 for way in paths.values() for path in way for iou in path)
        assert all(len(path) <= 4 for way in paths.values() for path in way)
        assert all(max(path) >= program.HIT_IOU for path in paths["scanned again"])


def test_an_organ_matters_more_than_others_where_its_name_is_asked_for(program):
    reader, query = program.Named(), program.QUESTION.format("left kidney")
    assert relevance_of(reader, query, "left kidney").level == "decisive"
    assert relevance_of(reader, query, "right kidney").level != "decisive"
    assert relevance_of(reader, query, "liver").level == "other"


def test_a_table_counts_paths_with_a_hit_and_the_looks_up_to_it(program):
    found = {
        "a": {"one": [[0.1, 0.3], [0.9]], "two": [[], [0.29, 0.2]]},
        "b": {"one": [[0, 0, 0.5]], "two": [[0.4]]},
    }
    cells = [[cell.split(" ")[0] for cell in row] for row in program.table_of(found).rows]
    assert cells == [
        ["a", "2", "2/2", "100.0", "1.5", "0/2", "0.0", "-"],
        ["b", "1", "1/1", "100.0", "3", "1/1", "100.0", "1"],
        ["all", "3", "3/3", "100.0", "2", "1/3", "33.3", "1"],
    ]


def test_a_folder_without_a_study_is_refused_with_what_was_wanted(program, tmp_path, capsys):
    with pytest.raises(SystemExit):
        program.main(["--folder", str(tmp_path)])
    assert "totalseg_ct/example_ct.nii.gz" in capsys.readouterr().err
