"""``--expert`` on the command line: a name or a file, laid over everything else, over any data."""

from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from medeyes_monai.__main__ import EXIT_ERROR, _overlays, _parser, main
from medeyes_monai.errors import ConfigError
from medeyes_monai.io.configs import check_config, find_overlay

ROOT = Path(__file__).resolve().parents[1]
EXPERTS = ROOT / "configs" / "experts"
NAMES = sorted(file.stem for file in EXPERTS.glob("*.yaml"))
TRAIN = ROOT / "bundle" / "configs" / "train.yaml"


def overlays(*words):
    return _overlays(_parser().parse_args(["train", "--bundle", str(ROOT / "bundle"), *words]))


def built(name, *files):
    parser = ConfigParser()
    parser.read_config([str(TRAIN), *map(str, files)])
    return parser.get_parsed_content(name)


def test_the_experts_of_this_project_have_names():
    assert {"annotations", "classical"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_file_of_that_name(name):
    assert overlays("--expert", name) == [str(EXPERTS / f"{name}.yaml")]


def test_the_expert_is_laid_over_all_other_files():
    words = ["--expert", "classical", "--config", "a.yaml", "--config", "b.yaml"]
    assert overlays(*words) == ["a.yaml", "b.yaml", str(EXPERTS / "classical.yaml")]
    assert overlays("--config", "a.yaml") == ["a.yaml"]


def test_a_file_is_taken_as_it_is_given(tmp_path):
    assert overlays("--expert", "mine.yaml") == ["mine.yaml"]
    assert find_overlay(f"{tmp_path}/mine.json", EXPERTS) == tmp_path / "mine.json"


def test_an_unknown_name_ends_in_one_line_with_all_names(capsys):
    assert main(["train", "--bundle", str(ROOT / "bundle"), "--expert", "anotations"]) == EXIT_ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: 'anotations' is unknown; did you mean 'annotations'? known: annotations, ")
    assert all(name in said for name in NAMES)


def test_a_missing_file_and_a_folder_without_names_are_told(tmp_path, capsys):
    assert (
        main(["train", "--bundle", str(ROOT / "bundle"), "--expert", str(tmp_path / "no.yaml")]) == EXIT_ERROR
    )
    assert "no.yaml does not exist" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"holds no \.yaml files; give a file"):
        find_overlay("mine", tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", [None, "vqa_rad", "datalist", "embedded", "ablation/_base"])
def test_every_expert_goes_over_every_data(name, data):
    below = [] if data is None else [ROOT / "configs" / f"{data}.yaml"]
    check_config(TRAIN, [*below, EXPERTS / f"{name}.yaml"])


def test_annotations_are_the_bundles_own_expert():
    file = EXPERTS / "annotations.yaml"
    assert built("expert", file).name == built("expert").name
    plain, laid = built("sampler"), built("sampler", file)
    assert laid.navigator.expert.directory is plain.navigator.expert.directory is None
    assert (laid.prune, laid.on_no_answer) == (plain.prune, plain.on_no_answer)


def test_the_classical_expert_needs_no_reader_and_its_paths_get_the_reference(tmp_path):
    parser = ConfigParser()
    parser.read_config([str(TRAIN), str(EXPERTS / "classical.yaml")])
    parser.update({"output_dir": str(tmp_path)})
    sampler = parser.get_parsed_content("sampler")
    assert sampler.name.startswith("blobs-")
    assert sampler.navigator.reader is None
    assert sampler.on_no_answer == "reference"
    assert sampler.navigator.expert.directory == tmp_path / "memo"
