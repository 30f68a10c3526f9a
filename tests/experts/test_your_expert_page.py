"""The page for those who bring their own expert: all of its code is run as it stands there."""

import doctest
import re
import sys
from pathlib import Path

import pytest
import yaml
from expert_scenes import make_scene

from medeyes_monai.experts.queries import Queries
from medeyes_monai.io.configs import check_config

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "your_expert.md"
BUNDLE = ROOT / "bundle"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def sessions():
    return [block for block in blocks("python") if ">>>" in block]


@pytest.fixture
def my_expert(tmp_path, monkeypatch):
    """Save the page's expert where it says, and work in that folder."""
    (code,) = (block for block in blocks("python") if ">>>" not in block)
    (tmp_path / "my_expert.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield code
    sys.modules.pop("my_expert", None)


def test_what_the_page_shows_is_what_its_code_says(my_expert):
    assert len(sessions()) == 2
    text = "".join(sessions())
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0))
    assert runner.summarize(verbose=False).failed == 0


def test_the_expert_of_the_page_is_as_short_as_it_says(my_expert):
    body = my_expert[my_expert.index("class ") :]
    lines = [line for line in body.splitlines() if line.strip() and '"""' not in line]
    assert len(lines) <= 20


def test_the_configurations_of_the_page_fit_the_bundle(my_expert, tmp_path):
    overlay, queries = blocks("yaml")
    (tmp_path / "my_expert.yaml").write_text(overlay + queries, "utf-8")
    check_config(BUNDLE / "configs" / "train.yaml", [tmp_path / "my_expert.yaml"])
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / "train.yaml"), str(tmp_path / "my_expert.yaml")])
    navigator = parser.get_parsed_content("navigator")
    assert navigator.expert.name == "bright-spots-150"
    assert navigator.queries.fill("Is it there?", make_scene()) == Queries(
        "Locate all abnormal regions of this chest radiograph.",
        "Is it there? Judge by this region of a chest radiograph alone.",
    )
    assert set(yaml.safe_load(overlay)) >= {"expert", "reader", "memo::directory"}


def test_every_file_that_the_page_names_exists():
    named = re.findall(r"`((?:scripts|configs|tests|docs)/[\w./-]+)`", PAGE.read_text("utf-8"))
    assert {"configs/experts", "configs/datalist.yaml", "tests/experts/test_your_expert_page.py"} <= set(
        named
    )
    assert [name for name in named if not (ROOT / name).exists()] == []
