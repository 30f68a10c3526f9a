"""A policy's model as one that replies to a picture and a text, for an expert in the same process."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medeyes_monai.errors import ConfigError, ExpertError
from medeyes_monai.experts.vlm_chat import Reply, TokenSpan
from medeyes_monai.policy.base import Segment
from medeyes_monai.policy.huggingface import HuggingFacePolicy
from medeyes_monai.seeding import torch_generator
from medeyes_monai.trajectory import Picture

__all__ = ["PolicyChat"]


class PolicyChat:
    """Lets a frozen :class:`~medeyes_monai.policy.HuggingFacePolicy` write replies, all draws in one batch.

    A reply belongs to its seed alone. Probabilities are those of the policy at its temperature, of which the
    likeliest words are taken, or words are drawn.

    Args:
        policy: The model; give an expert one of its own, not the one that is trained.
        max_tokens: Longest reply. Unit: tokens.

    Raises:
        ConfigError: If replies have no length.
    """

    def __init__(self, policy: HuggingFacePolicy, *, max_tokens: int = 512) -> None:
        """Freeze the model."""
        if max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, got {max_tokens}")
        self.policy, self.max_tokens = policy.train(False), max_tokens

    @property
    def name(self) -> str:
        """The model and what changes its replies."""
        return f"{self.policy.path} at {self.policy.temperature}, {self.max_tokens} tokens"

    @property
    def grid(self) -> int:
        """Side of the squares that the sides of a picture are multiples of. Unit: pixels."""
        return self.policy.patch

    @torch.no_grad()
    def ask(self, picture: Picture, text: str, seeds: Sequence[int | None]) -> list[Reply]:
        """Return one reply for each seed; None asks for the likeliest words.

        Raises:
            ExpertError: If the question leaves no room for a reply.
        """
        ids = self.policy.conversation.prompt(text, self.policy.family.picture_ids(picture))
        room = min(self.max_tokens, self.policy.max_tokens - len(ids))
        if room < 1:
            raise ExpertError(f"{self.name}: a question of {len(ids)} tokens leaves no room for a reply")
        prompt = Segment(ids, (picture,))
        decoder, going = self.policy.start([prompt] * len(seeds)), list(range(len(seeds)))
        numbers = [_numbers(seed, room) for seed in seeds]
        written: list[list[tuple[int, float]]] = [[] for _ in seeds]
        for step in range(room):
            tokens = _draw(
                decoder.logits, [None if n is None else n[step] for n in map(numbers.__getitem__, going)]
            )
            for row, token in zip(going, tokens, strict=True):
                written[row].append(token)
            stay = [n for n, (token, _) in enumerate(tokens) if token != self.policy.end_of_turn]
            if not stay or step + 1 == room:
                break
            if len(stay) < len(going):
                decoder.keep(stay)
            going = [going[n] for n in stay]
            decoder.append({n: Segment((written[row][-1][0],)) for n, row in enumerate(going)})
        return [self._reply(tokens) for tokens in written]

    def _reply(self, written: list[tuple[int, float]]) -> Reply:
        """Return the text of tokens and where in it each stands."""
        said = [pair for pair in written if pair[0] != self.policy.end_of_turn]
        ids = [token for token, _ in said]
        ends = [0, *(len(self.policy.decode(ids[: n + 1])) for n in range(len(ids)))]
        spans: list[TokenSpan] = [(ends[n], ends[n + 1], said[n][1]) for n in range(len(ids))]
        return Reply(self.policy.decode(ids), tuple(spans))


def _numbers(seed: int | None, number: int) -> list[float] | None:
    """Return the uniform numbers of a draw, one for each token; None for the likeliest words."""
    if seed is None:
        return None
    drawn: list[float] = torch.rand(
        number, dtype=torch.float64, generator=torch_generator("chat", seed)
    ).tolist()
    return drawn


def _draw(scores: torch.Tensor, numbers: Sequence[float | None]) -> list[tuple[int, float]]:
    """Return a token for each row with its log-probability: where the number falls, or the likeliest."""
    distribution = torch.log_softmax(scores.double(), dim=-1)
    cumulative = distribution.exp().cumsum(-1)
    likeliest = distribution.argmax(-1).tolist()
    tokens = []
    for row, number in enumerate(numbers):
        place = likeliest[row]
        if number is not None:
            reached = torch.searchsorted(cumulative[row], number * cumulative[row, -1], right=True)
            place = min(int(reached), int((distribution[row] > float("-inf")).nonzero()[-1]))
        tokens.append((place, float(distribution[row, place])))
    return tokens
