import importlib
import json
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_the_benchmark_of_volumes_finds_every_slice_at_its_place(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    bench = importlib.import_module("bench_volume")
    bench.main(["--slices", "6", "--side", "40", "--repeats", "1", "--output", str(tmp_path)])
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["targets_judged"] is False
    (whole,) = (
        line for line in found["lines"] if line["name"].startswith("read, overview") and "x 6" in line["name"]
    )
    assert whole["checks"] == [
        {"name": "slices at a wrong place", "value": 0.0, "limit": "<= 0", "passed": True}
    ]
    assert set(whole["seconds"]) == {"read", "scene", "overview", "looks"}
    assert whole["value"] > 0
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        bench.main(["--slices", "0"])
