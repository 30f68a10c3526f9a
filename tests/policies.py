"""Policies and questions that several tests share."""

from collections.abc import Sequence

import torch

from medeyes_monai.data.phantom import PhantomVQA
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.scenes import Case, ImageScene

FAMILIES = ("qwen3_vl", "qwen2_5_vl")


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


def phantom_cases(policy: HuggingFacePolicy, number: int, **arguments: object) -> list[Case]:
    """Some questions about phantoms whose pictures fit the policy's grid."""

    def scene(image: torch.Tensor, **more: object) -> ImageScene:
        budget = {"overview_pixels": (4 * policy.patch) ** 2, "look_pixels": (2 * policy.patch) ** 2}
        return ImageScene(image, patch=policy.patch, **budget, **more)  # type: ignore[arg-type]

    cases = PhantomVQA("val", size=number, scene=scene, **arguments)  # type: ignore[arg-type]
    return [cases[i] for i in range(number)]
