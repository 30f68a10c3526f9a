"""Is a turn about to be cut at its limit: an optional penalty (DAPO's soft overlong punishment)."""

from __future__ import annotations

from medeyes_monai.errors import ConfigError
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode

__all__ = ["overlong"]


def overlong(episode: Episode, case: Case, *, limit: int, buffer: int) -> float:
    """Return 0 for turns that leave the buffer free, falling in a straight line to -1 at the limit.

    The longest turn counts. A turn that is cut at its limit earns nothing anyway; the penalty begins before
    that, so that a policy learns to be brief while its turns are still complete. The expert's turns have no
    limit, and those beyond it get -1 too. Not part of the paper's reward. The case is not read.

    Args:
        episode: The episode.
        case: Its question.
        limit: Largest number of tokens of a turn, its end included (the rollout's ``max_turn_tokens``).
        buffer: Number of tokens before the limit over which the penalty grows.

    Raises:
        ConfigError: If the buffer is not within the limit.

    Example:
        >>> import torch
        >>> from medeyes_monai.trajectory import Trajectory
        >>> mask = torch.tensor([False] + 30 * [True] + [False] + 42 * [True])
        >>> none = torch.zeros(0)
        >>> episode = Episode("q", "policy", 0, none, mask, none, (), (), Trajectory())
        >>> overlong(episode, None, limit=48, buffer=16)  # 10 of the last 16 tokens
        -0.625
    """
    if not 0 < buffer <= limit:
        raise ConfigError(f"overlong needs a buffer of 1 to limit tokens, got {buffer} of {limit}")
    longest = max(episode.turn_tokens, default=0)
    return max(-1.0, min(0.0, (limit - buffer - longest) / buffer))
