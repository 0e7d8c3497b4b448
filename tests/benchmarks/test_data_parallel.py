"""The ways of averaging gradients are timed beside a step that sends none."""

import json
import sys

import data_parallel
import pytest
import timing


@pytest.mark.slow
def test_the_benchmark_runs(monkeypatch, tmp_path):
    out = tmp_path / "data_parallel.json"
    given = ["--small", "--rounds", "1", "--threads", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["data_parallel.py", *given])
    timing.run(data_parallel.measure, data_parallel.__doc__)
    results = json.loads(out.read_text())["results"]
    assert len(results["ways"]) == 6 and results["gradients_mib"] > 0
    for name, way in results["ways"].items():
        assert way["seconds"] > 0
        assert (way["over_no_gradients"] == 1) == name.startswith(data_parallel.NONE)
