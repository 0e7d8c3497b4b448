"""How long a chapter takes to read is counted from what its page shows."""

import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import reading_times
from reading_times import LINES, WORDS


def test_the_page_is_what_the_chapters_say():
    text = reading_times.TARGET.read_text(encoding="utf-8")
    assert text == reading_times.page(), "run make mirror"
    assert text.count("../notebooks/") == len(reading_times.notebooks())
    assert not reading_times.unknown_sections()


def test_words_and_shown_lines_are_counted_up_to_the_exercises():
    folded = [
        new_code_cell("x = 1\n" * 60, metadata={"tags": tags})
        for tags in (["setup"], ["hide-input"], ["remove-cell"])
    ]
    cells = [
        new_markdown_cell("# 1. Title\n\n" + "word " * (WORDS - 3)),
        *folded,
        new_markdown_cell("## First\n" + "word " * WORDS + "\n\n## Second\nno words"),
        new_code_cell("y = 2\n\n" * 2 * LINES),
        new_markdown_cell("[word](" + "address/" * 9 + ")" + " word" * (WORDS - 4)),
        new_markdown_cell("last\n\n## Exercises\n" + "word " * 999 + "\n\n## After\nword"),
        new_code_cell("z = 3"),
    ]
    minutes = reading_times.sections_of(cells)
    assert minutes == pytest.approx({"": 1, "First": 1, "Second": 3})


def test_what_runs_long_is_said_behind_its_section(tmp_path):
    path = tmp_path / "01_x.ipynb"
    texts = "# 1. Title\n\n## First\nword\n\n## Second\nword"
    nbformat.write(new_notebook(cells=[new_markdown_cell(texts)]), path)
    line = reading_times.row(path, {"First": 9.9, "Second": 150.0})
    assert "| 5 | 3\u00a0min | First\u00a0**1** · Second\u00a0**1** (2\u00a0min) |" in line
    assert "| under 10\u00a0s |" in reading_times.row(path, {})


def test_a_section_without_a_time_is_named(tmp_path, monkeypatch):
    ran = {"device": "a machine", "date": "2026-01-01", "seconds": {"01_patches": {"": 0.1}}}
    (tmp_path / "ran.json").write_text(json.dumps(ran))
    monkeypatch.setattr(reading_times, "RAN", tmp_path / "ran.json")
    unknown = reading_times.unknown_sections()
    assert "01_patches: Positions" in unknown and "01_patches: " not in unknown
    monkeypatch.setattr(sys, "argv", ["reading_times.py", "--check"])
    assert reading_times.main() == 1
