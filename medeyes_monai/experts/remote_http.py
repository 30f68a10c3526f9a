"""Asks a server for JSON with patience and without trust: deadlines, bounded retries, bounded replies."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from threading import Event, Timer
from typing import Any, TypeVar

from medeyes_monai.errors import ConfigError, ExpertError, MedEyesError
from medeyes_monai.experts.remote_text import asked_wait, no_constant, own_words, shown, url_parts
from medeyes_monai.seeding import numpy_generator

__all__ = ["JsonService"]

WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may pass; every other failure is final."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CHUNK_BYTES = 2**20

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class _Final(Exception):
    """A failure that another try cannot mend."""


class _Passing(Exception):
    """A failure that may pass.

    Args:
        reason: What happened.
        wait_s: What the server asks to wait, if it does. Unit: seconds.
    """

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class JsonService:
    """A server that takes JSON and answers JSON, over HTTP or HTTPS.

    Each try ends by a deadline, however slowly the server sends. A failure that may pass (no connection, no
    answer in time, an answer that makes no sense, a status such as 503) is tried again after a pause that
    doubles each time and is shortened by chance, by up to a half, so that many clients do not come back at
    once; ``Retry-After`` is honoured. Redirects are not followed and no proxy is used.

    Args:
        url: Where the server is, such as ``http://127.0.0.1:8765``; a path is put before every request's.
        token_env: Environment variable that holds a token, sent as ``Authorization: Bearer`` and never
            written anywhere. It goes over HTTPS, or to this machine.
        timeout_s: Longest time of one try, from connecting to the last byte. Unit: seconds.
        retries: Most tries after the first.
        backoff_s: First pause. Unit: seconds.
        longest_wait_s: Longest pause; a server that asks for a longer one is given up. Unit: seconds.
        max_reply_bytes: Most bytes of a reply that are read.
        seed: The pauses are drawn from here, by address.

    Raises:
        ConfigError: If the URL cannot be used, a limit leaves nothing to do, or there is no token.

    Example:
        >>> JsonService("ftp://somewhere")
        Traceback (most recent call last):
        medeyes_monai.errors.ConfigError: a server's URL is http:// or https:// with a host, got scheme 'ftp'
    """

    def __init__(
        self,
        url: str,
        *,
        token_env: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 4,
        backoff_s: float = 0.5,
        longest_wait_s: float = 60.0,
        max_reply_bytes: int = 2**26,
        seed: int = 0,
    ) -> None:
        """Check the settings; see the class."""
        if min(timeout_s, max_reply_bytes) <= 0 or min(retries, backoff_s, longest_wait_s) < 0:
            raise ConfigError(
                "timeout_s and max_reply_bytes must be above 0, retries, backoff_s and longest_wait_s not "
                f"negative, got {timeout_s}, {max_reply_bytes}, {retries}, {backoff_s} and {longest_wait_s}"
            )
        self.url, self._secure, self._host, self._port, self._prefix = url_parts(url)
        self.token_env, self.timeout_s, self.retries = token_env, timeout_s, retries
        self.backoff_s, self.longest_wait_s = backoff_s, longest_wait_s
        self.max_reply_bytes, self.seed = max_reply_bytes, seed
        if token_env is not None and not self._secure and self._host not in _LOOPBACK:
            raise ConfigError(f"a token is not sent to {self.url} in clear text; use https://")
        self._headers()

    def ask(
        self,
        path: str,
        body: Any,
        read: Callable[[Any], _T],
        *,
        who: str,
        address: tuple[int | str, ...] = (),
    ) -> _T:
        """Send JSON and return what is read from the answer.

        Args:
            path: Path of the request, after the URL's own.
            body: What is sent by POST; None sends a GET.
            read: Makes a result of the answer; what it raises of this package's errors, ``ValueError``,
                ``KeyError``, ``IndexError`` and ``TypeError`` counts as an answer that makes no sense.
            who: Name in messages.
            address: What is asked, for the draw of the pauses.

        Raises:
            ExpertError: If the server cannot be reached, refuses, or makes no sense; the message names
                ``who`` and the URL.
        """
        payload = None if body is None else json.dumps(body, allow_nan=False).encode()
        tries = 0
        while True:
            tries += 1
            try:
                return self._read(self._once(path, payload), read)
            except _Final as failure:
                raise ExpertError(f"{who} at {self.url}: {failure}") from failure
            except _Passing as failure:
                pause = self._pause(failure, tries, (path, *address))
                if tries > self.retries or pause > self.longest_wait_s:
                    raise ExpertError(self._gave_up(who, failure, tries)) from failure
                _log.warning(
                    "%s at %s: %s; try %d of %d in %.1f s",
                    who, self.url, failure, tries + 1, self.retries + 1, pause,
                )  # fmt: skip
                time.sleep(pause)

    def _gave_up(self, who: str, failure: _Passing, tries: int) -> str:
        asked = "" if failure.wait_s is None else f", asks to wait {failure.wait_s:.0f} s"
        times = "once" if tries == 1 else f"{tries} times"
        return f"{who} at {self.url}: {failure}{asked}; tried {times}; is the server running and well?"

    def _pause(self, failure: _Passing, tries: int, address: tuple[int | str, ...]) -> float:
        if failure.wait_s is not None:
            return failure.wait_s
        rng = numpy_generator(self.seed, "pause", self.url, *address, tries)
        longest = min(self.longest_wait_s, self.backoff_s * 2 ** (tries - 1))
        return float(longest * rng.uniform(0.5, 1.0))

    def _read(self, data: bytes, read: Callable[[Any], _T]) -> _T:
        try:
            return read(json.loads(data, parse_constant=no_constant))
        except (MedEyesError, ValueError, KeyError, IndexError, TypeError, RecursionError) as problem:
            kind = "" if isinstance(problem, MedEyesError) else f"{type(problem).__name__}: "
            raise _Passing(f"its answer makes no sense ({shown(f'{kind}{problem}')})") from problem

    def _once(self, path: str, payload: bytes | None) -> bytes:
        """Make one try; return the body of a good answer."""
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._host, self._port, timeout=self.timeout_s)
        expired = Event()
        try:
            connection.connect()
            cut = Timer(self.timeout_s, _cut, (connection.sock, expired))
            cut.daemon = True
            cut.start()
            try:
                return self._exchange(connection, path, payload, expired)
            finally:
                cut.cancel()
        except (OSError, HTTPException, UnicodeError) as problem:
            if expired.is_set() or isinstance(problem, TimeoutError):
                raise _Passing(f"did not answer within {self.timeout_s:g} s") from problem
            raise _Passing(f"cannot be reached ({type(problem).__name__})") from problem
        finally:
            connection.close()

    def _exchange(
        self, connection: HTTPConnection, path: str, payload: bytes | None, expired: Event
    ) -> bytes:
        method = "GET" if payload is None else "POST"
        with suppress(BrokenPipeError, ConnectionResetError):  # it may hang up on a long body and say why
            connection.request(method, self._prefix + path, body=payload, headers=self._headers())
        with connection.getresponse() as response:
            data = self._bounded(response)
            if expired.is_set() or response.length:
                raise TimeoutError if expired.is_set() else HTTPException
            if response.status != 200:
                raise _failure(response, data)
            return data

    def _bounded(self, response: HTTPResponse) -> bytes:
        """Read the body, never more than is allowed."""
        data = bytearray()
        while chunk := response.read(_CHUNK_BYTES):
            data += chunk
            if len(data) > self.max_reply_bytes:
                limit = f"{self.max_reply_bytes:,} bytes"
                raise _Final(f"its answer is longer than {limit}; raise max_reply_bytes to accept")
        return bytes(data)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self.token_env is not None:
            token = os.environ.get(self.token_env, "")
            if not re.fullmatch(r"[!-~]+", token):
                raise ConfigError(f"environment variable {self.token_env} does not hold a token; set it")
            headers["Authorization"] = f"Bearer {token}"
        return headers


def _cut(link: socket.socket, expired: Event) -> None:
    """End a conversation that takes too long: whoever reads or writes is woken."""
    expired.set()
    with suppress(OSError):  # it may have ended just now
        socket.socket.shutdown(link, socket.SHUT_RDWR)  # of TLS as well, below its own goodbye


def _failure(response: HTTPResponse, data: bytes) -> Exception:
    """Return what a status other than 200 means."""
    said = f"answered {response.status}{own_words(data)}"
    if response.status in WORTH_ANOTHER_TRY:
        return _Passing(said, asked_wait(response.getheader("Retry-After")))
    if 300 <= response.status < 400:
        return _Final(f"{said}; redirects are not followed, give the final URL")
    return _Final(said)
