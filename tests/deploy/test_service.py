"""The HTTP service: a real server on loopback, asked as clients ask it."""

import contextlib
import gzip
import http.client
import io
import json
import struct
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

pytest.importorskip("highdicom", reason="needs the extra deploy")
pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("python_multipart", reason="needs the extra serve")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")

from deploy_cases import study  # noqa: E402

from medeyes_monai.deploy.intake import Limits  # noqa: E402
from medeyes_monai.deploy.model import load_bundle  # noqa: E402
from medeyes_monai.deploy.serve import main  # noqa: E402
from medeyes_monai.deploy.service import ServiceSettings, create_app  # noqa: E402

ROOT = Path(__file__).parents[2]
PICTURE = (ROOT / "bundle" / "docs" / "example.png").read_bytes()
ASKED = "Which kind is the lesion?"
TOKEN = "-".join(["a", "long", "secret", "token"])
SECRETS = ("Somebody", "4711")


@pytest.fixture(scope="module")
def model():
    return load_bundle(ROOT / "bundle", device="cpu")


class Gate:
    """Lets the real inferer work when it is opened."""

    def __init__(self, inferer):
        self.inferer, self.opened, self.asked = inferer, threading.Event(), 0

    def __call__(self, inputs, network):
        self.asked += 1
        if not self.opened.wait(60):
            raise TimeoutError
        return self.inferer(inputs, network)


class Server:
    """A service in a thread, and ways to ask it."""

    def __init__(self, model, settings):
        self.app = create_app(lambda: model, settings)
        config = uvicorn.Config(
            self.app, port=0, log_level="critical", access_log=False, timeout_graceful_shutdown=30
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.folder = settings.folder

    def start(self):
        self.thread.start()
        wait_until(lambda: self.server.started)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def stop(self):
        self.server.should_exit = True
        self.thread.join(60)

    def ask(self, method, path, body=None, **headers):
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            with contextlib.suppress(ConnectionError):  # who refuses a body need not read the rest of it
                link.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            reply = link.getresponse()
            return reply.status, reply.read(), reply.headers
        finally:
            link.close()

    def post(self, study=PICTURE, question=ASKED, *, headers=None, **fields):
        body, kind = form(study, question=question, **fields)
        status, content, _ = self.ask("POST", "/v1/answers", body, Content_Type=kind, **(headers or {}))
        return status, json.loads(content)

    def left(self):
        """Files that lie in the folder of the service."""
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())


def form(study, **fields):
    """A form and its type."""
    parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items() if value is not None]
    if study is not None:
        kind = b'name="study"; filename="Somebody^Known.bin"\r\nContent-Type: image/png\r\n\r\n'
        parts.append(kind + study)
    body = b"".join(b"--xyz\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts)
    return body + b"--xyz--\r\n", "multipart/form-data; boundary=xyz"


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


@contextlib.contextmanager
def serving(model, folder, **settings):
    folder.mkdir(exist_ok=True)
    server = Server(model, ServiceSettings(folder=folder, **settings))
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    limits = Limits(upload_bytes=2**20, unpacked_bytes=2**20, files=50)
    with serving(model, tmp_path_factory.mktemp("service"), limits=limits) as running:
        yield running


def zipped(files, **about):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            for key, value in about.items():
                setattr(entry, key, value)
            packed.writestr(entry, content)
    return buffer.getvalue()


def test_an_answer_comes_with_links_to_its_results_until_it_is_forgotten(server):
    status, answer = server.post(headers={"X_Request_ID": "mine-1"})
    assert status == 200
    assert answer["results"][0]["answer"]
    assert sorted(answer["files"]) == ["report.pdf", "results.json"]
    status, content, headers = server.ask("GET", answer["files"]["results.json"], X_Request_ID="mine-2")
    assert (status, headers["X-Request-ID"]) == (200, "mine-2")
    assert json.loads(content)["results"] == answer["results"]
    assert server.ask("GET", answer["files"]["report.pdf"])[1][:5] == b"%PDF-"
    for path in (f"/v1/answers/{answer['id']}/..%2f..%2fx", f"/v1/answers/{answer['id']}/other.dcm"):
        assert server.ask("GET", path)[0] == 404
    assert server.ask("DELETE", f"/v1/answers/{answer['id']}")[0] == 204
    assert server.ask("GET", answer["files"]["report.pdf"])[0] == 404
    assert server.left() == []


def test_a_zip_of_dicom_brings_dicom_results_of_the_same_study(server, tmp_path):
    folder = study(tmp_path / "in", PatientName="Somebody^Known", PatientID="4711")
    files = {f"Somebody^Known/{path.name}": path.read_bytes() for path in folder.iterdir()}
    assert server.post(zipped(files), series='{"Modality": "C."}')[0] == 422  # words, not an expression
    status, answer = server.post(zipped(files), slices="[1]", series='{"Modality": "CT"}')
    assert status == 200
    assert answer["results"][0]["slice"] == 1
    assert not any(secret in json.dumps(answer) for secret in SECRETS)
    report = pydicom.dcmread(io.BytesIO(server.ask("GET", answer["files"]["sr.dcm"])[1]))
    assert report.StudyInstanceUID == answer["study"]
    server.ask("DELETE", f"/v1/answers/{answer['id']}")


def test_a_nifti_volume_is_answered_slice_by_slice_in_millimetres(server):
    image = nibabel.Nifti1Image(np.arange(4096, dtype=np.int16).reshape(16, 16, 16), np.diag([2.0, 2, 3, 1]))
    status, answer = server.post(gzip.compress(image.to_bytes()), slices="[3, 4]")
    assert status == 200
    assert [result["slice"] for result in answer["results"]] == [3, 4]
    assert answer["results"][0]["spacing_mm"] == [2.0, 2.0, 3.0]
    server.ask("DELETE", f"/v1/answers/{answer['id']}")


def bad_zips():
    liar = bytearray(zipped({"a": b"\0" * 2_000_000}))
    for place in (liar.index(b"PK\x01\x02") + 24, 22):  # the sizes that the directory and the file declare
        liar[place : place + 4] = (1000).to_bytes(4, "little")
    claim = bytearray(zipped({"a": b"x"}, extra=struct.pack("<HHQ", 1, 8, 10 * 2**30)))
    place = claim.index(b"PK\x01\x02") + 24
    claim[place : place + 4] = b"\xff" * 4  # the size stands in the extra field
    locked = bytearray(zipped({"a": b"x"}))
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    return {
        "broken": (zipped({"a": b"x" * 500})[:-40], "cannot be unpacked"),
        "slip": (zipped({"../../Somebody": b"x"}), "place outside itself"),
        "absolute": (zipped({"/Somebody": b"x"}), "place outside itself"),
        "windows": (zipped({"C:\\Somebody": b"x"}), "place outside itself"),
        "link": (zipped({"a": b"/etc/passwd"}, create_system=3, external_attr=0o120777 << 16), "a link"),
        "claim": (bytes(claim), "declares 10,737,418,240 bytes"),
        "bomb": (zipped({"a": b"\0" * 2_000_000}), "declares 2,000,000 bytes"),
        "liar": (bytes(liar), "cannot be unpacked"),
        "locked": (bytes(locked), "is encrypted"),
        "many": (zipped({f"{n}": b"x" for n in range(60)}), "holds 60 files"),
        "empty": (zipped({"a/": b""}), "holds no files"),
        "other": (zipped({"Somebody.txt": b"x"}), "no DICOM image"),
    }


@pytest.mark.parametrize("kind", bad_zips())
def test_a_zip_that_could_do_harm_is_refused_and_leaves_nothing(server, kind):
    content, why = bad_zips()[kind]
    status, answer = server.post(content)
    assert status == 422
    assert why in answer["error"]
    assert not any(secret in answer["error"] for secret in SECRETS)
    assert server.left() == []


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"question": ""}, "needs words"),
        ({"study": None}, "lacks the file"),
        ({"study": b"nothing"}, "upload"),
        ({"options": "[1]"}, "texts"),
        ({"options": "{"}, "not JSON"),
        ({"slices": "[7]"}, "slice 7 is asked for"),
        ({"series": '{"PatientName": "x"}'}, "none of these"),
        ({"series": '{"Modality": 1}'}, "is a text"),
        ({"other": "x"}, "unknown field"),
    ],
)
def test_a_form_that_is_wrong_is_refused_in_words(server, fields, why):
    status, answer = server.post(**fields)
    assert (status, server.left()) == (422, [])
    assert why in answer["error"]


def test_claims_and_bodies_that_are_too_large_are_refused_early(server):
    body, kind = form(b"\0" * (2**20 + 1), question=ASKED)
    assert server.ask("POST", "/v1/answers", body, Content_Type=kind)[0] == 413
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    link.putrequest("POST", "/v1/answers")
    link.putheader("Content-Type", kind)
    link.putheader("Content-Length", str(10 * 2**30))
    link.endheaders()  # and not a byte of it
    assert link.getresponse().status == 413
    link.close()
    pieces = iter([body[:1000], *[b"\0" * 2**16] * 20])  # chunked: no length is declared
    assert server.ask("POST", "/v1/answers", pieces, Content_Type=kind)[0] == 413
    assert server.left() == []


def test_of_twenty_at_once_those_that_fit_are_answered_and_the_others_told_to_come_later(model, tmp_path):
    gate = Gate(model.inferer)
    with serving(replace(model, inferer=gate), tmp_path / "s", places=4) as server:
        with ThreadPoolExecutor(20) as threads:
            asked = [threads.submit(server.post) for _ in range(20)]
            wait_until(lambda: sum(one.done() for one in asked) == 16)
            assert server.ask("GET", "/readyz")[0] == 503
            assert server.ask("GET", "/healthz")[0] == 200
            gate.opened.set()
            replies = [one.result() for one in asked]
        assert sorted(status for status, _ in replies) == [200] * 4 + [429] * 16
        assert {answer["error"] for status, answer in replies if status == 429} == {
            "all places are taken; come again later"
        }
        assert len({answer["id"] for status, answer in replies if status == 200}) == 4
        assert len(server.left()) == 4 * 2
        assert server.ask("GET", "/readyz")[0] == 200
        assert server.app.state.service.jobs.free == 4


def test_who_waits_too_long_or_leaves_gives_the_place_back_and_nothing_stays(model, tmp_path):
    gate = Gate(model.inferer)
    with serving(replace(model, inferer=gate), tmp_path / "s", places=2, timeout_s=1.0) as server:
        assert server.post()[0] == 504
        body, kind = form(PICTURE, question=ASKED)
        link = http.client.HTTPConnection("127.0.0.1", server.port)
        link.request("POST", "/v1/answers", body, {"Content-Type": kind})
        jobs = server.app.state.service.jobs
        wait_until(lambda: jobs.free == 0)
        link.close()
        wait_until(lambda: jobs.free == 1)  # the first still works, behind the gate
        gate.opened.set()
        wait_until(lambda: jobs.free == 2)
        wait_until(lambda: server.left() == [])
        assert gate.asked == 1


def test_who_leaves_while_sending_or_while_the_model_works_leaves_nothing_behind(model, tmp_path, caplog):
    caplog.set_level("INFO", "medeyes_monai.deploy.guard")
    gate = Gate(model.inferer)
    body, kind = form(PICTURE + b"\0" * 2**21, question=ASKED)
    with serving(replace(model, inferer=gate), tmp_path / "s", places=1) as server:
        jobs = server.app.state.service.jobs
        for number, sent in enumerate((len(body) // 2, len(body)), start=1):
            link = http.client.HTTPConnection("127.0.0.1", server.port)
            link.putrequest("POST", "/v1/answers")
            link.putheader("Content-Type", kind)
            link.putheader("Content-Length", str(len(body)))
            link.endheaders(body[:sent])
            wait_until(lambda: jobs.free == 0)
            wait_until(lambda sent=sent: sent < len(body) or gate.asked == 1)
            link.close()
            wait_until(lambda number=number: caplog.text.count("POST 499") == number)
            if sent == len(body):
                assert jobs.free == 0  # the model still works
                gate.opened.set()
            wait_until(lambda: jobs.free == 1)
            wait_until(lambda: server.left() == [])
        assert gate.asked == 1
        assert server.post()[0] == 200


def test_who_sends_too_slowly_is_told_and_nothing_stays(model, tmp_path):
    with serving(model, tmp_path / "s", upload_s=0.5) as server:
        link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        link.putrequest("POST", "/v1/answers")
        link.putheader("Content-Type", "multipart/form-data; boundary=xyz")
        link.putheader("Content-Length", "100000")
        link.endheaders(b"--xyz\r\n")
        assert link.getresponse().status == 408
        link.close()
        assert server.app.state.service.jobs.free == 8
        assert list((tmp_path / "s").rglob("upload*")) == []


def test_a_service_that_stops_finishes_what_it_has_begun(model, tmp_path):
    gate = Gate(model.inferer)
    with serving(replace(model, inferer=gate), tmp_path / "s") as server, ThreadPoolExecutor(1) as threads:
        begun = threads.submit(server.post)
        wait_until(lambda: gate.asked == 1)
        server.server.should_exit = True
        time.sleep(0.2)
        gate.opened.set()
        assert begun.result()[0] == 200
    assert list((tmp_path / "s").iterdir()) == []


def test_what_goes_wrong_inside_is_not_told_with_values(model, tmp_path, caplog):
    def broken(inputs, network):
        raise RuntimeError("Somebody^Known")

    with serving(replace(model, inferer=broken), tmp_path / "s") as server:
        status, answer = server.post()
        assert (status, answer["error"]) == (500, "something went wrong inside")
        assert server.left() == []
        assert server.app.state.service.jobs.free == 8
    assert "Somebody" not in caplog.text


def test_with_a_token_only_its_holder_is_answered(model, tmp_path):
    with serving(model, tmp_path / "s", token=TOKEN) as server:
        assert server.post()[0] == 401
        assert server.post(headers={"Authorization": "Bearer another"})[0] == 401
        assert server.post(headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200
        assert server.ask("GET", "/healthz")[0] == 200


def test_the_openapi_page_names_the_form(server):
    described = json.loads(server.ask("GET", "/openapi.json")[1])
    body = described["paths"]["/v1/answers"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert body["schema"]["required"] == ["study", "question"]
    assert server.ask("GET", "/docs")[0] == 200


def test_the_command_does_not_open_to_the_network_without_a_token(tmp_path, capsys):
    assert main(["--host", "0.0.0.0"]) == 2  # noqa: S104
    assert "give --token-file" in capsys.readouterr().err
    (tmp_path / "t").write_text("short\n")
    assert main(["--token-file", str(tmp_path / "t")]) == 2
    assert "at least 16" in capsys.readouterr().err
