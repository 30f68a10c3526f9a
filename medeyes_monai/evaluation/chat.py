"""Asks a model behind an OpenAI-compatible server, step by step or with one glance."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from medeyes_monai.errors import ConfigError
from medeyes_monai.evaluation.records import Answered
from medeyes_monai.evaluation.respondents import GLANCE_INSTRUCTION, Asking, check_protocol, glance_answer
from medeyes_monai.experts.openai_chat import OpenAIChat, image_part, text_part
from medeyes_monai.experts.vlm_chat import Reply, TokenSpan
from medeyes_monai.policy.huggingface import INSTRUCTION, RELATIVE_EXTENT, asked_with_options
from medeyes_monai.protocol import ANSWER, REASONING, Turn, parse_turn
from medeyes_monai.rollout import MAX_LOOKS
from medeyes_monai.scenes import Case
from medeyes_monai.trajectory import Episode, Fixation, Picture, Trajectory

__all__ = ["ChatRespondent"]

FEEDBACK = "The region that you asked for. Go on."
"""What comes with the pixels of a look."""


class ChatRespondent:
    """A model behind an OpenAI-compatible server; the likeliest words are asked for.

    Each look is one more request, with the whole conversation in it. Where the server tells the probabilities
    of tokens they are kept; else confidence is not known.

    Args:
        chat: The server and the model.
        protocol: ``gaze`` or ``glance``, see
            :class:`~medeyes_monai.evaluation.respondents.PolicyRespondent`.
        max_looks: Largest number of looks, under ``gaze``.
        coordinates: Frame in which the model writes boxes: ``relative`` (0 to 1000) or ``pixels`` of the
            overview.
        instruction: What is asked for, with ``{question}`` in it; None takes that of the protocol.
        workers: Questions that are asked at the same time.

    Raises:
        ConfigError: If a setting leaves nothing to do.
    """

    def __init__(
        self,
        chat: OpenAIChat,
        *,
        protocol: Asking = "gaze",
        max_looks: int = MAX_LOOKS,
        coordinates: Literal["relative", "pixels"] = "relative",
        instruction: str | None = None,
        workers: int = 4,
    ) -> None:
        """Check the settings; nothing is asked yet."""
        check_protocol(protocol, instruction)
        if max_looks < 0 or workers < 1 or coordinates not in ("relative", "pixels"):
            raise ConfigError(
                "max_looks must not be negative, workers at least 1 and coordinates 'relative' or 'pixels', "
                f"got {max_looks}, {workers} and {coordinates!r}"
            )
        self.chat, self.protocol, self.coordinates = chat, protocol, coordinates
        self.max_looks, self.workers = max_looks, workers
        self.instruction = instruction or (INSTRUCTION if protocol == "gaze" else GLANCE_INSTRUCTION)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, settings and limits; where the server is does not count."""
        return {
            "kind": "chat",
            "protocol": self.protocol,
            "model": self.chat.model,
            "max_turn_tokens": self.chat.max_tokens,
            "coordinates": self.coordinates,
            "instruction": self.instruction,
            "max_looks": self.max_looks if self.protocol == "gaze" else 0,
        }

    def answer(self, cases: Sequence[Case]) -> list[Answered]:
        """Answer some questions, several at the same time.

        Raises:
            ExpertError: If the server cannot be reached, refuses, or answers something else.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(self._one, cases))

    def answer_early(self, cases: Sequence[Case], answered: Sequence[Answered]) -> list[tuple[float, ...]]:
        """Return nothing: a server does not tell the probability of words that it did not say."""
        return [() for _ in cases]

    def _one(self, case: Case) -> Answered:
        begun = time.perf_counter()
        talk = _Talk(case)
        talk.ask(
            case.scene.overview().pixels, self.instruction.replace("{question}", asked_with_options(case))
        )
        if self.protocol == "gaze":
            self._look_around(talk)
        else:
            talk.hear(self.chat.converse(talk.messages))
            answer, talk.defect = glance_answer(talk.replies[-1].text, whole=True)
            talk.path = Trajectory(answer=answer)
        return Answered(talk.episode(), talk.confidence(), time.perf_counter() - begun)

    def _look_around(self, talk: _Talk) -> None:
        """Let the model look until it answers, breaks the protocol, or has looked often enough."""
        scene = talk.case.scene
        frame = scene.frame if self.coordinates == "pixels" else (RELATIVE_EXTENT,) * len(scene.shape)
        while True:
            talk.hear(self.chat.converse(talk.messages))
            turn = parse_turn(talk.replies[-1].text.strip(), frame)
            if not talk.goes_on(turn, self.max_looks) or turn.box is None:
                return
            box = turn.box.scale(frame, scene.shape).clip(scene.shape)
            looks = (*talk.path.fixations, Fixation(turn.reasoning, box))
            talk.path = replace(talk.path, fixations=looks)
            talk.ask(scene.look(box).pixels, FEEDBACK)


@dataclass(slots=True, eq=False)
class _Talk:
    """A conversation while it goes on."""

    case: Case
    messages: list[dict[str, Any]] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    path: Trajectory = field(default_factory=Trajectory)
    defect: str | None = None

    def ask(self, picture: Picture, text: str) -> None:
        self.messages.append({"role": "user", "content": [image_part(picture), text_part(text)]})

    def hear(self, reply: Reply) -> None:
        self.replies.append(reply)
        self.messages.append({"role": "assistant", "content": reply.text})

    def goes_on(self, turn: Turn, max_looks: int) -> bool:
        """Take in a turn; tell whether it asks for a look that may be had."""
        self.defect = turn.defect
        if self.defect is None and turn.box is not None and len(self.path.fixations) == max_looks:
            self.defect = "no_answer"
        if self.defect is None and turn.box is not None:
            return True
        self.path = replace(self.path, reasoning=turn.reasoning, answer=turn.answer)
        return False

    def episode(self) -> Episode:
        chances, mask = [], []
        for reply in self.replies if all(reply.tokens for reply in self.replies) else ():
            chances += [0.0, *(chance for _, _, chance in reply.tokens or ())]
            mask += [False, *[True] * len(reply.tokens or ())]
        return Episode(
            case=self.case.key,
            stream="policy",
            draw=0,
            token_ids=torch.zeros(len(mask), dtype=torch.long),
            response_mask=torch.tensor(mask, dtype=torch.bool),
            behaviour_logprobs=torch.tensor(chances, dtype=torch.float32),
            pictures=(),
            turns=tuple(reply.text for reply in self.replies),
            trajectory=self.path,
            defect=self.defect,
        )

    def confidence(self) -> float | None:
        """Return the probability of the answer's own tokens; None where tokens are not told."""
        reply = self.replies[-1]
        if reply.tokens is None:
            return None
        if self.path.answer is None:
            return 0.0
        first, last = _place_of_answer(reply.text)
        return _probability(reply.tokens, first, last)


def _place_of_answer(text: str) -> tuple[int, int]:
    """Return where the answer stands in a reply: between its tags, or all of it."""
    start = text.find(ANSWER[0], max(0, text.find(REASONING[1])))
    if start < 0:
        return 0, len(text)
    end = text.find(ANSWER[1], start)
    return start + len(ANSWER[0]), end if end >= 0 else len(text)


def _probability(tokens: Sequence[TokenSpan], first: int, last: int) -> float:
    inside = [chance for start, stop, chance in tokens if start < last and stop > first]
    return math.exp(math.fsum(inside)) if inside else 0.0
