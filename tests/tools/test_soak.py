"""The soak finds what it is there to find: gaps in the metrics, other results, growing memory."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("soak", ROOT / "tools" / "soak.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def whole_metrics(soak):
    """The lines of a run of ten steps an epoch, less what does not matter here."""
    epochs, every = soak.SETTINGS["epochs"], soak.SETTINGS["epochs"] // soak.SETTINGS["evaluations"]
    lines = []
    for epoch in range(1, epochs + 1):
        lines.append({"kind": "epoch", "epoch": epoch, "step": 10 * epoch})
        if epoch % every == 0 and epoch < epochs:
            lines.append({"kind": "evaluation", "split": "validation", "step": 10 * epoch})
    finals = [
        {"kind": "final", "split": name, "step": 10 * epochs} for name in ("validation", "test")
    ]
    return lines + finals


def test_every_line_that_is_missing_is_named(soak):
    lines = whole_metrics(soak)
    assert soak.gaps(lines) == []
    for position, line in enumerate(lines):
        (missing,) = soak.gaps(lines[:position] + lines[position + 1 :])[:1]
        assert missing.startswith(
            {"epoch": "epoch", "evaluation": "the evaluation"}.get(line["kind"], "the final")
        )
    assert soak.gaps([lines[1], lines[0], *lines[2:]]) == ["an order"]
    assert soak.gaps([])


def test_the_fitted_line_is_the_line(soak):
    assert soak.fit([(x, 100 + 3 * x) for x in range(10)]) == (pytest.approx(3), pytest.approx(0))
    slope, error = soak.fit([(x, 100 + (-1) ** x) for x in range(100)])
    assert abs(slope) < 2 * error < 0.02
    described = soak.describe_memory([(0, 50), *((x, 100 + 2 * x) for x in range(1, 20))])
    assert described["slope_mib"] == 2 and described["first_mib"] == 50
    assert described["most_mib"] == described["last_mib"] == 138


def test_other_results_are_named(soak):
    expected = {"files": ["a"], "model": b"x", "metrics": []}
    assert soak.differences(expected, dict(expected)) == []
    found = {"files": ["a", ".b.part"], "model": b"y", "metrics": []}
    assert soak.differences(expected, found) == [
        "files differ: ['a', '.b.part'], not ['a']",
        "model differ",
    ]
