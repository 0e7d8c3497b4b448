"""The book shows stored outputs where they are as committed; whatever may be old is run."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import fill_cache

CODE = "print(6 * 7)"


def git(folder, *command):
    """A command of git's that knows neither our repository nor the user's configuration."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, *command], cwd=folder, env=environment, check=True)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A repository with a package and two notebooks that were run."""
    for folder in ("notebooks", "solutions", "distilclip"):
        (tmp_path / folder).mkdir()
    (tmp_path / "distilclip" / "loss.py").write_text("scale = 1\n")
    (tmp_path / ".gitignore").write_text("_build\n")
    write(tmp_path / "notebooks/a.ipynb")
    write(tmp_path / "solutions/b.ipynb", code="print(7 * 6)")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "all")
    for name in [key for key in os.environ if key.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(fill_cache, "ROOT", tmp_path)
    monkeypatch.setattr(fill_cache, "CACHE", tmp_path / "_build" / "cache")
    monkeypatch.setattr(sys, "argv", ["fill_cache.py"])
    return tmp_path


def write(path, code=CODE, count=1, text="as stored\n"):
    """A notebook whose stored output shows whether it was taken from there."""
    output = new_output("stream", name="stdout", text=text)
    cell = new_code_cell(code, execution_count=count, outputs=[output])
    spec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(new_notebook(cells=[cell], metadata={"kernelspec": spec}), path)


def shown(path):
    """What the book's cache has for a notebook."""
    cache = fill_cache.get_cache(fill_cache.CACHE)
    key = cache.match_cache_notebook(nbformat.read(path, as_version=4)).pk
    (cell,) = cache.get_cache_bundle(key).nb.cells
    return cell.outputs[0].text


def test_what_is_as_committed_is_taken_as_it_is_stored(clone):
    assert fill_cache.main() == 0
    assert shown(clone / "notebooks/a.ipynb") == shown(clone / "solutions/b.ipynb") == "as stored\n"


def change_a_cell(clone):
    write(clone / "notebooks/a.ipynb", "print(6*7)")


def change_the_package(clone):
    (clone / "distilclip" / "loss.py").write_text("scale = 2\n")


def add_to_the_package(clone):
    (clone / "distilclip" / "new.py").write_text("")


def add_what_git_would_not_show(clone):
    git(clone, "config", "status.showUntrackedFiles", "no")
    add_to_the_package(clone)


def stage_a_change(clone):
    change_the_package(clone)
    git(clone, "add", ".")


def rename_in_the_package(clone):
    git(clone, "mv", "distilclip/loss.py", "distilclip/scale.py")


def forget_a_run(clone):
    write(clone / "notebooks/a.ipynb", count=None)
    git(clone, "commit", "-qam", "not run")


def leave_git(clone):
    (clone / ".git").rename(clone / "not-git")


def forget_git(clone):
    git(clone, "rm", "-q", "--cached", "notebooks/a.ipynb")


def move_into_another(clone):
    leave_git(clone)
    git(clone.parent, "init", "--quiet")
    git(clone.parent, "add", "-f", clone.name)
    git(clone.parent, "commit", "-qm", "all")


@pytest.mark.parametrize(
    "change",
    [
        *(change_a_cell, change_the_package, add_to_the_package, add_what_git_would_not_show),
        *(stage_a_change, rename_in_the_package, forget_a_run, leave_git, forget_git),
        move_into_another,
    ],
)
def test_whatever_may_be_old_is_run(clone, change):
    change(clone)
    path = clone / "notebooks/a.ipynb"
    assert fill_cache.take_stored([path]) == [path]


def test_a_file_with_any_name_may_lie_beside_it(clone):
    try:
        (clone / os.fsdecode(b"caf\xe9")).write_text("")
    except OSError:  # not every system has such names
        pytest.skip("no such name here")
    assert fill_cache.main() == 0
    assert shown(clone / "notebooks/a.ipynb") == "as stored\n"


def test_outputs_that_were_committed_anew_are_shown(clone):
    assert fill_cache.main() == 0
    write(clone / "notebooks/a.ipynb", text="stored later\n")
    git(clone, "commit", "-qam", "run again")
    assert fill_cache.main() == 0
    assert shown(clone / "notebooks/a.ipynb") == "stored later\n"


def test_a_changed_cell_shows_what_it_prints_and_the_other_notebook_what_is_stored(clone):
    change_a_cell(clone)
    assert fill_cache.main() == 0
    assert shown(clone / "notebooks/a.ipynb") == "42\n"
    assert shown(clone / "solutions/b.ipynb") == "as stored\n"


def test_all_are_run_where_that_is_asked_for(clone, monkeypatch):
    assert fill_cache.main() == 0
    monkeypatch.setattr(sys, "argv", ["fill_cache.py", "--run"])
    assert fill_cache.main() == 0
    assert shown(clone / "notebooks/a.ipynb") == shown(clone / "solutions/b.ipynb") == "42\n"


def test_every_notebook_here_has_been_run_from_top_to_bottom():
    root = Path(__file__).parents[2]
    paths = [path for folder in fill_cache.FOLDERS for path in (root / folder).glob("*.ipynb")]
    assert len(paths) > 30
    for path in paths:
        assert fill_cache.was_run(nbformat.read(path, as_version=4)), path.name
