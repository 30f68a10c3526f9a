"""An expert behind HTTP says the same as in process, and a server that is down, slow or mad does no harm."""

import json
import socket
import time

import numpy as np
import pytest
from expert_scenes import QUERY, RingReader, bare_scene, make_scene
from expert_servers import HEALTH, ServerProcess, lps_volume, running
from hypothesis import given, settings
from hypothesis import strategies as st

from medeyes_monai.errors import ExpertError
from medeyes_monai.experts import AnnotationExpert, Candidate, MemoExpert, Verdict
from medeyes_monai.experts.remote import RemoteExpert
from medeyes_monai.experts.remote_wire import candidate_record, read_candidates, read_verdict, verdict_record
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import BlankedScene

REGION = Box((100, 60), (200, 160))
QUICK = {"backoff_s": 0.001, "timeout_s": 20.0}


def shown(candidates):
    return [
        (c.box, c.confidence, c.finding, c.disagreement, None if c.mask is None else c.mask.tolist())
        for c in candidates
    ]


# The same replies as in process.


@pytest.mark.parametrize("scene", [make_scene(), lps_volume()], ids=["picture", "volume"])
def test_a_served_expert_says_what_it_says_in_process(annotation_server, scene):
    here = AnnotationExpert(RingReader(), jitter=5, false_alarm_rate=2.0, drill_error=0.3)
    there = RemoteExpert(annotation_server.url, send_findings=True, **QUICK)
    assert len(here.scan(scene, QUERY)) >= 2
    assert shown(there.scan(scene, QUERY)) == shown(here.scan(scene, QUERY))
    for finding in scene.findings:
        assert there.drill(scene, finding.box, QUERY) == here.drill(scene, finding.box, QUERY)
    assert there.name.startswith(f"remote-told-{here.name}-")
    assert there.axes == (2, 3)


def test_what_the_data_say_stays_here_unless_it_is_asked_for(annotation_server):
    there = RemoteExpert(annotation_server.url, **QUICK)
    assert there.drill(make_scene(), make_scene().findings[0].box, QUERY).finding in ("normal", "candidate")
    assert not there.name.startswith("remote-told")


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    three=st.booleans(),
    confidence=st.floats(0, 1),
    text=st.text(max_size=20),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_candidates_survive_the_wire(size, three, confidence, text, seed):
    extent = size if three else size[:2]
    mask = np.random.default_rng(seed).uniform(size=extent) < 0.5
    sent = Candidate(Box((3,) * len(extent), tuple(3 + n for n in extent)), confidence, text, mask, 0.25)
    reply = json.loads(json.dumps({"candidates": [candidate_record(sent)]}))
    assert shown(read_candidates(reply)) == shown([sent])
    verdict = Verdict(confidence, text, text or None, 0.5)
    assert read_verdict(json.loads(json.dumps({"verdict": verdict_record(verdict)}))) == verdict


def test_a_scene_without_voxels_cannot_be_sent(scripted):
    scripted.replies = [HEALTH]
    for scene in (bare_scene(), BlankedScene(make_scene())):
        with pytest.raises(ExpertError, match=r"^remote-x: needs the voxels"):
            RemoteExpert(scripted.url).scan(scene, QUERY)


def test_an_image_is_encoded_once_for_a_scan_and_its_drills(scripted, monkeypatch):
    scripted.replies = [HEALTH, SCAN, DRILL]
    scene, expert = make_scene(), RemoteExpert(scripted.url)
    expert.scan(scene, QUERY)
    monkeypatch.setattr("medeyes_monai.experts.remote.image_record", None)
    assert expert.drill(scene, REGION, QUERY) == Verdict(0.9, "ring", "yes")


# A server that is down, slow, or answers nonsense.

FOUND = {"box": [0, 0, 9, 9], "confidence": 0.5, "finding": "ring"}
SCAN = {"version": 1, "expert": "x", "candidates": [FOUND]}
DRILL = {
    "version": 1,
    "expert": "x",
    "verdict": {"confidence": 0.9, "finding": "ring", "answer": "yes"},
}


def mad(**changes):
    return {**SCAN, "candidates": [{**FOUND, **changes}]}


NONSENSE = {
    "not JSON": b"<html>502</html>",
    "half JSON": json.dumps(SCAN).encode()[:-3],
    "not UTF-8": b"\xff\xfe{",
    "a list": [],
    "nothing": b"",
    "another version": {**SCAN, "version": 2},
    "no version": {"expert": "x", "candidates": []},
    "another expert": {**SCAN, "expert": "y"},
    "no candidates": {"version": 1, "expert": "x"},
    "candidates no list": {**SCAN, "candidates": {"a": 1}},
    "too many candidates": {**SCAN, "candidates": [FOUND] * 1001},
    "a candidate that is text": {**SCAN, "candidates": ["ring"]},
    "NaN": json.dumps(mad(confidence=float("nan"))).encode(),
    "infinite": json.dumps(mad(confidence=float("inf"))).encode(),
    "overflow": json.dumps(mad()).encode().replace(b"0.5", b"1e999"),
    "confidence above one": mad(confidence=1.5),
    "confidence as text": mad(confidence="0.5"),
    "confidence true": mad(confidence=True),
    "confidence of 5000 digits": json.dumps(mad()).encode().replace(b"0.5", b"1" * 5000),
    "box outside": mad(box=[500, 0, 513, 9]),
    "box empty": mad(box=[5, 5, 5, 9]),
    "box of 3 numbers": mad(box=[0, 0, 9]),
    "box in 3D": mad(box=[0, 0, 0, 9, 9, 9]),
    "box of fractions": mad(box=[0.5, 0, 9, 9]),
    "box of text": mad(box="0099"),
    "no finding": {**SCAN, "candidates": [{"box": [0, 0, 9, 9], "confidence": 0.5}]},
    "finding no text": mad(finding=["ring"]),
    "finding endless": mad(finding="a" * 10001),
    "mask too short": mad(mask="//8="),
    "mask no base64": mad(mask="ä"),
    "disagreement above one": mad(disagreement=7),
    "worst first": {**SCAN, "candidates": [FOUND, {**FOUND, "confidence": 0.6}]},
    "deeply nested": b"[" * 100_000,
}


@pytest.mark.parametrize("reply", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_asked_again_and_then_an_error_that_names_expert_and_server(scripted, reply):
    scripted.replies = [HEALTH, reply]
    expert = RemoteExpert(scripted.url, retries=2, **QUICK)
    with pytest.raises(
        ExpertError, match=rf"^remote-x at {scripted.url}: its answer makes no sense"
    ) as error:
        expert.scan(make_scene(), QUERY)
    assert "tried 3 times" in str(error.value)
    assert len(str(error.value)) < 600
    assert [path for path, *_ in scripted.asked] == ["/health", "/scan", "/scan", "/scan"]


MAD_VERDICTS = [
    {},
    {"verdict": None},
    {"verdict": []},
    {"verdict": {"finding": "ring"}},
    {"verdict": {"confidence": 2, "finding": "ring"}},
    {"verdict": {"confidence": 0.5, "finding": None}},
    {"verdict": {"confidence": 0.5, "finding": "ring", "answer": 3}},
    {"verdict": [{"confidence": 0.5, "finding": "ring"}] * 2},
]


@pytest.mark.parametrize("reply", MAD_VERDICTS)
def test_a_mad_verdict_is_refused(scripted, reply):
    scripted.replies = [HEALTH, {"version": 1, "expert": "x", **reply}]
    with pytest.raises(ExpertError, match=r"remote-x at .* makes no sense"):
        RemoteExpert(scripted.url, retries=0).drill(make_scene(), REGION, QUERY)


MAD_HEALTH = [
    {**HEALTH, "axes": [4]},
    {**HEALTH, "axes": "2"},
    {**HEALTH, "expert": ""},
    {**HEALTH, "expert": "a" * 81},
    {**HEALTH, "expert": "a\nb"},
    {**HEALTH, "version": None},
]


@pytest.mark.parametrize("reply", MAD_HEALTH)
def test_a_server_that_cannot_say_whom_it_serves_is_refused(scripted, reply):
    scripted.replies = [reply]
    with pytest.raises(ExpertError, match=r"remote expert at .* makes no sense"):
        _ = RemoteExpert(scripted.url, retries=0).name


def test_a_moment_of_madness_is_forgotten(scripted):
    scripted.replies = [HEALTH, (503, {}, b"busy"), b"{", mad(confidence=2), SCAN]
    (candidate,) = RemoteExpert(scripted.url, retries=3, **QUICK).scan(make_scene(), QUERY)
    assert candidate.confidence == 0.5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 301, 302])
def test_what_another_try_cannot_mend_is_not_tried_again(scripted, status):
    words = {"error": {"code": "expert", "message": "blobs: works on\npictures" + "." * 500}}
    scripted.replies = [HEALTH, (status, {"Location": "file:///etc/passwd"}, json.dumps(words).encode())]
    with pytest.raises(ExpertError, match=rf"answered {status} \(blobs: works on pictures\.*\)") as error:
        RemoteExpert(scripted.url, **QUICK).scan(make_scene(), QUERY)
    assert len(scripted.asked) == 2
    assert len(str(error.value)) < 400


def test_a_huge_answer_is_not_read_to_its_end(scripted):
    sent = []

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while len(sent) < 1000:
            handler.wfile.write(b" " * 2**20)
            sent.append(1)

    scripted.replies = [HEALTH, endless]
    with pytest.raises(ExpertError, match=r"longer than 4,194,304 bytes"):
        RemoteExpert(scripted.url, max_reply_bytes=2**22, **QUICK).scan(make_scene(), QUERY)
    assert len(sent) < 50  # MiB, what the sockets hold included


def dripping(head):
    def drip(handler):
        for byte in head + b" " * 100:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.1)

    return drip


@pytest.mark.parametrize("head", [b"", b"HTTP/1.0 200 OK\r\n\r\n[", b"HTTP/1.0 200 OK\r\nA: "])
def test_a_server_that_drips_is_cut_off_in_time(scripted, head):
    scripted.replies = [HEALTH, dripping(head)]
    expert = RemoteExpert(scripted.url, retries=0)
    assert expert.name
    expert.service.timeout_s = 0.5
    begin = time.monotonic()
    with pytest.raises(ExpertError, match=r"did not answer within 0.5 s; tried once"):
        expert.scan(make_scene(), QUERY)
    assert time.monotonic() - begin < 8  # it drips for more than 10 s


def test_a_server_that_takes_no_connection_in_is_given_up_in_time():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        begin = time.monotonic()
        with pytest.raises(ExpertError, match="did not answer within"):
            _ = RemoteExpert(url, timeout_s=0.3, retries=1, backoff_s=0.01).name
        assert time.monotonic() - begin < 8


def test_an_answer_that_breaks_off_is_asked_for_again(scripted):
    broken = (200, {"Content-Length": "5000"}, json.dumps(SCAN).encode())
    scripted.replies = [HEALTH, broken, SCAN]
    assert len(RemoteExpert(scripted.url, **QUICK).scan(make_scene(), QUERY)) == 1


def test_an_expert_that_is_killed_is_given_up_after_some_tries_and_works_again_when_it_is_back(medplib):
    scene = make_scene()
    with running(ServerProcess(*medplib)) as server:
        expert = RemoteExpert(server.url, retries=2, **QUICK)
        before = shown(expert.scan(scene, QUERY))
        server.kill()
        with pytest.raises(ExpertError, match=r"remote-medplib-\w+ at .* cannot be reached .* tried 3 times"):
            expert.scan(scene, QUERY)
        server.start()
        assert shown(expert.scan(scene, QUERY)) == before
        assert before


def test_a_memo_needs_no_server_for_what_it_knows(medplib, tmp_path):
    scene = make_scene()
    with running(ServerProcess(*medplib)) as server:
        expert = RemoteExpert(server.url, retries=0)
        before = MemoExpert(expert, tmp_path).drill(scene, REGION, QUERY)
        known = RemoteExpert(server.url, retries=0, expert=expert.name.removeprefix("remote-"))
        with pytest.raises(ExpertError, match=r"remote-other at .* serves 'medplib-\w+'"):
            RemoteExpert(server.url, expert="other").drill(scene, REGION, QUERY)
    assert MemoExpert(known, tmp_path).drill(scene, REGION, QUERY) == before
    with pytest.raises(ExpertError, match="cannot be reached"):
        MemoExpert(known, tmp_path).drill(scene, REGION, "Something else?")
