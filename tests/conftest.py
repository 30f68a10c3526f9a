import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from medeyes_monai.data.phantom import PhantomVQA
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.tiny import make_tiny_checkpoint
from medeyes_monai.scenes import Case, ImageScene

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = ("qwen3_vl", "qwen2_5_vl")


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


class LookingPolicy(HuggingFacePolicy):
    """A random policy whose turns are short and whose words are read as looks and answers."""

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """Make the end of a turn likely."""
        more = torch.zeros(self.vocabulary_size, device=hidden.device)
        more[self.end_of_turn] = 6.0
        return super().scores(hidden) + more

    def decode(self, token_ids: Sequence[int]) -> str:
        """Read the sum of the words as one of three places to look at, or as an answer."""
        number = sum(token_ids) % 5
        if number > 2:
            return "<reasoning>so</reasoning><answer>solid</answer>"
        box = [30 * number, 10, 30 * number + 40, 50]
        return f'<reasoning>so</reasoning><action>{{"name":"Gaze","coordinate":{box}}}</action>'


@pytest.fixture(params=FAMILIES)
def looking(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> LookingPolicy:
    """A random policy of each family that looks."""
    return LookingPolicy(checkpoints[request.param])


def phantom_cases(policy: HuggingFacePolicy, number: int, **arguments: object) -> list[Case]:
    """Some questions about phantoms whose pictures fit the policy's grid."""

    def scene(image: torch.Tensor, **more: object) -> ImageScene:
        budget = {"overview_pixels": (4 * policy.patch) ** 2, "look_pixels": (2 * policy.patch) ** 2}
        return ImageScene(image, patch=policy.patch, **budget, **more)  # type: ignore[arg-type]

    cases = PhantomVQA("val", size=number, scene=scene, **arguments)  # type: ignore[arg-type]
    return [cases[i] for i in range(number)]
