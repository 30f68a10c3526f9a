"""The application under MONAI Deploy: operators in a real run, and what the packager reads."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytest.importorskip("highdicom", reason="needs the extra deploy")

from deploy_cases import study
from packaging.requirements import Requirement

from medeyes_monai import __version__
from medeyes_monai.deploy.__main__ import main
from medeyes_monai.policy import HuggingFacePolicy

ROOT = Path(__file__).parents[2]
APP = ROOT / "medeyes_monai" / "deploy" / "app"
CUDA = Path(sysconfig.get_paths()["purelib"], "nvidia", "cu13", "lib")


def run_app(folder, output, questions, policy=None):
    """Run the folder of the app, as a package does, in a process of its own."""
    pytest.importorskip("monai.deploy.core", reason="needs monai-deploy-app-sdk", exc_type=Exception)
    places = {"HOLOSCAN_INPUT_PATH": folder, "HOLOSCAN_OUTPUT_PATH": output}
    places |= {"HOLOSCAN_MODEL_PATH": ROOT / "bundle", "MEDEYES_QUESTIONS": questions}
    places |= {} if policy is None else {"MEDEYES_POLICY": policy}
    places |= {"LD_LIBRARY_PATH": CUDA, "PYTHONPATH": ROOT}
    environment = os.environ | {name: str(place) for name, place in places.items()}
    output.mkdir()
    return subprocess.run(  # noqa: S603
        [sys.executable, str(APP)], env=environment, capture_output=True, text=True, check=False, timeout=500
    )


@pytest.mark.slow
@pytest.mark.parametrize("adapted", [False, True], ids=["bundle", "adapter"])
def test_the_operators_of_the_app_write_what_the_command_writes(tmp_path, adapted):
    policy = None
    if adapted:
        policy = tmp_path / "adapter"
        HuggingFacePolicy(ROOT / "bundle" / "models" / "tiny_policy", lora={"r": 4}).save(policy)
    folder = study(tmp_path / "in", shape=(96, 80, 5))
    (tmp_path / "q.yaml").write_text("- question: Which kind is the lesion?\n  series: {Modality: CT}\n")
    done = run_app(folder, tmp_path / "app", tmp_path / "q.yaml", policy)
    assert done.returncode == 0, done.stderr[-2000:]
    words = ["-m", str(ROOT / "bundle"), "--questions", str(tmp_path / "q.yaml")]
    words += [] if policy is None else ["--policy", str(policy)]
    assert main(["-i", str(folder), "-o", str(tmp_path / "command"), *words]) == 0
    theirs, ours = (tmp_path / name / "series_1" for name in ("app", "command"))
    assert sorted(path.name for path in theirs.iterdir()) == sorted(path.name for path in ours.iterdir())
    assert json.loads((theirs / "results.json").read_text()) == json.loads(
        (ours / "results.json").read_text()
    )


@pytest.mark.slow
def test_an_app_that_finds_no_series_ends_with_an_error_and_without_results(tmp_path):
    folder = study(tmp_path / "in", PatientName="Somebody^Known", SeriesDescription="Secret")
    (tmp_path / "q.yaml").write_text("- question: Which kind is it?\n  series: {Modality: MR}\n")
    done = run_app(folder, tmp_path / "app", tmp_path / "q.yaml")
    assert done.returncode == 2
    assert "error: question 1: none of 1 series fits its rule about Modality" in done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in ("Somebody", "Secret"))
    assert list((tmp_path / "app").iterdir()) == []


def test_the_packager_reads_the_application():
    reader = pytest.importorskip("holoscan_cli.packager.config_reader", reason="needs holoscan-cli up to 4.2")
    parameters = pytest.importorskip("holoscan_cli.packager.parameters")
    models = pytest.importorskip("holoscan_cli.packager.models")
    build = parameters.PackageBuildParameters()
    build.application = APP
    assert build.application_type.name == "PythonModule"
    assert build.requirements_file_path == APP / "requirements.txt"
    config = reader.ApplicationConfiguration()
    config.read(APP / "app.yaml")
    assert build.command.startswith('["python3", "/')
    assert build.command.endswith('/holoscan/app"]')
    manifest = config.populate_app_manifest(build)
    assert "bundle" in models.Models().build(ROOT / "bundle")
    assert (manifest.version, manifest.input["formats"]) == (__version__, ["file"])
    assert config.populate_package_manifest(build).resources["memory"] == "4Gi"


def test_the_requirements_of_the_application_are_this_package_and_the_sdk():
    lines = (APP / "requirements.txt").read_text("utf-8").split()
    wanted = {Requirement(line).name: Requirement(line).extras for line in lines}
    assert wanted == {"medeyes-monai": {"deploy"}, "monai-deploy-app-sdk": set()}
