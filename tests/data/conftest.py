import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def script(name: str) -> ModuleType:
    """Load a program of scripts/ without running it."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def program() -> ModuleType:
    """The program that prepares data."""
    return script("prepare_data")


@pytest.fixture(scope="session")
def fixtures() -> ModuleType:
    """The program that writes made-up data in the official layouts."""
    return script("make_fixtures")


@pytest.fixture(scope="session")
def layouts(tmp_path_factory: pytest.TempPathFactory, fixtures: ModuleType) -> Path:
    """A folder with each official layout; read only."""
    pytest.importorskip("pyarrow", reason="tables need pyarrow")
    folder = tmp_path_factory.mktemp("layouts")
    assert fixtures.main([str(folder)]) == 0
    return folder


@pytest.fixture
def copied(layouts: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copies a layout, so that it can be damaged."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(layouts / name, tmp_path / name))

    return copy
