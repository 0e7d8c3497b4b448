"""How long a chapter's code runs is measured by its sections."""

import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import running_times


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    cells = [
        new_markdown_cell("# 1. Title"),
        new_code_cell("import time"),
        new_markdown_cell("## First"),
        new_code_cell("time.sleep(0.3)"),
        new_code_cell(""),
        new_code_cell("time.sleep(0.4)"),
        new_markdown_cell("## Exercises"),
        new_code_cell("time.sleep(0.1)"),
    ]
    path = tmp_path / "01_x.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    monkeypatch.setattr(running_times, "notebooks", lambda: [path])
    monkeypatch.setattr(running_times, "RAN", tmp_path / "ran.json")
    return path


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["running_times.py", *words])
    return running_times.main()


def test_seconds_are_those_of_a_section(chapter, monkeypatch):
    before = chapter.read_bytes()
    assert run(monkeypatch, "--device-name", "a machine") == 0
    found = json.loads(running_times.RAN.read_text())
    assert found["device"] == "a machine" and list(found["seconds"]["01_x"]) == ["", "First"]
    assert found["seconds"]["01_x"]["First"] >= 0.7 and chapter.read_bytes() == before


def test_machines_are_not_mixed(chapter, monkeypatch, capsys):
    running_times.RAN.write_text(json.dumps({"device": "another", "seconds": {}}))
    for words in (["--device-name", "a machine", "01_x"], ["--device-name", "another", "02_y"]):
        with pytest.raises(SystemExit):
            run(monkeypatch, *words)
    said = capsys.readouterr().err
    assert "timed on another" in said and "no chapter 02_y" in said
