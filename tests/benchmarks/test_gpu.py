"""What a card is asked for runs, small, on a CPU; nothing else is stored as a card's measure."""

import json

import gpu
import pytest

from distilclip.book.stored import RESULTS


@pytest.mark.slow
def test_everything_that_a_card_is_asked_for_runs_on_a_cpu(shapes, tmp_path):
    out = tmp_path / "gpu.json"
    given = ["--small", "--device", "cpu", "--data", str(shapes), "--out", str(out)]
    assert gpu.main(given) == 0
    found = json.loads(out.read_text())
    assert str(shapes) not in out.read_text() and str(tmp_path) not in out.read_text()
    assert all(rate > 0 for rate in found["rates"].values())
    (steps,) = found["steps"].values()
    for name in ("DistilCLIP, every patch", "transformers, same autocast", "original"):
        assert steps[name]["per_second"] > 0
    assert found["share"]["4"] > 0 and found["share"]["gflop_an_image"] > 0
    assert found["loop"]["loop_over_bare"] > 0
    assert sum(found["parts"].values()) == pytest.approx(1, abs=1e-3)
    assert {part["precision"] for part in found["t4"].values()} == {"float16"}
    assert found["run"]["epochs"] == 4 and 1 <= found["run"]["epochs_before_the_kill"] < 4
    assert 0 <= found["run"]["validation"]["t2i_r10"] <= 1


def test_a_part_that_fails_says_why_and_the_time_ends(tmp_path, monkeypatch, capsys):
    def fails(bench):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setitem(gpu.PARTS, "loop", fails)
    out = tmp_path / "gpu.json"
    given = ["--small", "--device", "cpu", "--out", str(out), "--only", "loop"]
    assert gpu.main(given) == 0
    assert json.loads(out.read_text())["loop"] == {"error": "out of memory"}
    assert gpu.main([*given, "--minutes", "-1"]) == 0
    assert json.loads(out.read_text())["loop"] == {"error": "the time was over"}


def test_what_is_no_card_s_measure_never_becomes_the_stored_one(capsys):
    before = (RESULTS / "gpu.json").exists()
    assert gpu.main(["--small", "--device", "cpu"]) == 1
    assert "add --out" in capsys.readouterr().err
    assert (RESULTS / "gpu.json").exists() == before
