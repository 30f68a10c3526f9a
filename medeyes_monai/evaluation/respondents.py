"""Who is asked: a policy in this process, looking step by step or with one glance."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, get_args

from medeyes_monai.errors import ConfigError
from medeyes_monai.evaluation.early_answering import early_answers
from medeyes_monai.evaluation.identity import weights_digest
from medeyes_monai.evaluation.records import Answered
from medeyes_monai.inferers import EpisodeInferer
from medeyes_monai.metrics import answer_confidence
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.protocol import ANSWER, TAGS, parse_turn
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode, Trajectory

__all__ = ["GLANCE_INSTRUCTION", "Asking", "PolicyRespondent", "Respondent", "glance_answer"]

Asking = Literal["gaze", "glance"]
"""How is asked: with looks, or one picture and one reply."""
GLANCE_INSTRUCTION = "{question}\nAnswer with a word or a short phrase."
"""What is asked for under ``glance``, around the question."""


class Respondent(Protocol):
    """Whoever can be asked questions about images."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What its answers depend on, as plain values."""

    def answer(self, cases: Sequence[Case]) -> Sequence[Answered]:
        """Answer some questions, one episode for each, in order.

        Raises:
            MedEyesError: If it cannot.
        """

    def answer_early(
        self, cases: Sequence[Case], answered: Sequence[Answered]
    ) -> Sequence[tuple[float, ...]]:
        """Return how probable each question's reference was after 0, 1, … n of the looks that were taken.

        What is not known is empty (:func:`~medeyes_monai.evaluation.early_answering.early_answers`).
        """


class PolicyRespondent:
    """A policy in this process.

    Args:
        policy: The policy.
        inferer: How it looks and answers, one draw of each question; None takes the likeliest words with the
            defaults of :class:`~medeyes_monai.inferers.EpisodeInferer`. Under ``glance`` without looks.
        protocol: ``gaze``: it looks step by step until it answers. ``glance``: it gets the overview and the
            question in other words and says its answer at once, without the protocol; the baseline for
            models that know no looks. A reply that keeps to the protocol all the same is read by it.
        instruction: What is asked for under ``glance``, with ``{question}`` in it; None takes
            :data:`GLANCE_INSTRUCTION`.

    Raises:
        ConfigError: If there is no such protocol, or a question is drawn several times.
    """

    def __init__(
        self,
        policy: HuggingFacePolicy,
        inferer: EpisodeInferer | None = None,
        *,
        protocol: Asking = "gaze",
        instruction: str | None = None,
    ) -> None:
        """Check the settings."""
        check_protocol(protocol, instruction)
        self.policy, self.protocol = policy, protocol
        self.inferer = EpisodeInferer() if inferer is None else inferer
        if self.inferer.draws != 1:
            raise ConfigError(f"an evaluation draws each question once, got {self.inferer.draws} draws")
        if protocol == "glance":
            self.policy = copy.copy(policy)  # shares the weights
            self.policy.instruction = instruction or GLANCE_INSTRUCTION
            self.inferer = copy.copy(self.inferer)
            self.inferer.max_looks = 0

    @property
    def identity(self) -> Mapping[str, Any]:
        """Weights, settings and limits; the batch is not among them."""
        return {
            "kind": "policy",
            "protocol": self.protocol,
            "weights": weights_digest(self.policy),
            "coordinates": self.policy.coordinates,
            "instruction": self.policy.instruction,
            "temperature": float(self.policy.temperature),
            "greedy": self.inferer.greedy,
            "max_looks": self.inferer.max_looks,
            "tools": [tool.form.name for tool in self.inferer.tools],
            "max_turn_tokens": self.inferer.max_turn_tokens,
        }

    def answer(self, cases: Sequence[Case]) -> list[Answered]:
        """Answer some questions, in batches."""
        begun = time.perf_counter()
        self.policy.train(False)
        episodes = self.inferer(cases, self.policy)
        if self.protocol == "glance":
            episodes = [self._glanced(episode) for episode in episodes]
        share = (time.perf_counter() - begun) / len(cases)
        return [Answered(episode, self._confidence(episode), share) for episode in episodes]

    def answer_early(self, cases: Sequence[Case], answered: Sequence[Answered]) -> list[tuple[float, ...]]:
        """Score the reference after each look; under ``glance`` there is none."""
        if self.protocol == "glance":
            return [() for _ in cases]
        self.policy.train(False)
        return early_answers(self.policy, cases, [one.episode for one in answered])

    def _glanced(self, episode: Episode) -> Episode:
        """Read a whole reply as the answer."""
        whole = len(episode) > 0 and int(episode.token_ids[-1]) == self.policy.end_of_turn
        answer, defect = glance_answer(episode.turns[-1] if episode.turns else "", whole)
        return replace(episode, trajectory=Trajectory(answer=answer), defect=defect)

    def _confidence(self, episode: Episode) -> float:
        if self.protocol == "gaze" or ANSWER[0] in "".join(episode.turns):
            return answer_confidence(episode, self.policy.decode)
        if episode.trajectory.answer is None:
            return 0.0
        chances = episode.behaviour_logprobs[episode.response_mask]
        return math.exp(float(chances.double().sum()))


def glance_answer(text: str, whole: bool) -> tuple[str | None, str | None]:
    """Read the reply to one glance: the answer, and why there is none.

    Args:
        text: The reply.
        whole: Whether it was not cut off.

    Example:
        >>> glance_answer(" Left lung. ", True), glance_answer("", True)
        (('Left lung.', None), (None, 'empty'))
        >>> glance_answer("<reasoning>so</reasoning><answer>left</answer>", True)
        ('left', None)
    """
    if any(tag in text for tag in TAGS):
        turn = parse_turn(text)
        return turn.answer, turn.defect or ("no_answer" if turn.answer is None else None)
    if not text.strip():
        return None, "empty"
    return text.strip(), None if whole else "too_long"


def check_protocol(protocol: str, instruction: str | None) -> None:
    """Refuse an unknown way of asking.

    Raises:
        ConfigError: If there is no such protocol, or the instruction has no place for the question.
    """
    if protocol not in get_args(Asking):
        raise ConfigError(f"protocol is {' or '.join(get_args(Asking))}, got {protocol!r}")
    if instruction is not None and "{question}" not in instruction:
        raise ConfigError("an instruction holds {question} where the question comes, got one without")
