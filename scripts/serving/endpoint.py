"""The HTTP side of a server of an expert, see docs/expert_http.md: everything is bounded.

Runs in foreign environments too: the standard library alone, Python 3.8 or later.
"""

from __future__ import annotations

import hmac
import json
import threading
import traceback
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from serving.reading import VERSION, Refused, read_request

__all__ = ["MAX_BYTES", "run"]

MAX_BYTES = 2**28
"""Largest body of a request."""
MAX_WAITING = 8
"""Most requests that are held at once; the expert is asked one at a time."""
READ_SECONDS = 60
"""Longest silence of a client that is sending."""
DRAIN_SECONDS = 1
"""Longest silence of a client that is sending what was refused."""
LOOPBACK = ("127.0.0.1", "localhost")
_DRAINED = 2**26  # bytes of a refused body that are read and thrown away


def run(expert, host, port, token=None, max_bytes=MAX_BYTES):
    """Serve an expert until the process is stopped; print the address once it can be reached.

    Args:
        expert: An object with ``name`` (text), ``axes`` (numbers of spatial axes), ``scan(request)`` that
            returns candidates and ``drill(request)`` that returns a verdict, as the interface writes them.
        host: Address to listen at.
        port: Port to listen at; 0 takes a free one.
        token: What clients have to show as ``Authorization: Bearer``; None for anybody.
        max_bytes: Largest body of a request.
    """
    if host not in LOOPBACK and token is None:
        raise SystemExit("error: listening beyond this machine needs a token; see --token-env")
    server = _Server((host, port), _Handler)
    server.expert, server.token, server.max_bytes = expert, token, max_bytes
    server.places, server.turn = threading.BoundedSemaphore(MAX_WAITING), threading.Lock()
    print(f"serving {expert.name} at http://{host}:{server.server_address[1]}", flush=True)
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


class _Gone(Exception):
    """The client hung up, or sends too slowly."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


class _Handler(BaseHTTPRequestHandler):
    timeout = READ_SECONDS
    server_version = f"medeyes-expert/{VERSION}"

    def do_GET(self):
        self._answer(self._health)

    def do_POST(self):
        self._answer(self._ask)

    def _answer(self, make):
        self._unread = _length(self.headers)
        try:
            self._send(*self._outcome(make))
            self._drain()
        except (_Gone, OSError):
            self.close_connection = True

    def _outcome(self, make):
        """Return the status and the bytes of an answer."""
        try:
            self._check_token()
            return 200, _bytes(make())
        except _Gone:
            raise
        except Refused as refusal:
            status, code, message = refusal.status, refusal.code, str(refusal)
        except Exception as problem:  # the client hears of it, and the server goes on
            traceback.print_exc()
            status, code, message = 500, "internal", f"{type(problem).__name__} in the server, see its log"
        return status, _bytes({"version": VERSION, "error": {"code": code, "message": message}})

    def _health(self):
        if self.path != "/health":
            raise Refused(404, "path", "there are GET /health, POST /scan and POST /drill")
        expert = self.server.expert
        return {"version": VERSION, "expert": expert.name, "axes": list(expert.axes)}

    def _ask(self):
        if self.path not in ("/scan", "/drill"):
            raise Refused(404, "path", "there are GET /health, POST /scan and POST /drill")
        if not self.server.places.acquire(blocking=False):
            raise Refused(503, "busy", f"{MAX_WAITING} requests are being held already")
        try:
            request = read_request(self._body(), drill=self.path == "/drill")
            return self._reply(request)
        finally:
            self.server.places.release()

    def _reply(self, request):
        expert = self.server.expert
        reply = {"version": VERSION, "expert": expert.name}
        with self.server.turn:
            if request.box is None:
                reply["candidates"] = expert.scan(request)
            else:
                reply["verdict"] = expert.drill(request)
        return reply

    def _check_token(self):
        wanted = self.server.token
        shown = self.headers.get("Authorization", "")
        if wanted is not None and not hmac.compare_digest(shown.encode(), ("Bearer " + wanted).encode()):
            raise Refused(401, "token", "the token is missing or wrong")

    def _body(self):
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "type", "the body is application/json")
        if self._unread is None:
            raise Refused(411, "length", "a body needs its Content-Length")
        if self._unread > self.server.max_bytes:
            raise Refused(413, "size", f"the body is longer than {self.server.max_bytes} bytes")
        length, self._unread = self._unread, 0
        try:
            body = self.rfile.read(length)
        except OSError as problem:
            raise _Gone from problem
        if len(body) < length:
            raise _Gone
        return body

    def _drain(self):
        """Read what is left of a refused body, so that the client gets to read why."""
        self.connection.settimeout(DRAIN_SECONDS)
        left = min(self._unread or 0, _DRAINED)
        while left > 0:
            got = len(self.rfile.read1(min(left, 2**16)))
            left = left - got if got else 0

    def _send(self, status, data):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status == 503:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data)


def _bytes(content):
    return json.dumps(content, allow_nan=False).encode()


def _length(headers):
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
