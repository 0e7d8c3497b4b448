"""A section of a notebook runs after its own cell, as if all above it had run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import mirror
import start_here

PATHS = mirror.notebooks()


def notebook_of(*cells):
    """Cells from texts: those that begin with # are prose."""
    kinds = (new_markdown_cell if text.startswith("## ") else new_code_cell for text in cells)
    return new_notebook(cells=[kind(text) for kind, text in zip(kinds, cells, strict=True)])


def start_of(*cells):
    """The start cell of the last section of a notebook."""
    return list(start_here.start_cells(notebook_of("## One", "1", *cells)).values())[-1:]


ABOVE = """
import math
import os
from torch import nn, zeros

x, y = math.pi, 2


def area(r):
    "Of a circle."
    return x * r**2


values = [area(1)]
values.append(y)
print(values)
unused = os.getcwd()
box = {}
box["a"] = [v for v in values]
layer = nn.Linear(2, 2)
layer.weight.data.zero_()
show_all(layer)
"""


@pytest.mark.parametrize(
    ("code", "inside", "left_out"),
    [
        ("print(area(2))", ["x, y", "def area", "import math"], ["values", "os", "circle"]),
        ("values[0]", ["values.append(y)", "def area"], ["print", "box"]),
        ("box", ['box["a"] = ', "values.append"], ["unused", "layer"]),
        ("layer(zeros(1, 2))", ["zero_()", "from torch import nn, zeros"], ["math", "show_all"]),
        ("for x in range(3): print(x)", [], ["x, y"]),
        ("[v for v in range(y)]", ["x, y ="], ["values"]),
        ("f = lambda r: area(r)", ["def area"], ["values"]),
    ],
)
def test_what_a_section_needs_is_there_and_no_more(code, inside, left_out):
    found = start_of("## Two", "0", "## Three", "2", ABOVE, "## Four", code)
    text = "".join(found)
    assert all(part in text for part in inside), text
    body = text.partition("needs.split()):")[2]
    assert not any(part in body for part in left_out), text
    if inside:
        names: dict = {}
        exec(text, names)
        exec(code, names)
        made = dict(names)
        exec(text, names)  # where all is there, nothing is done again
        assert all(names[key] is value for key, value in made.items() if key != "needs")


def test_a_class_of_the_package_is_imported_and_another_is_built():
    grown = "@add_to_class(Mine)\ndef twice(self):\n    return 2"
    cells = [
        "from distilclip.book.growing import add_to_class",
        "class MLP: pass",
        "class Mine: pass",
    ]
    (text,) = start_of("## Two", "0", *cells, grown, "## Three", "print(MLP, Mine().twice())")
    assert "from distilclip.vit import MLP" in text and "class MLP" not in text
    assert "class Mine" in text and "def twice" in text
    exec(text, names := {})
    assert names["Mine"]().twice() == 2


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_no_name_is_missing_in_any_section(path):
    notebook = nbformat.read(path, as_version=4)
    cells = start_here.start_cells(notebook)
    sections = start_here.sections_of(notebook)
    assert len(cells) > 2
    above: set[str] = set()
    is_first = True
    for section in sections:
        if section.title and section.statements:
            start = start_here.statements_of(cells.get(section.cell, ""))
            wanted = start_here.wanted_by([*start, *section.statements])
            assert is_first or not wanted & above, section.title
            is_first = False
        above |= {name for statement in section.statements for name in statement.makes}


ALONE = """
import json, sys
for title, code in json.load(sys.stdin):
    print(title)
    exec(compile(code, title, "exec"), {"__name__": "__main__"})
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["02_attention", "05_loss"])
def test_each_section_runs_alone(name, tmp_path):
    notebook = nbformat.read(mirror.ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    cells = start_here.start_cells(notebook)
    codes = [
        (section.title, "\n\n".join([cells[section.cell], *(s.source for s in section.statements)]))
        for section in start_here.sections_of(notebook)
        if section.cell in cells
    ]
    environment = os.environ | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ALONE]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        input=json.dumps(codes),
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [title for title, _ in codes if title in done.stdout] == [title for title, _ in codes]
