"""Small cases and episodes that the tests of metrics share."""

import torch

from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode, Fixation, Trajectory


class Marked:
    """The part of a scene that metrics read: its name and what the data say is there."""

    def __init__(self, *findings, key="image"):
        self.findings, self.key = findings, key


def case(key, answer="yes", family="open", image=None, findings=(), **more):
    return Case(key, Marked(*findings, key=image or key), "?", answer, family=family, **more)


def episode(key, answer="yes", boxes=(), logprobs=(), mask=(), turns=(), token_ids=None):
    return Episode(
        case=key,
        stream="policy",
        draw=0,
        token_ids=torch.tensor(range(len(mask)) if token_ids is None else token_ids, dtype=torch.long),
        response_mask=torch.tensor(mask, dtype=torch.bool),
        behaviour_logprobs=torch.tensor(logprobs, dtype=torch.float32),
        pictures=(),
        turns=tuple(turns),
        trajectory=Trajectory(tuple(Fixation("", box) for box in boxes), "", answer),
    )
