"""An expert in another process or on another machine, behind the interface of docs/expert_http.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from medeyes_monai.errors import ExpertError
from medeyes_monai.experts.base import Candidate, Verdict
from medeyes_monai.experts.checked import check_candidate, check_verdict
from medeyes_monai.experts.remote_http import JsonService
from medeyes_monai.experts.remote_wire import (
    VERSION,
    finding_records,
    image_record,
    read_candidates,
    read_verdict,
)
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import Scene

__all__ = ["RemoteExpert"]

_LONGEST_NAME = 80  # characters of the served expert's own name
_T = TypeVar("_T")


class _Served(NamedTuple):
    """What a server says about itself."""

    name: str
    axes: tuple[int, ...]


class RemoteExpert:
    """Asks a server that serves an expert: MedPLIB in an environment of its own, or any of this package.

    ``scripts/serve_expert.py`` serves the expert of a configuration, ``scripts/medplib_server.py`` MedPLIB;
    ``docs/expert_http.md`` is the interface. The confidence is the served expert's: what it measures, and
    whether it is calibrated, stands there. Replies are held to the contract; one that breaks it is asked for
    again, and an expert that cannot be reached or goes on making no sense is an ``ExpertError``, after
    bounded retries.

    The native image of a scene (``scene.image``) and the scene's key go to the server with each request; what
    the data say is in the image does not, unless it is asked for. The served expert's name is part of this
    one's, so that memos of different served experts stay apart; the first use asks the server for it, and a
    server that serves another one later is refused.

    Args:
        url: Where the server is, such as ``http://127.0.0.1:8765``.
        expert: Name of the served expert, where it is known, as ``GET /health`` tells it: what a memo knows
            is then found without a server.
        send_findings: Send ``scene.findings`` too, for a served expert that is made of annotations.
        token_env: Environment variable that holds a token; see
            :class:`~medeyes_monai.experts.remote_http.JsonService`, also for what follows.
        timeout_s: Longest time of one try. Unit: seconds.
        retries: Most tries after the first.
        backoff_s: First pause, doubled each time. Unit: seconds.
        longest_wait_s: Longest pause. Unit: seconds.
        max_reply_bytes: Most bytes of a reply that are read.
        seed: The pauses are drawn from here, by address.

    Raises:
        ConfigError: If the URL cannot be used, a limit leaves nothing to do, or there is no token.

    Example:
        >>> RemoteExpert("http://127.0.0.1:9", retries=0).name  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        medeyes_monai.errors.ExpertError: remote expert at http://127.0.0.1:9: cannot be reached ...
    """

    reads_key = True  # it is sent along, and the served expert may draw by it

    def __init__(
        self,
        url: str,
        *,
        expert: str | None = None,
        send_findings: bool = False,
        token_env: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 4,
        backoff_s: float = 0.5,
        longest_wait_s: float = 60.0,
        max_reply_bytes: int = 2**26,
        seed: int = 0,
    ) -> None:
        """Check the settings; see the class. Nothing is asked yet."""
        self.service = JsonService(
            url,
            token_env=token_env,
            timeout_s=timeout_s,
            retries=retries,
            backoff_s=backoff_s,
            longest_wait_s=longest_wait_s,
            max_reply_bytes=max_reply_bytes,
            seed=seed,
        )
        self.expert, self.send_findings = expert, send_findings
        self._sent: tuple[Scene, dict[str, str]] | None = None

    @property
    def name(self) -> str:
        """``remote-`` and the served expert's name.

        Raises:
            ExpertError: If the server cannot be asked for it.
        """
        served = self._served.name if self.expert is None else self.expert
        return f"remote{'-told' if self.send_findings else ''}-{served}"

    @property
    def axes(self) -> tuple[int, ...]:
        """The numbers of spatial axes that the served expert takes.

        Raises:
            ExpertError: If the server cannot be asked for them.
        """
        return self._served.axes

    def scan(self, scene: Scene, query: str) -> tuple[Candidate, ...]:
        """Return the served expert's scan.

        Raises:
            ExpertError: If the server cannot be reached, refuses, or breaks the contract.
        """

        def read(reply: Mapping[str, Any]) -> tuple[Candidate, ...]:
            candidates = read_candidates(reply)
            for candidate in candidates:
                check_candidate(candidate, scene, self.name)
            return candidates

        return self._ask("/scan", scene, query, None, read)

    def drill(self, scene: Scene, box: Box, query: str) -> Verdict:
        """Return the served expert's verdict on a region.

        Raises:
            ExpertError: If the server cannot be reached, refuses, or breaks the contract.
        """

        def read(reply: Mapping[str, Any]) -> Verdict:
            verdict = read_verdict(reply)
            check_verdict(verdict, self.name)
            return verdict

        return self._ask("/drill", scene, query, box, read)

    @cached_property
    def _served(self) -> _Served:
        served = self.service.ask("/health", None, _read_served, who="remote expert")
        if self.expert not in (None, served.name):
            raise ExpertError(f"{self.name} at {self.service.url}: it serves {served.name!r}; give its name")
        return served

    def _ask(
        self, path: str, scene: Scene, query: str, box: Box | None, read: Callable[[Mapping[str, Any]], _T]
    ) -> _T:
        served = self._served

        def read_reply(reply: Any) -> _T:
            _check_version(reply)
            if reply["expert"] != served.name:
                raise ExpertError(f"it serves another expert than {served.name!r} by now")
            return read(reply)

        body = {"version": VERSION, "key": scene.key, "query": query, "image": self._image(scene)}
        if box is not None:
            body["box"] = list(box.corners)
        if self.send_findings:
            body["findings"] = finding_records(scene)
        corners = () if box is None else box.corners
        return self.service.ask(path, body, read_reply, who=self.name, address=(scene.key, query, *corners))

    def _image(self, scene: Scene) -> dict[str, str]:
        """Encode a scene's image, once for a scan and the drills that follow it."""
        if self._sent is None or self._sent[0] is not scene:
            self._sent = (scene, image_record(scene, self.name))
        return self._sent[1]


def _read_served(reply: Any) -> _Served:
    _check_version(reply)
    name, axes = reply["expert"], reply["axes"]
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
        raise ValueError(f"expert is a name of 1 to {_LONGEST_NAME} printable characters")
    if not isinstance(axes, list) or axes not in ([2], [3], [2, 3]):
        raise ValueError("axes is [2], [3] or [2, 3]")
    return _Served(name, tuple(axes))


def _check_version(reply: Any) -> None:
    if not isinstance(reply, dict) or reply.get("version") != VERSION:
        got = reply.get("version") if isinstance(reply, dict) else type(reply).__name__
        raise ValueError(f"speaks version {got!r:.40} of the interface, wanted {VERSION}")
