"""Writes an episode as tokens: a checkpoint's chat template, cut into the pieces that a rollout needs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy.processor import special_ids

__all__ = ["Conversation"]

_SENTINEL = "\ue000medeyes\ue000"
_OTHER = "\ue001medeyes\ue001"


class Conversation:
    """A tokenizer's chat template, split once at the places where an episode puts its own content.

    Questions, findings and reasoning are data: special tokens that are spelled out in them are encoded as
    ordinary text.

    Args:
        tokenizer: A fast tokenizer of transformers with a chat template.
        image_token_id: Token that the template writes where a picture is to come.

    Raises:
        ConfigError: If there is no chat template, or it drops or reorders content.
    """

    def __init__(self, tokenizer: Any, image_token_id: int) -> None:
        """Check that the template can be used; it is rendered when first needed."""
        if not tokenizer.chat_template:
            raise ConfigError(
                "the policy's tokenizer has no chat template; add chat_template.jinja to its directory"
            )
        self.tokenizer = tokenizer
        self.image_token_id = image_token_id

    @cached_property
    def end_of_turn(self) -> int:
        """Token that ends each turn: the special token after a reply, or the end of a text if there is none.

        Raises:
            ConfigError: If there is neither.
        """
        replied = self._rendered([_question("?"), self._reply], invite=False)[1]
        ids = self._special(replied)
        if ids and ids[0] in special_ids(self.tokenizer):
            return ids[0]
        if self.tokenizer.eos_token_id is None:
            raise ConfigError("the chat template ends a reply with no special token; set the eos_token")
        return int(self.tokenizer.eos_token_id)

    def prompt(self, content: str, picture: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids of the first message and the invitation to speak.

        Args:
            content: What is said after the picture.
            picture: The tokens that stand for the picture.
        """
        before, after = self._prompt_parts
        return (*self._with_image(before, picture), *self.plain(content), *after)

    def feedback(self, picture: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids from after an end of turn to the next invitation.

        Args:
            picture: The tokens that stand for the picture that is the feedback.
        """
        return self._with_image(self._feedback_ids, picture)

    def reply(self, text: str) -> tuple[int, ...]:
        """Return the ids that bring a tool's reply, from after an end of turn to the next invitation.

        Args:
            text: What the tool said.
        """
        before, after = self._reply_parts
        return (*before, *self.plain(text), *after)

    def plain(self, text: str) -> tuple[int, ...]:
        """Encode text in which nothing is special."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return tuple(int(i) for i in ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids, special ones spelled out."""
        return str(
            self.tokenizer.decode(
                list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    @cached_property
    def _prompt_parts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        before, after = (self._special(part) for part in self._rendered([_question(_SENTINEL)]))
        start = self.tokenizer.bos_token_id
        begins = start is not None and self.tokenizer("?").input_ids[0] == start
        return (start, *before) if begins and before[0] != start else before, after

    @cached_property
    def _feedback_ids(self) -> tuple[int, ...]:
        look = [
            {"type": "text", "text": "<feedback>"},
            {"type": "image"},
            {"type": "text", "text": "</feedback>"},
        ]
        turns = [_question("?"), self._reply, {"role": "user", "content": look}]
        ids = self._special(self._rendered(turns)[1])
        return ids[1:] if ids[0] == self.end_of_turn else ids

    @cached_property
    def _reply_parts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        said = [{"type": "text", "text": f"<feedback>{_OTHER}</feedback>"}]
        turns = [_question("?"), self._reply, {"role": "user", "content": said}]
        parts = self._rendered(turns)[1].split(_OTHER)
        if len(parts) != 2:
            raise ConfigError("the chat template must show the text of a message once")
        before, after = (self._special(part) for part in parts)
        return before[1:] if before[0] == self.end_of_turn else before, after

    @cached_property
    def _reply(self) -> dict[str, Any]:
        """A reply in the form that the template shows: plain text, or a list of parts like a question."""
        reply: dict[str, Any] = {"role": "assistant", "content": _SENTINEL}
        shown = self._text([_question("?"), reply], invite=False)
        return reply if _SENTINEL in shown else reply | {"content": [{"type": "text", "text": _SENTINEL}]}

    def _text(self, messages: list[dict[str, Any]], invite: bool) -> str:
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=invite)
        except TemplateError as error:  # what it may not do, too
            raise ConfigError(
                f"the chat template cannot be used ({type(error).__name__}: {error})"
            ) from error
        return str(text)

    def _rendered(self, messages: list[dict[str, Any]], invite: bool = True) -> list[str]:
        text = self._text(messages, invite)
        parts = text.split(_SENTINEL)
        if len(parts) != 2:
            raise ConfigError(
                f"the chat template must show each message once, it shows one {len(parts) - 1} times"
            )
        return list(parts)

    def _special(self, text: str) -> tuple[int, ...]:
        return tuple(int(i) for i in self.tokenizer(text, add_special_tokens=False).input_ids)

    def _with_image(self, ids: tuple[int, ...], picture: tuple[int, ...]) -> tuple[int, ...]:
        if ids.count(self.image_token_id) != 1:
            raise ConfigError("the chat template must write one image token for each picture")
        place = ids.index(self.image_token_id)
        return (*ids[:place], *picture, *ids[place + 1 :])


def _question(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
