"""Memory of the service while requests wait: uploads lie on disk, and one at a time is worked on."""

import http.client
import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom", reason="needs the extra deploy")
pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("python_multipart", reason="needs the extra serve")

from deploy_cases import ASKED, BUNDLE, ROOT, study

UPLOAD_MIB = 24
REQUESTS = 20
GROWTH_MIB = 96
"""How much the peak of twenty requests may be above that of one; the uploads alone are five times this."""


def upload_of(folder: Path) -> bytes:
    """A form with a small study and a large file beside it that is no image."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as packed:
        for path in study(folder, shape=(64, 64, 1)).iterdir():
            packed.writestr(path.name, path.read_bytes())
        packed.writestr("notes.bin", np.random.default_rng(0).bytes(UPLOAD_MIB * 2**20))
    head = 'Content-Disposition: form-data; name="question"\r\n\r\n' + ASKED
    file = 'Content-Disposition: form-data; name="study"; filename="a.zip"\r\n\r\n'
    return f"--xyz\r\n{head}\r\n--xyz\r\n{file}".encode() + buffer.getvalue() + b"\r\n--xyz--\r\n"


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=1200)
    try:
        link.request(method, path, body, {"Content-Type": "multipart/form-data; boundary=xyz"})
        reply = link.getresponse()
        return reply.status, reply.read()
    finally:
        link.close()


@contextmanager
def serving(folder: Path):
    """A service in a process of its own; gives its number and its port."""
    words = ["--port", "0", "--places", str(REQUESTS), "--timeout", "1200", "--set", "device=cpu"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "medeyes_monai.deploy.serve", "--model", str(BUNDLE), *words],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        yield process.pid, _port(folder / "log", process)
    finally:
        process.terminate()
        process.wait(120)


def _port(log: Path, process: subprocess.Popen) -> int:
    end = time.monotonic() + 600
    while not (found := re.search(r"127\.0\.0\.1:(\d+)", log.read_text("utf-8"))):
        if process.poll() is not None or time.monotonic() > end:
            pytest.fail(f"the service did not begin: {log.read_text('utf-8')[-500:]}")
        time.sleep(0.1)
    return int(found[1])


def peak_mib(pid: int) -> float:
    """Largest resident size of a process so far."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads peaks from /proc")
def test_twenty_requests_at_once_take_hardly_more_memory_than_one(tmp_path):
    body = upload_of(tmp_path / "in")
    (tmp_path / "service").mkdir()
    peaks = {}
    with serving(tmp_path / "service") as (pid, port), ThreadPoolExecutor(REQUESTS) as threads:
        peaks[0] = peak_mib(pid)
        for number in (1, 5, REQUESTS):
            asked = [threads.submit(ask, port, "POST", "/v1/answers", body) for _ in range(number)]
            replies = [one.result() for one in asked]
            assert [status for status, _ in replies] == [200] * number
            peaks[number] = peak_mib(pid)
            for _, content in replies:
                assert ask(port, "DELETE", f"/v1/answers/{json.loads(content)['id']}")[0] == 204
    print("\npeak MiB after start, 1, 5 and 20 requests:", {n: round(mib) for n, mib in peaks.items()})
    assert peaks[REQUESTS] - peaks[1] < GROWTH_MIB < REQUESTS * UPLOAD_MIB / 4
    assert [path.name for path in (tmp_path / "service").iterdir()] == ["log"]
