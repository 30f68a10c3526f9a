"""The policy alone as a MONAI inferer: from questions about images to episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.inferers import Inferer

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy import Policy
from medeyes_monai.rollout import MAX_LOOKS, rollout
from medeyes_monai.scenes import Case
from medeyes_monai.tools import Tool, make_tools
from medeyes_monai.trajectory import Episode

__all__ = ["EpisodeInferer"]


class EpisodeInferer(Inferer):
    """Lets a policy look at scenes, turn by turn, until it answers.

    Args:
        draws: Episodes of each question.
        max_looks: Largest number of looks in an episode.
        max_turn_tokens: Largest number of tokens in a turn.
        greedy: Take the likeliest token instead of drawing one.
        batch: Episodes that are written side by side; the result does not depend on it.
        tools: What the policy may use beside looking, by name (:data:`~medeyes_monai.tools.TOOLS`) or as it
            is; none in the paper's protocol.

    Raises:
        ConfigError: If a limit leaves nothing to do, or there is no such tool.
    """

    def __init__(
        self,
        draws: int = 1,
        max_looks: int = MAX_LOOKS,
        max_turn_tokens: int = 48,
        greedy: bool = True,
        batch: int = 128,
        tools: Sequence[str | Tool] = (),
    ) -> None:
        """Remember the limits."""
        super().__init__()
        if min(draws, max_turn_tokens, batch) < 1 or max_looks < 0:
            raise ConfigError(
                f"draws, max_turn_tokens and batch must be at least 1 and max_looks at least 0, got {draws}, "
                f"{max_turn_tokens}, {batch} and {max_looks}"
            )
        self.draws, self.max_looks, self.max_turn_tokens = draws, max_looks, max_turn_tokens
        self.greedy, self.batch = greedy, batch
        self.tools = make_tools(tools)

    def __call__(
        self,
        inputs: Sequence[Case],
        network: Policy,
        *args: Any,
        address: tuple[int | str, ...] = (0,),
        **kwargs: Any,
    ) -> list[Episode]:
        """Return ``len(inputs) * draws`` episodes, the draws of a question side by side.

        Args:
            inputs: The questions.
            network: The policy.
            args: Not read; part of MONAI's signature.
            address: Seed of the draws, see :func:`medeyes_monai.rollout.rollout`.
            kwargs: Not read; part of MONAI's signature.
        """
        step = max(1, self.batch // self.draws)
        episodes: list[Episode] = []
        for start in range(0, len(inputs), step):
            episodes += rollout(
                network,
                inputs[start : start + step],
                draws=self.draws,
                address=address,
                max_looks=self.max_looks,
                max_turn_tokens=self.max_turn_tokens,
                greedy=self.greedy,
                tools=self.tools,
            )
        return episodes
