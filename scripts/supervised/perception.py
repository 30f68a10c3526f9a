"""Teaches a vision tower what is in a look, and where the candidates are in an overview."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.scenes import Finding
from medeyes_monai.trajectory import Picture
from supervised.course import Course
from supervised.fitting import fit
from supervised.lessons import Lesson

__all__ = ["Perception", "teach_perception"]

LOOKS = 128
"""Looks in a step."""


class Perception(torch.nn.Module):
    """Linear readings of the vision tower, used only to teach it what is where.

    A look is read for the words of the finding in it; each quarter of each token of an overview for whether
    it holds a candidate's centre, and where in the quarter.
    """

    def __init__(self, policy: HuggingFacePolicy, course: Course) -> None:
        """Make the readings."""
        super().__init__()
        width = policy.core.config.get_text_config().hidden_size
        self.policy, self.course = policy, course
        self.words = torch.nn.ModuleList(
            torch.nn.Linear(width, len(course.vocabulary[place])) for place in course.in_look
        )
        self.place = torch.nn.Linear(width, 4 * 3)

    def features(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """Return the tower's tokens, ``[B, tokens, width]``, for pictures of one size."""
        tokens = torch.cat([shown[0] for shown in self.policy.family.features(pictures)])
        return tokens.reshape(len(pictures), -1, self.place.in_features)

    def look_loss(self, pictures: Sequence[Picture], labels: Sequence[str]) -> torch.Tensor:
        """Cross-entropy of the words that looks show."""
        tokens = self.features(pictures).mean(1)
        total = torch.zeros(())
        for place, reading in zip(self.course.in_look, self.words, strict=True):
            words = self.course.vocabulary[place]
            truth = torch.tensor([words.index(label.split()[place]) for label in labels])
            total = total + cross_entropy(reading(tokens), truth)
        return total

    def overview_loss(self, pictures: Sequence[Picture], findings: Sequence[list[Finding]]) -> torch.Tensor:
        """Loss of finding the candidates' centres, by token and quarter of the token."""
        tokens = self.features(pictures)
        target = torch.zeros(*tokens.shape[:2], 4, 3)
        for n, some in enumerate(findings):
            for finding in some:
                token, quarter, across, down = self.course.place(finding)
                target[n, token, quarter] = torch.tensor([1.0, across, down])
        read = self.place(tokens).reshape(target.shape)
        there = target[..., 0]
        presence = binary_cross_entropy_with_logits(read[..., 0], there, pos_weight=torch.tensor(5.0))
        offset = ((read[..., 1:] - target[..., 1:]).square().sum(-1) * there).sum() / there.sum()
        return 4 * (presence + offset)


def teach_perception(
    policy: HuggingFacePolicy,
    course: Course,
    lessons: Sequence[Lesson],
    *,
    steps: int,
    overviews: int,
    seed: int,
) -> None:
    """Teach the tower, with some overviews in each step."""
    perception, rng = Perception(policy, course), np.random.default_rng(seed)
    looks = [look for lesson in lessons for look in lesson.looks]

    def loss() -> torch.Tensor:
        some = [looks[i] for i in rng.integers(0, len(looks), LOOKS)]
        others = [lessons[i] for i in rng.integers(0, len(lessons), overviews)]
        return perception.look_loss(*map(list, zip(*some, strict=True))) + perception.overview_loss(
            [lesson.episodes[0].pictures[0] for lesson in others], [lesson.findings for lesson in others]
        )

    readings = [*perception.words.parameters(), *perception.place.parameters()]
    tower = [*policy.core.model.visual.parameters(), *readings]
    fit([{"params": tower, "lr": 1e-3}], loss, steps, "perception")
