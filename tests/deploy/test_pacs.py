"""A real PACS on loopback: a study comes in by C-STORE, and its results arrive under the same study."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("highdicom", reason="needs the extra deploy")
pytest.importorskip("pynetdicom", reason="needs the extra deploy")

from deploy_cases import study

from medeyes_monai.deploy.model import load_bundle
from medeyes_monai.deploy.pacs import PacsError, Peer, Receiver, send
from medeyes_monai.deploy.pacs_loop import PacsLoop, main, read_peer
from medeyes_monai.deploy.questions import Question
from medeyes_monai.errors import ConfigError

ROOT = Path(__file__).parents[2]
ASKED = Question("Which kind is the lesion?", series={"Modality": "CT"})


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_until(true, seconds=120):
    end = time.monotonic() + seconds
    while not (found := true()):
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.1)
    return found


class Orthanc:
    """A PACS of its own, on loopback, with an empty store."""

    def __init__(self, folder, ours):
        self.dicom, self.http = free_port(), free_port()
        settings = {
            "Name": "test",
            "StorageDirectory": str(folder / "store"),
            "IndexDirectory": str(folder / "store"),
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "DicomAet": "ORTHANC",
            "DicomScuTimeout": 120,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "SslEnabled": False,
            "Plugins": [],
            "DicomModalities": {"ours": ["MEDEYES", "127.0.0.1", ours]},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        command = [shutil.which("Orthanc"), str(folder / "orthanc.json")]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", data, timeout=60) as reply:
            return json.loads(reply.read())

    def lives(self):
        try:
            return self.ask("/system")
        except OSError:
            return None

    def stop(self):
        self.process.terminate()
        self.process.wait(60)

    def series_of(self, uid):
        """Modality and number of instances of each series of a study."""
        found = self.ask(
            "/tools/find", {"Level": "Series", "Query": {"StudyInstanceUID": uid}, "Expand": True}
        )
        return {one["MainDicomTags"]["Modality"]: len(one["Instances"]) for one in found}


@pytest.fixture
def orthanc(tmp_path):
    if shutil.which("Orthanc") is None:
        pytest.skip("Orthanc is not installed (Debian: orthanc)")
    ours = free_port()
    (tmp_path / "orthanc").mkdir()
    pacs = Orthanc(tmp_path / "orthanc", ours)
    pacs.ours = ours
    try:
        wait_until(pacs.lives)
        yield pacs
    finally:
        pacs.stop()


def test_a_study_of_a_pacs_is_answered_and_its_results_are_found_under_it(tmp_path, orthanc):
    folder = study(
        tmp_path / "in", StudyInstanceUID="1.2.3.77", PatientName="Somebody^Known", shape=(64, 64, 3)
    )
    peer = Peer("127.0.0.1", orthanc.dicom, "ORTHANC")
    assert send(sorted(folder.iterdir()), peer) == 3
    assert orthanc.series_of("1.2.3.77") == {"CT": 3}
    loop = PacsLoop(load_bundle(ROOT / "bundle", device="cpu"), [ASKED], peer, tmp_path / "studies")
    loop.start(orthanc.ours)
    try:
        (identifier,) = orthanc.ask("/studies")
        orthanc.ask("/modalities/ours/store", [identifier])
        found = wait_until(lambda: len(orthanc.series_of("1.2.3.77")) > 2 and orthanc.series_of("1.2.3.77"))
    finally:
        loop.stop()
    found = orthanc.series_of("1.2.3.77")
    assert found == {"CT": 3, "SR": 1, "DOC": 1} | ({"SEG": 1, "PR": 1} if "SEG" in found else {})
    assert len(orthanc.ask("/patients")) == 1
    assert list((tmp_path / "studies").iterdir()) == []


def test_a_segmentation_and_a_presentation_are_taken_by_the_pacs(tmp_path, orthanc):
    from deploy_cases import result_about, source_of

    from medeyes_monai.deploy.writers import write_results
    from medeyes_monai.geometry import Box

    source = source_of(study(tmp_path / "in", StudyInstanceUID="1.2.3.78"))
    files = write_results(tmp_path / "out", [result_about(source.grid, Box((1, 1, 1), (5, 5, 4)))], source)
    objects = [path for path in files if path.suffix == ".dcm"]
    assert send([*source.paths, *objects], Peer("127.0.0.1", orthanc.dicom, "ORTHANC")) == 10
    assert orthanc.series_of("1.2.3.78") == {"CT": 6, "SR": 1, "SEG": 1, "DOC": 1, "PR": 1}


def test_what_comes_lies_under_numbers_and_a_study_that_cannot_be_answered_goes(tmp_path, caplog):
    folder = study(tmp_path / "in", Modality="MR", PatientName="Somebody^Known")
    port = free_port()
    peer = Peer("127.0.0.1", port)
    came = []
    receiver = Receiver(tmp_path / "a", done=came.extend)
    receiver.start(port)
    try:
        send(sorted(folder.iterdir()), peer)
        (place,) = wait_until(lambda: came)
        assert len(list(place.iterdir())) == 6
        assert "Somebody" not in "".join(str(path) for path in place.rglob("*"))
    finally:
        receiver.stop()
    model = load_bundle(ROOT / "bundle", device="cpu")
    loop = PacsLoop(model, [ASKED], peer, tmp_path / "b")
    loop.start(port)
    try:
        send(sorted(folder.iterdir()), peer)
        wait_until(lambda: "was not answered" in caplog.text)
    finally:
        loop.stop()
    assert "none of 1 series fits" in caplog.text
    assert "Somebody" not in caplog.text
    assert list((tmp_path / "b").iterdir()) == []


@pytest.mark.parametrize("end", ["abort", "vanish"])
def test_what_an_association_brought_that_breaks_off_is_removed(tmp_path, end):
    from pynetdicom import AE

    (file,) = sorted(study(tmp_path / "in", shape=(4, 4, 1)).iterdir())
    one, port, came = pydicom.dcmread(file), free_port(), []
    receiver = Receiver(tmp_path / "a", done=came.extend)
    receiver.start(port)
    try:
        entity = AE()
        entity.add_requested_context(one.SOPClassUID)
        link = entity.associate("127.0.0.1", port)
        assert link.send_c_store(one).Status == 0
        assert len(list((tmp_path / "a").rglob("*.dcm"))) == 1
        if end == "abort":
            link.abort()
        else:  # as a process that was killed: the connection goes without a word
            link.dul.socket.close()
        wait_until(lambda: not list((tmp_path / "a").iterdir()))
    finally:
        receiver.stop()
    assert came == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom leaves its socket
def test_a_pacs_that_is_not_there_is_told(tmp_path):
    folder = study(tmp_path / "in")
    with pytest.raises(PacsError, match="no association with NOBODY"):
        send(sorted(folder.iterdir()), Peer("127.0.0.1", free_port(), "NOBODY"))


def test_a_peer_is_written_in_one_way(tmp_path, capsys):
    assert read_peer("A@h:1", "B") == Peer("h", 1, "A", "B")
    for wrong in ("h:1", "A@h", "A@h:x", "@h:1"):
        with pytest.raises(ConfigError, match="TITLE@HOST:PORT"):
            read_peer(wrong, "B")
    assert main(["--peer", "A", "--questions", str(tmp_path / "none")]) == 2
    assert "TITLE@HOST:PORT" in capsys.readouterr().err
