"""Which questions a step asks, as a function of the step's number alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from medeyes_monai.errors import ConfigError
from medeyes_monai.seeding import torch_generator

__all__ = ["StepBatchSampler"]


class StepBatchSampler(Sampler[list[int]]):
    """Endless batches of questions, in passes over the data set whose order is drawn by address.

    A question comes up at most once in a pass; those that do not fill a last batch wait for the next pass.

    Args:
        size: Number of questions in the data set.
        batch: Questions of a step.
        seed: Seed of the run.

    Raises:
        ConfigError: If there are fewer questions than a step asks.

    Example:
        >>> sampler = StepBatchSampler(size=6, batch=2)
        >>> sorted(index for step in range(3) for index in sampler.batch_of(step))
        [0, 1, 2, 3, 4, 5]
    """

    def __init__(self, size: int, batch: int, seed: int = 0) -> None:
        """Begin at step 0."""
        if not 1 <= batch <= size:
            raise ConfigError(f"a step asks {batch} questions, the data set has {size}; it needs 1 to {size}")
        self.size, self.batch, self.seed = size, batch, seed
        self.first_step = 0
        """Step with which an iteration begins; a resumed run sets it."""

    def batch_of(self, step: int) -> list[int]:
        """Return the questions of a step."""
        steps = self.size // self.batch
        start = step % steps * self.batch
        order: list[int] = torch.randperm(
            self.size, generator=torch_generator(self.seed, "questions", step // steps)
        ).tolist()
        return order[start : start + self.batch]

    def __iter__(self) -> Iterator[list[int]]:
        """Iterate over the batches of all steps from :attr:`first_step` on."""
        step = self.first_step
        while True:
            yield self.batch_of(step)
            step += 1
