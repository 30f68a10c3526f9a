from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from policies import LookingPolicy, phantom_cases

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.vision import VisionMemo
from medeyes_monai.rollout import rollout
from medeyes_monai.trajectory import Picture


def picture(number: int, side: int = 4) -> Picture:
    return np.full((side, side, 3), number, dtype=np.uint8)


class Tower(torch.nn.Module):
    """One weight that pictures are multiplied with, and a count of the pictures that it saw."""

    def __init__(self, trained: bool, budget: int = 10_000) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0), requires_grad=trained)
        self.memo = VisionMemo(self, self.encode, budget)

    def encode(self, pictures: list[Picture]) -> list[tuple[torch.Tensor, ...]]:
        return [(torch.tensor(some, dtype=torch.float32) * self.weight,) for some in pictures]

    def means(self, *pictures: Picture) -> list[float]:
        return [features[0].mean().item() for features in self.memo(pictures)]


def test_equal_pictures_are_encoded_once_and_come_back_in_order() -> None:
    tower = Tower(trained=False)
    assert tower.means(picture(1), picture(3), picture(1)) == [2, 6, 2]
    assert tower.memo.encoded == 2
    assert tower.means(picture(3), picture(4)) == [6, 8]
    assert tower.memo.encoded == 3


def test_pictures_of_equal_bytes_and_other_sides_are_distinct() -> None:
    tower = Tower(trained=False)
    wide, high = np.zeros((2, 8, 3), np.uint8), np.zeros((8, 2, 3), np.uint8)
    shapes = [features[0].shape for features in tower.memo([wide, high])]
    assert shapes == [(2, 8, 3), (8, 2, 3)]


def test_features_are_made_anew_once_the_tower_has_changed() -> None:
    tower = Tower(trained=True)
    with torch.no_grad():
        assert tower.means(picture(1)) == [2]
        tower.weight.mul_(5)
        assert tower.means(picture(1)) == [10]


def test_a_gradient_reaches_a_trained_tower_through_every_use_of_a_picture() -> None:
    tower = Tower(trained=True)
    with torch.no_grad():
        tower.memo([picture(1)])
    first, second = tower.memo([picture(1), picture(1)])
    (first[0].sum() + second[0].sum()).backward()
    assert tower.weight.grad == 2 * 4 * 4 * 3
    assert tower.memo.encoded == 2  # once without gradient, once with


def test_no_more_is_kept_than_the_budget_allows() -> None:
    size = 4 * 4 * 3 * 4  # bytes of a picture's features
    tower = Tower(trained=False, budget=2 * size)
    tower.means(picture(1), picture(2))
    tower.means(picture(1), picture(3))  # 2 was used least recently
    assert tower.memo.encoded == 3
    tower.means(picture(1), picture(3))
    assert tower.memo.encoded == 3
    tower.means(picture(2))
    assert tower.memo.encoded == 4


@pytest.mark.parametrize("frozen", [True, False])
def test_each_distinct_picture_goes_through_the_tower_once_for_a_rollout(
    checkpoints: dict[str, Path], frozen: bool
) -> None:
    policy = LookingPolicy(checkpoints["qwen3_vl"], freeze_vision=frozen)
    memo = policy.family.features
    episodes = rollout(policy, phantom_cases(policy, 2), draws=8, max_turn_tokens=16)
    shown = [picture.tobytes() for episode in episodes for picture in episode.pictures]
    assert len(shown) > 20 > len(set(shown)) > 2
    assert memo.encoded == len(set(shown))
    policy.score(episodes)
    assert memo.encoded == len(set(shown)) * (1 if frozen else 2)


@pytest.mark.parametrize("frames", [1, 2])
def test_patches_are_those_of_the_library(looking: LookingPolicy, frames: int) -> None:
    looking.family.processor.temporal_patch_size = frames
    generator = np.random.default_rng(0)
    side = looking.patch
    pictures = [
        generator.integers(0, 256, (rows * side, columns * side, 3), dtype=np.uint8)
        for rows, columns in ((1, 1), (2, 3), (4, 1))
    ]
    images = [Image.fromarray(picture) for picture in pictures]
    expected = looking.family.processor(images=images, return_tensors="pt", do_resize=False)
    patches, grids = zip(*map(looking.family.patches, pictures), strict=True)
    torch.testing.assert_close(torch.cat(patches), expected["pixel_values"], atol=1e-6, rtol=0)
    assert [list(grid) for grid in grids] == expected["image_grid_thw"].tolist()


def test_an_adapter_may_not_reach_into_a_frozen_tower(checkpoints: dict[str, Path]) -> None:
    lora = {"r": 2, "target_modules": ".*visual.*qkv"}
    with pytest.raises(ConfigError, match="reaches into the vision tower"):
        LookingPolicy(checkpoints["qwen3_vl"], lora=lora)


def test_features_made_with_an_adapter_are_not_those_of_the_reference(checkpoints: dict[str, Path]) -> None:
    lora = {"r": 2, "target_modules": ".*visual.*qkv", "init_lora_weights": False}
    policy = LookingPolicy(checkpoints["qwen3_vl"], lora=lora, freeze_vision=False)
    pictures = phantom_cases(policy, 1)[0].scene.overview().pixels[None]
    with torch.no_grad():
        (adapted,) = policy.family.features(pictures)
        with policy.reference():
            (reference,) = policy.family.features(pictures)
        (again,) = policy.family.features(pictures)
    assert (adapted[0] - reference[0]).abs().max() > 1e-4
    assert torch.equal(adapted[0], again[0])
