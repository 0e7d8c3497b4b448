"""What the book shows of measurements is stored in the package, and found from anywhere."""

import ast
import json
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from distilclip.book.stored import RESULTS, stored_results

ROOT = Path(__file__).parents[2]


def test_results_are_read_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in RESULTS.glob("*.json"):
        assert stored_results(file.stem) == json.loads(file.read_text())
    assert stored_results("nobody_measured_this") == {}


@pytest.mark.parametrize("name", ["ablations.json", "../results/ablations", "a/b", "/tmp/x", ""])
def test_a_name_is_no_path(name):
    if name:
        with pytest.raises(ValueError, match="go by a name"):
            stored_results(name)
    else:
        assert stored_results(name) == {}


def code_of(path: Path) -> list[str]:
    notebook = jupytext.read(path) if path.suffix == ".md" else nbformat.read(path, as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


PAGES = [*sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "book" / "costs.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_ask_for_results_that_something_measures(page):
    """Each name is that of a file, or of one that a benchmark writes; no page opens a file."""
    benchmarks = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    source = "\n".join(code_of(page))
    assert "results/" not in source
    for cell in code_of(page):
        for node in ast.walk(ast.parse(re.sub(r"^(\s*)[%!]", r"\1pass  # ", cell, flags=re.M))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "stored_results":
                (name,) = node.args
                if isinstance(name, ast.Constant):
                    assert stored_results(name.value) or f"{name.value}.json" in benchmarks
