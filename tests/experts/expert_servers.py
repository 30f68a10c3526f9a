"""Real servers for the tests of experts that are not in this process."""

import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from expert_scenes import make_volume
from monai.data import MetaTensor

from medeyes_monai.scenes import VolumeScene

HEALTH = {"version": 1, "expert": "x", "axes": [2]}
HERE = Path(__file__).resolve().parent
SCRIPTS = HERE.parents[1] / "scripts"
PATHS = {"PYTHONPATH": os.pathsep.join([str(HERE), str(SCRIPTS)]), "OMP_NUM_THREADS": "1"}
SERVED = """
expert:
  _target_: medeyes_monai.experts.AnnotationExpert
  reader: {_target_: expert_scenes.RingReader}
  jitter: 5
  false_alarm_rate: 2.0
  drill_error: 0.3
"""
STAND_IN = """
import sys
import numpy as np
import medplib_server

class StandIn:
    '''Marks what is bright, and repeats what it was asked.'''
    def segment(self, picture, prompt):
        shown = picture.mean(axis=-1) / 255.0
        return shown * (shown > 0.5) if (shown > 0.5).any() else None
    def tell(self, picture, prompt, box):
        return prompt + " at " + str(list(box))

medplib_server.main(sys.argv[1:], load=lambda asked: StandIn())
"""


def lps_volume():
    """A volume whose stored axes are those of a scene."""
    given = make_volume()
    affine = np.diag([-0.7, -0.7, 2.0, 1.0])
    return VolumeScene(MetaTensor(given.image.as_tensor(), affine), key="lps", findings=given.findings)


class ServerProcess:
    """A server in a process of its own, that can be killed and started again at the same port."""

    def __init__(self, *command, **variables):
        self.command, self.variables = [sys.executable, *map(str, command)], variables
        self.port, self.process, self.url = 0, None, None

    def start(self):
        environment = {**os.environ, **PATHS, **self.variables}
        self.process = subprocess.Popen(  # noqa: S603
            [*self.command, "--port", str(self.port)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        line = self.process.stdout.readline()
        self.url = re.search(r"http://\S+", line)[0]
        self.port = int(self.url.rpartition(":")[2])
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@contextmanager
def running(server):
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def annotation_server(tmp_path_factory):
    """``scripts/serve_expert.py`` with an expert made of annotations."""
    config = tmp_path_factory.mktemp("served") / "expert.yaml"
    config.write_text(SERVED)
    with running(ServerProcess(SCRIPTS / "serve_expert.py", "--config", config)) as server:
        yield server


@pytest.fixture(scope="session")
def medplib(tmp_path_factory):
    """A command that starts ``scripts/medplib_server.py`` with a stand-in for the model."""
    script = tmp_path_factory.mktemp("medplib") / "stand_in.py"
    script.write_text(STAND_IN)
    return (script, "--repository", "r", "--checkpoint", "weights/medplib-tiny", "--sam", "s")


@pytest.fixture(scope="session")
def medplib_server(medplib):
    """``scripts/medplib_server.py`` with a stand-in for the model."""
    with running(ServerProcess(*medplib)) as server:
        yield server


class ScriptedServer:
    """A real server in this process that says what it is told, and keeps what it was asked.

    Each reply is a dictionary or list (answered as JSON), bytes, a triple (status, headers, bytes), or a
    callable that writes to the connection itself. The last reply is said again and again.
    """

    def __init__(self):
        self.replies, self.asked = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.do_POST()

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.asked.append((self.path, dict(self.headers), body))
                reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                if callable(reply):
                    reply(self)
                else:
                    self.say(*_whole(reply))

            def say(self, status, headers, body):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *arguments: None  # clients of these tests hang up
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def _whole(reply):
    if isinstance(reply, tuple):
        return reply
    return 200, {}, reply if isinstance(reply, bytes) else json.dumps(reply).encode()


@pytest.fixture
def scripted():
    server = ScriptedServer()
    yield server
    server.close()
