"""The steps of supervised training: a schedule, and a loss that draws its own batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from tqdm import tqdm

from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.trajectory import Episode

__all__ = ["fit", "said_loss", "teach_episodes"]


def schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate: a short rise, a plateau, then a linear fall from half way."""
    return min(1.0, (step + 1) / 100) * max(0.03, min(1.0, 2 * (1 - step / steps)))


def fit(
    parameters: list[dict[str, object]], loss_of: Callable[[], torch.Tensor], steps: int, name: str
) -> None:
    """Minimise a loss that draws its own batches; with 0 steps nothing happens."""
    if not steps:
        return
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, steps))
    smooth = 0.0
    progress = tqdm(range(steps), desc=name)
    for step in progress:
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        smooth += (loss.item() - smooth) / min(step + 1, 50)
        progress.set_postfix(loss=f"{smooth:.3f}")


def said_loss(policy: HuggingFacePolicy, episodes: Sequence[Episode]) -> torch.Tensor:
    """Return the mean negative log-probability of what is to be said."""
    scores = policy.score(episodes)
    return -scores.logprobs.sum() / scores.response_mask.sum()


def teach_episodes(
    policy: HuggingFacePolicy,
    episodes: Sequence[Episode],
    *,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    name: str,
    draw: Callable[[np.random.Generator], Episode] | None = None,
) -> None:
    """Teach the whole model to write episodes.

    Args:
        policy: The policy.
        episodes: What is taught.
        steps: Number of steps.
        batch: Episodes in a step.
        rate: Learning rate; the vision tower has a fifth of it.
        seed: Of the order of episodes.
        name: Of the progress bar.
        draw: Draws an episode of words alone; half as many as of the others are taught beside them.
    """
    rng, other = np.random.default_rng(seed), np.random.default_rng(seed + 1)

    def loss() -> torch.Tensor:
        some = [episodes[i] for i in rng.integers(0, len(episodes), batch)]
        return said_loss(policy, some + ([draw(other) for _ in range(batch // 2)] if draw else []))

    tower = list(policy.core.model.visual.parameters())
    known = {id(p) for p in tower}
    rest = [p for p in policy.parameters() if id(p) not in known]
    fit([{"params": rest, "lr": rate}, {"params": tower, "lr": rate / 5}], loss, steps, name)
