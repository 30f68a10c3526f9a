"""The metrics of an evaluation as validation during training."""

import pytest
from policies import phantom_cases
from torch.utils.data import Dataset

from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.metrics import AnswerMetric, CalibrationMetric, GroundingMetric, ProgressionMetric
from medeyes_monai.rewards import CompositeReward
from medeyes_monai.training.evaluator import EpisodeEvaluator


class Cases(Dataset):
    def __init__(self, cases):
        self.cases = cases

    def __len__(self):
        return len(self.cases)

    def __getitem__(self, index):
        return self.cases[index]


def test_further_metrics_are_in_the_engines_state_after_each_run(looking):
    metrics = {
        "own": AnswerMetric(),
        "gaze": GroundingMetric(looks=2),
        "paths": ProgressionMetric(),
        "confidence": CalibrationMetric(looking.decode),
    }
    evaluator = EpisodeEvaluator(
        looking,
        Cases(phantom_cases(looking, 5)),
        EpisodeInferer(max_looks=2, max_turn_tokens=6),
        CompositeReward(),
        batch=2,
        metrics=metrics,
    )
    for epoch in (1, 2):  # a run forgets the one before
        evaluator.run(epoch)
        found = evaluator.state.metrics
        assert found["own/all"] == pytest.approx(found["accuracy"])
        assert found["gaze/hit@1"] == found["gaze/first_look"]
        assert metrics["gaze"].aggregate().count == sum(
            any(finding.subtle for finding in case.scene.findings) for case in evaluator.cases
        )
        assert {"confidence/ece", "paths/shrinks", "reward"} <= set(found)
