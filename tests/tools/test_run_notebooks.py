"""Notebooks are run and written back; a slip in an option runs none."""

import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import run_notebooks


def test_a_notebook_is_run_and_written_without_times(tmp_path, monkeypatch, capsys):
    path = tmp_path / "sum.ipynb"
    code = "import sys\nprint(6 * 7)\nprint('noise', file=sys.stderr)"
    nbformat.write(new_notebook(cells=[new_code_cell(code)]), path)
    monkeypatch.setattr(sys, "argv", ["run_notebooks.py", str(path)])
    assert run_notebooks.main() == 0
    (cell,) = nbformat.read(path, as_version=4).cells
    assert [output.text for output in cell.outputs] == ["42\n"]
    assert "execution" not in cell.metadata


def test_an_unknown_option_ends_with_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run_notebooks.py", "--no-such-option"])
    with pytest.raises(SystemExit) as ended:
        run_notebooks.main()
    assert ended.value.code == 2 and "unrecognized arguments" in capsys.readouterr().err
