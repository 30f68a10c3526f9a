"""One question to the hub: what it does not give is named in a line, and nobody waits."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ASK = """
import sys
from medeyes_monai.errors import ConfigError
from medeyes_monai.io.hub import check_hub_name
for name in sys.argv[1:]:
    try:
        check_hub_name(name)
        print(name, "may be downloaded")
    except ConfigError as error:
        print(error)
"""


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, by the owner's name."""

    def do_HEAD(self):
        owner = self.path.split("/")[1]
        codes = {"gated": (403, "GatedRepo"), "absent": (401, "RepoNotFound"), "odd": (404, "EntryNotFound")}
        status, code = codes.get(owner, (500 if owner == "broken" else 200, ""))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("ETag", '"0"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def ask():
    """Ask in a process of its own, which reads the hub's address when it starts; return what it said."""

    def run(address, *names):
        env = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", ASK, *names],
            env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", **env},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "Retrying" not in done.stderr
        return done.stdout.splitlines()

    return run


def test_what_the_hub_does_not_give_is_named_with_a_way_out(ask):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        names = ["open/model", "gated/model", "absent/model", "odd/model", "broken/model"]
        said = ask(f"http://127.0.0.1:{server.server_port}", *names)
    finally:
        server.shutdown()
        server.server_close()
    assert said[0] == "open/model may be downloaded"
    assert said[1].startswith("gated/model is gated: accept its terms")
    assert said[2].startswith("absent/model is no folder here and no public model of the hub")
    assert said[3] == "odd/model may be downloaded"
    assert said[4].startswith("broken/model is no folder here, and the hub did not answer")
    assert len(said) == 5


def test_without_a_network_nobody_waits_for_six_tries(ask):
    (line,) = ask("http://127.0.0.1:9", "owner/model")
    assert "the hub did not answer" in line
