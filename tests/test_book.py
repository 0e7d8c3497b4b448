"""The book is complete: every picture described, every page listed, every notebook run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import IPython.display
import jupytext
import matplotlib.pyplot as plt
import nbformat
import pytest
import yaml
from jupyter_cache import get_cache

from distilclip.book.stored import stored_results

ROOT = Path(__file__).parents[1]
FOLDERS = ("notebooks", "solutions")
NOTEBOOKS = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.ipynb"))]
RESULTS = stored_results("bench")
STORED = ROOT / "distilclip" / "book" / "results"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebooks_are_complete(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "setup" in code[0].metadata.get("tags", [])
    assert notebook.cells[0].source.startswith("# ")
    for cell in code:
        assert not any(output.output_type == "error" for output in cell.outputs)
        pictured = any("image/png" in output.get("data", {}) for output in cell.outputs)
        described = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
        assert bool(described) or not pictured, f"no alt text: {cell.source[:60]}"
    with_output = [cell for cell in code if cell.outputs]
    ignored = [c for c in with_output if "nbval-ignore-output" in c.metadata.get("tags", [])]
    assert len(ignored) <= 0.1 * len(with_output)
    assert not any("nbval-skip" in cell.metadata.get("tags", []) for cell in code)


BUILDING = [path for path in NOTEBOOKS if path.parent.name == "notebooks" and path.stem[:2] > "00"]


@pytest.mark.parametrize("path", BUILDING, ids=lambda path: path.stem)
def test_each_chapter_ends_with_one_open_investigation(path):
    """A question in bold, the data, and what a good answer shows, after the exercises."""
    cells = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert text.count("## An open investigation\n") == 1
    _, end = text.split("## Exercises\n", 1)
    section = end.split("## An open investigation\n", 1)[1].split("## Further reading", 1)[0]
    assert re.search(r"\*\*[^*]*\?[^*]*\*\*", section)
    assert "- **Data**: " in section and "- **A good answer shows** " in section


@pytest.mark.parametrize("stored", [RESULTS, {}], ids=["all", "nothing"])
def test_the_page_of_costs_shows_whatever_is_stored(stored, tmp_path, monkeypatch):
    if stored:
        shutil.copytree(STORED, tmp_path, dirs_exist_ok=True)
    said, figures = [], []
    plt.switch_backend("agg")
    monkeypatch.setattr("distilclip.book.stored.RESULTS", tmp_path)
    monkeypatch.setattr(IPython.display, "display", lambda text: said.append(text.data))
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    page = jupytext.reads((ROOT / "book" / "costs.md").read_text(), fmt="md:myst")
    names = {}
    for cell in page.cells:
        if cell.cell_type == "code":
            before = len(figures)
            exec(cell.source, names)
            described = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
            assert described or len(figures) == before, f"no alt text: {cell.source[:60]}"
    plt.close("all")
    shown = {"training_step": 1, "vit_forward": 1, "precision": 1, "growth": 6}
    assert len(figures) == sum(count for name, count in shown.items() if name in stored)
    wanted = {*shown, "where_time_goes", "loop_overhead", "host_work", "pipeline", "time_to_recall"}
    missing = [text for text in said if "has not been measured here yet" in text]
    assert len(missing) == len(wanted - stored.keys())
    for name in ("streaming", "large_index"):
        assert any(f"`{name}.py`" in text for text in said) == bool(stored)
    for name in wanted & stored.keys():
        assert any(stored[name]["device"] in text and f"`{name}.py`" in text for text in said)


def test_every_notebook_and_page_is_in_the_table_of_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    listed.append(toc["root"])
    assert len(listed) == len(set(listed))
    pages = [p.relative_to(ROOT).with_suffix("") for p in (ROOT / "book").glob("*.md")]
    pages += [path.relative_to(ROOT).with_suffix("") for path in NOTEBOOKS]
    assert {path.as_posix() for path in pages} == set(listed)


def test_requirements_pin_everything_and_fit_the_ranges():
    import tomllib

    from packaging.requirements import Requirement

    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions = {pin.name: next(iter(pin.specifier)).version for pin in pins}
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith("==") for pin in pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, project["dependencies"]):
        assert versions[requirement.name] in requirement.specifier
    given = {"torch", "transformers", "datasets", "jupyter-book", "matplotlib", "nbval", "einops"}
    assert given <= set(versions)


@pytest.fixture
def small_book(tmp_path):
    """The tools that fill the cache, and a folder for notebooks of a single cell."""
    for name in ("tools", "notebooks", "_build"):
        (tmp_path / name).mkdir()
    for name in ("tools/fresh_cache.py", "tools/fill_cache.py"):
        (tmp_path / name).write_text((ROOT / name).read_text())

    def write(name, source):
        cells = [nbformat.v4.new_code_cell(source)]
        about = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        nbformat.write(
            nbformat.v4.new_notebook(cells=cells, metadata=about),
            tmp_path / "notebooks" / f"{name}.ipynb",
        )

    return tmp_path, write


def fill_cache(folder):
    command = [sys.executable, str(folder / "tools" / "fill_cache.py")]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_notebooks_are_run_once_and_found_in_the_cache(small_book):
    folder, write = small_book
    write("one", "open('ran', 'a').write('x')\n21 * 2")
    write("two", "open('ran', 'a').write('x')\n'two'")
    for _ in range(2):
        done = fill_cache(folder)
        assert done.returncode == 0, done.stderr
        assert (folder / "notebooks" / "ran").read_text() == "xx"
    cache = get_cache(folder / "_build" / ".jupyter_cache")
    notebook = nbformat.read(folder / "notebooks" / "one.ipynb", as_version=4)
    _, found = cache.merge_match_into_notebook(notebook)
    assert found.cells[0].outputs[0].data["text/plain"] == "42"


@pytest.mark.slow
def test_a_notebook_that_fails_is_named_and_not_cached(small_book):
    folder, write = small_book
    write("good", "1 + 1")
    write("wrong", "1 / 0")
    for _ in range(2):
        done = fill_cache(folder)
        assert done.returncode == 1
        assert "wrong.ipynb failed" in done.stderr and "ZeroDivisionError" in done.stderr


def test_what_a_screen_reader_would_stumble_over_is_mended(monkeypatch):
    from bs4 import BeautifulSoup

    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    import plain_labels

    arrow = '<ul><li><a href="x">Reference</a><details><summary></summary></details></li></ul>'
    signature = '<dt>f(<dl>\n<dd><span class="pre">~a.b.C</span>,</dd>\n</dl>)</dt>'
    context = {
        "body": f'<summary aria-label="Toggle hidden content">{signature}<dl><dt>1</dt></dl>',
        "generate_toctree_html": lambda kind: BeautifulSoup(arrow, "html.parser"),
    }
    plain_labels.mend(None, "page", "", context, None)
    assert context["body"].startswith("<summary><dt>f(<span") and "~a.b." not in context["body"]
    assert "<dd>" not in context["body"] and "<dl><dt>1</dt></dl>" in context["body"]
    named = str(context["generate_toctree_html"]("sidebar"))
    assert '<summary aria-label="Pages below Reference">' in named


def promised_tests(page):
    """The tests that a page names, as file and function."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)


def test_every_promise_has_a_test_that_is_there():
    page = (ROOT / "book" / "promises.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    promises = [row for row in rows if not row.endswith("| test |")]
    assert len(promises) >= 20 and all(promised_tests(row) for row in promises)
    for file, name in promised_tests(page):
        source = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", source, re.MULTILINE), f"{file} has no {name}"
