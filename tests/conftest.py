import os
import socket
from pathlib import Path

import pytest
import torch
from policies import FAMILIES, LookingPolicy

from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.tiny import make_tiny_checkpoint

ROOT = Path(__file__).resolve().parent.parent


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("network"):
        try:
            socket.getaddrinfo("huggingface.co", 443)
        except OSError:
            pytest.skip("needs the internet")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of real data; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("MEDEYES_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data: set MEDEYES_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random checkpoints of each family, with weights large enough for distinct distributions."""
    folder = tmp_path_factory.mktemp("checkpoints")
    corpus = ["left large solid", "3 candidates", "Which kind is the lesion?"] * 20
    for family in FAMILIES:
        make_tiny_checkpoint(folder / family, family=family, corpus=corpus)
        policy = HuggingFacePolicy(folder / family)
        generator = torch.Generator().manual_seed(1)
        for parameter in policy.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, 0.05, generator=generator)
        policy.save(folder / family)
    return {family: folder / family for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def policy(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> HuggingFacePolicy:
    """A random policy of each family."""
    return HuggingFacePolicy(checkpoints[request.param])


@pytest.fixture(params=FAMILIES)
def looking(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> LookingPolicy:
    """A random policy of each family that looks."""
    return LookingPolicy(checkpoints[request.param])
