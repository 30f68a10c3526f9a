"""What stands before every route of the service."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from fastapi.responses import JSONResponse

__all__ = ["guard"]

logger = logging.getLogger(__name__)
GoOn = Callable[[Request], Awaitable[Response]]
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json")
"""Places that need no token; they tell nothing of studies."""


def guard(token: str | None) -> Callable[[Request, GoOn], Awaitable[Response]]:
    """Return what stands before every route: request id, token, log line, and errors without values.

    Args:
        token: What clients have to send as ``Authorization: Bearer ...``; None asks for nothing.
    """

    async def stand(request: Request, go_on: GoOn) -> Response:
        given = request.headers.get("x-request-id", "")
        identifier = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        started = time.monotonic()
        response: Response
        if token is not None and request.url.path not in OPEN and not _is_allowed(request, token):
            response = JSONResponse({"error": "a token is needed"}, 401, {"WWW-Authenticate": "Bearer"})
        else:
            try:
                response = await go_on(request)
            except Exception as error:  # its text may quote a header; its kind may not
                logger.error("request %s failed: %s", identifier, type(error).__name__)
                response = JSONResponse({"error": "something went wrong inside", "request": identifier}, 500)
        response.headers["X-Request-ID"] = identifier
        seconds = time.monotonic() - started
        logger.info("%s %s %d %.2fs", identifier, request.method, response.status_code, seconds)
        return response

    return stand


def _is_allowed(request: Request, token: str) -> bool:
    given = request.headers.get("authorization", "")
    return hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
