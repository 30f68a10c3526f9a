"""The servers of experts: what comes in is read strictly, and MedPLIB's runs without anything of ours."""

import ast
import base64
import json
import sys
import threading
from contextlib import closing
from http.client import HTTPConnection
from types import SimpleNamespace

import numpy as np
import pytest
from expert_scenes import QUERY, make_scene
from expert_servers import SCRIPTS, ServerProcess, lps_volume, running
from monai.data import MetaTensor

from medeyes_monai.errors import ExpertError
from medeyes_monai.experts import AnnotationExpert, BlobExpert, Candidate, Verdict
from medeyes_monai.experts.remote import RemoteExpert
from medeyes_monai.experts.remote_wire import candidate_record, image_record, png_bytes, read_candidates
from medeyes_monai.geometry import Box
from medeyes_monai.scenes import ImageScene, VolumeScene

sys.path.insert(0, str(SCRIPTS))
import medplib_server as medplib_script
import serve_expert
from serving.medplib_model import fit, padded, region_cells, resized
from serving.reading import Refused, read_request

REGION = Box((100, 60), (200, 160))

# Images on their way to the scene of a served expert.


def test_pixels_arrive_as_they_were_sent():
    scene = ImageScene(np.random.default_rng(0).integers(0, 256, (3, 300, 200), np.uint8), key="a")
    served = serve_expert.ServedExpert(BlobExpert(), {"png": ImageScene})
    asked = SimpleNamespace(key="a", query="", findings=(), **wired(image_record(scene, "x")))
    again, _ = served._scene(asked)
    assert np.array_equal(again.image, scene.image)
    assert served.scan(asked) == [candidate_record(c) for c in BlobExpert().scan(scene, "")]


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_voxels_and_affine_of_a_volume_arrive_as_they_were_sent(kind):
    values = np.random.default_rng(0).integers(0, 200, (1, 40, 36, 20)).astype(kind)
    values += kind(0.5)
    turn = np.array([[-0.8, 0, 0.6], [0, -1, 0], [0.6, 0, 0.8]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * [0.7, 0.7, 2], (5, -3, 9)
    scene = SimpleNamespace(image=MetaTensor(values, affine), shape=values.shape[1:], key="a")
    arrived = serve_expert._read(SimpleNamespace(**wired(image_record(scene, "x"))))
    assert np.array_equal(arrived, values)
    assert np.allclose(arrived.affine, affine, atol=1e-5)  # NIfTI keeps it as float32


def wired(record):
    return {"format": record["format"], "image": base64.b64decode(record["data"])}


def test_boxes_and_masks_of_a_volume_are_those_of_the_axes_that_were_sent():
    """The scene of the server turns the axes: x and z are flipped, and x and y change places."""
    affine = np.array([[0.0, 2, 0, 0], [1, 0, 0, 0], [0, 0, -3, 0], [0, 0, 0, 1]])
    marked = np.zeros((1, 48, 40, 36), np.uint8)
    marked[0, 5:9, 10:16, 20:30] = 200
    marked[0, 5, 10, 20] = 0

    class Marked(AnnotationExpert):
        """Proposes what is bright."""

        def scan(self, scene, query):
            voxels = scene.image[0].numpy() > 100
            spans = [np.flatnonzero(voxels.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
            box = Box(tuple(int(s[0]) for s in spans), tuple(int(s[-1]) + 1 for s in spans))
            return [Candidate(box, 0.5, str(box.corners), voxels[box.slices])]

        def drill(self, scene, box, query):
            return Verdict(0.5, str(bool((scene.image[0][box.slices] > 100).sum() == box.size - 1)))

    scene = SimpleNamespace(image=MetaTensor(marked, affine), shape=marked.shape[1:])
    record = wired(image_record(scene, "x"))
    served = serve_expert.ServedExpert(Marked(), {"nifti.gz": VolumeScene})
    (found,) = served.scan(SimpleNamespace(key="a", query="", findings=(), box=None, **record))
    assert found["box"] == [5, 10, 20, 9, 16, 30]
    assert found["finding"] != str(tuple(found["box"]))  # in the scene it lay elsewhere
    (candidate,) = read_candidates({"candidates": [found]})
    assert np.array_equal(candidate.mask, marked[0, 5:9, 10:16, 20:30] > 100)
    asked = SimpleNamespace(key="a", query="", findings=(), box=(5, 10, 20, 9, 16, 30), **record)
    assert served.drill(asked)["finding"] == "True"


# The servers.


def question(**changes):
    image = {"format": "png", "data": image_record(make_scene(), "x")["data"]}
    return {"version": 1, "key": "a", "query": QUERY, "image": image, **changes}


BAD_REQUESTS = {
    "json": b"{",
    "json of NaN": b'{"version": NaN}',
    "version": question(version=2),
    "key": question(key=3),
    "query": question(query="a" * 10001),
    "image": question(image="here"),
    "image format": question(image={"format": "exe", "data": ""}),
    "image data": question(image={"format": "png", "data": "ä"}),
    "image missing": question(image={"format": "png"}),
    "box": question(box=[0, 0, 9]),
    "box empty": question(box=[5, 5, 5, 9]),
    "box negative": question(box=[-1, 0, 9, 9]),
    "box missing": question(),
    "findings": question(box=[0, 0, 9, 9], findings=[3]),
    "findings subtle": question(
        box=[0, 0, 9, 9], findings=[{"box": [0, 0, 9, 9], "label": "a", "subtle": 1}]
    ),
    "findings box": question(box=[0, 0, 9, 9], findings=[{"box": None, "label": "a"}]),
}


@pytest.mark.parametrize(("code", "body"), BAD_REQUESTS.items(), ids=BAD_REQUESTS)
def test_a_request_of_another_form_is_refused_with_its_code(code, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Refused) as refusal:
        read_request(data, drill=True)
    assert (refusal.value.status, refusal.value.code) == (
        400,
        {"findings box": "box"}.get(code, code.split()[0]),
    )


def ask(server, method="POST", path="/scan", body=None, headers=None):
    """Return status and content of an answer to a raw request."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        with connection.getresponse() as response:
            return response.status, json.loads(response.read())


def broken_png():
    return {"format": "png", "data": base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 99).decode()}


@pytest.mark.parametrize("name", ["annotation_server", "medplib_server"])
def test_both_servers_refuse_what_they_cannot_do_and_go_on(name, request):
    server = request.getfixturevalue(name)
    answers = {
        "path": ask(server, path="/sc"),
        "type": ask(server, body=question(), headers={"Content-Type": "text/plain"}),
        "json": ask(server, body=b"{"),
        "image": ask(server, body=question(image=broken_png())),
        "length": ask(server, body=b"", headers={"Content-Length": "many"}),
        "size": ask(server, body=b"{}", headers={"Content-Length": str(2**40)}),
    }
    assert {code: (status, content["error"]["code"]) for code, (status, content) in answers.items()} == {
        "path": (404, "path"),
        "type": (415, "type"),
        "json": (400, "json"),
        "image": (422, "image"),
        "length": (411, "length"),
        "size": (413, "size"),
    }
    assert all(content["version"] == 1 for _, content in answers.values())
    outside = ask(server, path="/drill", body=question(box=[500, 0, 513, 9]))
    assert outside[0] in (400, 422)
    assert ask(server, "GET", "/health")[0] == 200
    assert ask(server, body=question())[0] == 200


def test_a_volume_is_refused_by_an_expert_for_pictures(medplib_server):
    with pytest.raises(ExpertError, match=r"answered 422 .*pictures"):
        RemoteExpert(medplib_server.url).scan(lps_volume(), QUERY)


def test_a_token_is_wanted_by_a_server_that_has_one(medplib, monkeypatch):
    command = ServerProcess(*medplib, "--token-env", "THE_TOKEN", THE_TOKEN="abc")  # noqa: S106
    monkeypatch.setenv("THE_TOKEN", "abc")
    monkeypatch.setenv("WRONG", "abd")
    with running(command) as server:
        assert RemoteExpert(server.url, token_env="THE_TOKEN").axes == (2,)  # noqa: S106
        for wrong in ({}, {"token_env": "WRONG"}):
            with pytest.raises(ExpertError, match=r"answered 401 \(the token is missing or wrong\)"):
                _ = RemoteExpert(server.url, **wrong).name


def test_a_server_does_not_listen_beyond_this_machine_without_a_token(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("expert: {_target_: medeyes_monai.experts.BlobExpert}")
    with pytest.raises(SystemExit, match="needs a token"):
        serve_expert.main(["--config", str(tmp_path / "a.yaml"), "--host", "0.0.0.0"])  # noqa: S104
    monkeypatch.delenv("ABSENT", raising=False)
    with pytest.raises(SystemExit, match="ABSENT does not hold a token"):
        serve_expert.main(["--config", str(tmp_path / "a.yaml"), "--token-env", "ABSENT"])
    (tmp_path / "b.yaml").write_text("a: 1")
    with pytest.raises(SystemExit, match="defines no expert"):
        serve_expert.main(["--config", str(tmp_path / "b.yaml")])


def test_many_clients_at_once_are_answered_or_told_to_come_back(medplib_server):
    expert, scene, said = RemoteExpert(medplib_server.url, retries=30, backoff_s=0.05), make_scene(), []
    wanted = expert.drill(scene, REGION, QUERY)
    clients = [
        threading.Thread(target=lambda: said.append(expert.drill(scene, REGION, QUERY))) for _ in range(12)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert said == [wanted] * 12


def test_the_expert_of_a_training_configuration_can_be_served():
    root = SCRIPTS.parent
    built = serve_expert._build([root / "bundle" / "configs" / "train.yaml"], {"expert::miss_rate": 0.0})
    assert type(built.expert).__name__ == "AnnotationExpert"
    assert built.makers["png"].keywords["overview_pixels"] == 128 * 128
    other = serve_expert._build([root / "bundle" / "configs" / "train.yaml"], {"scene::look_pixels": 9216})
    assert other.name != built.name


# MedPLIB's server, with a stand-in for the model.


def test_parts_of_the_mask_become_candidates_and_drills_are_about_the_region(medplib_server):
    scene, expert = make_scene(), RemoteExpert(medplib_server.url)
    (spot,) = expert.scan(scene, QUERY)  # a disc of 220 about (150, 100), radius below 14
    assert spot.box == Box((137, 87), (164, 114))
    assert spot.confidence == pytest.approx(220 / 255)
    x, y = np.ogrid[137:164, 87:114]
    assert np.array_equal(spot.mask, np.hypot(x - 150, y - 100) < 14)
    verdict = expert.drill(scene, spot.box, "Is <region> a ring? <SEG>")
    assert verdict.confidence == pytest.approx(220 / 255)
    assert verdict.finding == "Can you describe what is seen at the area <region>? at [137, 87, 164, 114]"
    assert verdict.answer.startswith("With regard to the area <region>: Is region a ring? SEG")
    nothing = expert.drill(scene, Box((0, 0), (50, 50)), QUERY)
    assert nothing.confidence == 0.0


def test_an_oblong_part_keeps_its_axes():
    picture = np.zeros((40, 90, 3), np.uint8)
    picture[10:14, 20:60] = 200
    model = SimpleNamespace(segment=lambda pixels, prompt: pixels[..., 0] / 255.0)
    expert = medplib_script.MedPLIBExpert(model, "w")
    data = SimpleNamespace(format="png", image=png_bytes(picture), query="")
    (found,) = read_candidates({"candidates": expert.scan(data)})
    assert (found.box, found.mask.shape) == (Box((20, 10), (60, 14)), (40, 4))
    assert expert.name == medplib_script.MedPLIBExpert(None, "w").name
    assert expert.name != medplib_script.MedPLIBExpert(None, "v").name


def test_pictures_are_shown_to_the_model_as_its_own_worker_does():
    picture = np.full((100, 50, 3), 7, np.uint8)
    square = padded(resized(picture, 336), 336, np.array([122, 116, 104]))
    assert square.shape == (336, 336, 3)
    assert (square[:, 84:252] == 7).all()  # 168 columns in the middle
    assert (square[:, :84] == [122, 116, 104]).all()
    assert fit((100, 50), 336) == (336, 168)
    assert region_cells((0, 0, 50, 100), (100, 50)).sum() == 24 * 12  # all of the picture, none of the border
    assert region_cells((49, 99, 50, 100), (100, 50)).sum() == 1
    assert region_cells((0, 0, 1, 1), (4000, 4000)).sum() == 1


@pytest.mark.parametrize(
    "name", ["medplib_server.py", "serving/endpoint.py", "serving/reading.py", "serving/medplib_model.py"]
)
def test_what_runs_in_a_foreign_environment_is_old_python_and_needs_nothing_of_ours(name):
    text = (SCRIPTS / name).read_text("utf-8")
    tree = ast.parse(text, feature_version=(3, 8))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    foreign = {"numpy", "PIL", "scipy.ndimage", "deepspeed", "torch", "model", "utils"}
    known = foreign | {"serving"} | set(sys.stdlib_module_names)
    assert {m for m in modules if m.split(".")[0] not in known and m not in known} == set()
    assert "removeprefix" not in text
    assert "strict=" not in text
