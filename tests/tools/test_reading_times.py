"""How long a chapter takes to read is counted from what its page shows."""

import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import reading_times
from reading_times import LINES, WORDS


def test_the_page_is_what_the_chapters_say():
    text = reading_times.TARGET.read_text(encoding="utf-8")
    assert text == reading_times.page(), "run make mirror"
    assert text.count("../notebooks/") == len(reading_times.notebooks())


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
