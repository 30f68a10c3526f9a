"""A vision-language model behind an OpenAI-compatible server: vLLM, llama.cpp, transformers serve."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from medeyes_monai.errors import ConfigError
from medeyes_monai.experts.remote_http import JsonService
from medeyes_monai.experts.remote_wire import png_bytes
from medeyes_monai.experts.vlm_chat import Reply, TokenSpan
from medeyes_monai.trajectory import Picture

__all__ = ["OpenAIChat", "image_part", "text_part"]

PATH = "/v1/chat/completions"
MAX_SEED = 2**31
"""Servers take seeds below this."""


class OpenAIChat:
    """Asks ``POST /v1/chat/completions`` with the picture as a data URI, one request for each reply.

    Args:
        url: Where the server is, without ``/v1``, such as ``http://127.0.0.1:8000``.
        model: Name of the model, as the server knows it.
        temperature: Softmax temperature of replies that are drawn; the likeliest words are asked for at 0.
        max_tokens: Longest reply. Unit: tokens.
        logprobs: Ask for the probabilities of tokens; servers that do not tell them ignore it or refuse.
        grid: Sides of pictures are multiples of this, the model's patch size times merge. Unit: pixels.
        token_env: Environment variable that holds a token; see
            :class:`~medeyes_monai.experts.remote_http.JsonService`, also for what follows.
        timeout_s: Longest time of one try. Unit: seconds.
        retries: Most tries after the first.
        backoff_s: First pause, doubled each time. Unit: seconds.
        longest_wait_s: Longest pause. Unit: seconds.

    Raises:
        ConfigError: If the URL cannot be used, or a setting leaves nothing to do.

    Example:
        >>> OpenAIChat("http://127.0.0.1:8000", "Qwen/Qwen3-VL-8B-Instruct").name
        'Qwen/Qwen3-VL-8B-Instruct at 0.7, 512 tokens'
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        temperature: float = 0.7,
        max_tokens: int = 512,
        logprobs: bool = True,
        grid: int = 28,
        token_env: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 4,
        backoff_s: float = 0.5,
        longest_wait_s: float = 60.0,
    ) -> None:
        """Check the settings; nothing is asked yet."""
        if temperature <= 0 or min(max_tokens, grid) < 1:
            raise ConfigError(
                "temperature must be above 0, max_tokens and grid at least 1, "
                f"got {temperature}, {max_tokens} and {grid}"
            )
        self.service = JsonService(
            url,
            token_env=token_env,
            timeout_s=timeout_s,
            retries=retries,
            backoff_s=backoff_s,
            longest_wait_s=longest_wait_s,
        )
        self.model, self.temperature, self.max_tokens = model, temperature, max_tokens
        self.logprobs, self.grid = logprobs, grid

    @property
    def name(self) -> str:
        """The model and what changes its replies."""
        return f"{self.model} at {self.temperature}, {self.max_tokens} tokens"

    def ask(self, picture: Picture, text: str, seeds: Sequence[int | None]) -> list[Reply]:
        """Return one reply for each seed; None asks for the likeliest words.

        Raises:
            ExpertError: If the server cannot be reached, refuses, or answers something else.
        """
        messages = [{"role": "user", "content": [image_part(picture), text_part(text)]}]
        return [self.converse(messages, seed) for seed in seeds]

    def converse(self, messages: Sequence[Mapping[str, Any]], seed: int | None = None) -> Reply:
        """Return the next reply in a conversation.

        Args:
            messages: What was said so far, each with ``role`` and ``content``, see :func:`image_part`.
            seed: Seed of a reply that is drawn; None asks for the likeliest words.

        Raises:
            ExpertError: As :meth:`ask`.
        """
        body = {
            "model": self.model,
            "messages": list(messages),
            "max_tokens": self.max_tokens,
            "temperature": 0.0 if seed is None else self.temperature,
            "stream": False,
        }
        if seed is not None:
            body["seed"] = seed % MAX_SEED
        if self.logprobs:
            body["logprobs"] = True
        return self.service.ask(PATH, body, _read, who=self.model, address=("chat", seed or 0))


def image_part(picture: Picture) -> dict[str, Any]:
    """Return a picture as a part of a message: a PNG file in a data URI."""
    image = f"data:image/png;base64,{base64.b64encode(png_bytes(picture)).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": image}}


def text_part(text: str) -> dict[str, Any]:
    """Return a text as a part of a message."""
    return {"type": "text", "text": text}


def _read(reply: Any) -> Reply:
    """Read the first choice of a reply; tokens are None where the server does not tell them."""
    choice = reply["choices"][0]
    text = choice["message"]["content"]
    if not isinstance(text, str):
        raise TypeError(f"content is text, got {type(text).__name__}")
    told = (choice.get("logprobs") or {}).get("content")
    return Reply(text, None if not told else _spans(text, told))


def _spans(text: str, told: Sequence[Any]) -> tuple[TokenSpan, ...] | None:
    """Place tokens in a text that may lack what stands around it, such as spaces or an end of turn."""
    pieces = [_piece(token) for token in told]
    offset = b"".join(pieces).find(text.encode())
    if offset < 0:
        return None
    spans, place = [], -offset
    for token, piece in zip(told, pieces, strict=True):
        start, stop = (_characters(text, place), _characters(text, place + len(piece)))
        logprob = token["logprob"]
        if isinstance(logprob, bool) or not isinstance(logprob, (int, float)) or not logprob <= 0:
            raise ValueError("a logprob is a number of at most 0")
        spans.append((start, stop, float(logprob)))
        place += len(piece)
    return tuple(spans)


def _piece(token: Any) -> bytes:
    given = token.get("bytes")
    return str(token["token"]).encode() if given is None else bytes(given)


def _characters(text: str, byte: int) -> int:
    """Return how many characters of a text end within its first bytes."""
    return len(text.encode()[: max(0, byte)].decode(errors="ignore"))
