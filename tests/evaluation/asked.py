"""Questions and someone to answer them, without a model: what the tests of the evaluation share."""

import os
import signal

import numpy as np
import torch
from torch.utils.data import Dataset

from medeyes_monai.evaluation import RecordingEvaluator
from medeyes_monai.evaluation.records import Answered
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Case, Finding, ImageScene
from medeyes_monai.trajectory import Episode, Fixation, Trajectory

LOOK = Box((0, 0), (40, 40))


class Sides(Dataset):
    """Which half of a picture is bright? Two questions for each picture, the second is closed."""

    def __init__(self, pictures=4, unreadable=()):
        self.pictures, self.unreadable = pictures, tuple(unreadable)

    def __len__(self):
        return 2 * self.pictures

    def __getitem__(self, index):
        if index in self.unreadable:
            return self[index + 1]
        number = index // 2
        left = number % 2 == 0
        image = np.full((1, 80, 80), 10 + number, np.uint8)
        image[:, :40] += 100 * left
        image[:, 40:] += 100 * (not left)
        start = 0 if left else 40
        found = (
            Finding(Box((start, 0), (start + 40, 80)), "bright half"),
            Finding(Box((0, 0), (80, 80)), "picture", subtle=False),
        )
        scene = ImageScene(image, key=f"picture-{number}", findings=found, min_extent=32)
        if index % 2:
            return Case(
                f"q{index}",
                scene,
                "Is the left half bright?",
                "yes" if left else "no",
                scoring="closed",
                family="closed",
            )
        return Case(f"q{index}", scene, "Which half is bright?", "left" if left else "right", family="open")


class Reader:
    """Looks at the upper left quarter and says the bright side by what the look showed."""

    def __init__(self, dies_after=None, name="reader", glances=()):
        self.dies_after, self.name, self.glances, self.asked = dies_after, name, glances, []

    @property
    def identity(self):
        return {"kind": "policy", "name": self.name, "protocol": "gaze", "max_looks": 1}

    def answer(self, cases):
        return [self._one(case) for case in cases]

    def answer_early(self, cases, answered):
        return [(0.5, 0.75)[: 1 + len(one.episode.trajectory.fixations)] for one in answered]

    def _one(self, case):
        if self.dies_after is not None and len(self.asked) >= self.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        self.asked.append(case.key)
        looks = () if case.key in self.glances else (Fixation("so", LOOK),)
        bright = case.scene.look(LOOK).pixels.mean() > 60
        answer = ("yes" if bright else "no") if "Is" in case.question else "left" if bright else "right"
        episode = Episode(
            case=case.key,
            stream="policy",
            draw=0,
            token_ids=torch.tensor([9, 1, 2, 9, 3]),
            response_mask=torch.tensor([False, True, True, False, True]),
            behaviour_logprobs=torch.tensor([0.0, -0.5, -0.25, 0.0, -0.125]),
            pictures=(),
            turns=("<reasoning>so</reasoning>", f"<answer>{answer}</answer>"),
            trajectory=Trajectory(looks, "then", answer),
        )
        return Answered(episode, 0.75, 0.5)


def evaluator_of(path, reader=None, dataset=None, **more):
    return RecordingEvaluator(reader or Reader(), dataset or Sides(), path, batch=3, **more)
