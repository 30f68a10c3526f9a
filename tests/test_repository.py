"""What the repository promises around the code: quick import, files that exist, no traces of a machine."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from medeyes_monai.data.items import read_datalist
from medeyes_monai.geometry import Box

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
IMPORT_SECONDS = 3.0


def tracked_files():
    """Return the files that git knows, or skip outside of a clone."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone, so nothing tells which files belong to the repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)  # noqa: S607
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def python(code):
    """Run code in a fresh interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout


def test_importing_the_package_is_quick():
    code = "import time, medeyes_monai; print(time.process_time())"
    assert float(python(code)) < IMPORT_SECONDS


def test_importing_the_package_needs_no_optional_library():
    heavy = ["transformers", "itk", "peft", "accelerate", "matplotlib", "gradio", "highdicom"]
    code = f"import sys, medeyes_monai; print([name for name in {heavy} if name in sys.modules])"
    assert python(code).strip() == "[]"


def test_every_file_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    mentions = [name for name in re.findall(r"`([\w./-]+)`", text) if "/" in name or Path(name).suffix]
    commands = re.findall(r"\bbundle/[\w./-]+", text)
    written_by_a_run = {"report/index.html", "runs/tiny", "adapter/", "policy/"}
    names = {*links, *mentions, *commands} - written_by_a_run
    assert names >= {"docs/gaze_path.png", "LICENSE", "configs/", "medeyes_monai/"}
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []


def test_the_datalist_in_the_readme_can_be_read(tmp_path):
    (example,) = re.findall(r"```json\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "datalist.json").write_text(example)
    (item,) = read_datalist(tmp_path / "datalist.json")
    assert (item.question, item.answer, item.family) == ("Is there a nodule?", "yes", "presence")
    assert item.boxes == (Box((310, 122), (358, 171)),)


def test_no_tracked_file_names_a_place_on_one_machine():
    place = re.compile(rb"(?<![\w.:/-])/(?:home|work|root|Users|opt|mnt)/\w|\b[A-Z]:\\\\?Users")
    own = Path(__file__).resolve()
    texts = {path: path.read_bytes() for path in tracked_files() if path.resolve() != own}
    found = [
        path.relative_to(ROOT) for path, text in texts.items() if b"\0" not in text and place.search(text)
    ]
    assert found == []


def test_every_requirement_is_pinned_by_a_constraint_that_it_allows():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["dev"])
    ]
    assert [
        str(want) for want in wanted if pins.get(canonicalize_name(want.name)) not in want.specifier
    ] == []


def test_the_continuous_integration_runs_the_test_command_of_the_readme():
    script = ROOT / ".ci" / "run"
    commands = [line for line in script.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert script.stat().st_mode & 0o111
    assert commands[-1] == "make test"
    assert "\nmake test " in (ROOT / "README.md").read_text("utf-8")


def test_the_licence_is_the_whole_apache_licence():
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Version 2.0, January 2004" in text
    assert all(f"\n   {number}. " in text for number in range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text
