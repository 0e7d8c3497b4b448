"""Give the book's cache the outputs of every notebook; run those whose outputs may be old.

What is committed has outputs that were stored by `make notebooks`, and whose printed parts
`make test` and `make slow` compare with new ones: a notebook is taken as it is stored, if neither
it nor the package has changed since the last commit. All others that the cache does not know are
run, several at a time. In a copy without git, or with --run, these are all.

Jupyter Book would run them one after the other; each keeps one core busy for most of its time, or
two for a part of it. Here each gets its share of the cores, the longest first. A notebook that
fails ends this with its traceback; those that were done stay in the cache.

python tools/fill_cache.py [--run]
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
from fresh_cache import CACHE, ROOT
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
from tqdm import tqdm

LONGEST = ("10_explain", "08_train", "06_model", "09_search", "13_export")  # longest first
FOLDERS = ("notebooks", "solutions")
BELOW = ("distilclip", "requirements.txt")  # what every notebook's outputs depend on
TIMEOUT = 1800  # seconds for a cell, as in _config.yml
WORKERS = min(os.cpu_count() or 1, 4)


def longest_first(notebooks: list[Path]) -> list[Path]:
    """In the order in which to start them."""
    place = {name: number for number, name in enumerate(LONGEST)}
    return sorted(notebooks, key=lambda path: place.get(path.stem, len(LONGEST)))


def missing(notebooks: list[Path]) -> list[Path]:
    """Those whose code the cache does not know."""
    cache, found = get_cache(CACHE), []
    for path in notebooks:
        try:
            cache.match_cache_notebook(nbformat.read(path, as_version=4))
        except KeyError:
            found.append(path)
    return found


def git(*command: str) -> list[str]:
    """What git prints, in its parts; OSError where it does not answer."""
    how = {"encoding": "utf-8", "errors": "surrogateescape"}
    done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, **how)
    if done.returncode:
        raise OSError(done.stderr)
    return [part for part in done.stdout.split("\0" if "-z" in command else "\n") if part]


def as_committed(notebooks: list[Path]) -> list[Path]:
    """Those that git knows and finds unchanged, if what lies below them is unchanged, too."""
    status = ("status", "--porcelain", "-z", "--no-renames", "--untracked-files=all")
    try:
        if git("rev-parse", "--show-prefix"):  # a folder of a larger repository
            return []
        known = set(git("ls-files", "-z", *FOLDERS))
        changed = {line[3:] for line in git(*status)}
    except OSError:  # no git, or not a clone
        return []
    if any(name.split("/")[0] in BELOW for name in changed):
        return []
    names = {path: path.relative_to(ROOT).as_posix() for path in notebooks}
    return [path for path in notebooks if names[path] in known - changed]


def was_run(notebook: nbformat.NotebookNode) -> bool:
    """Whether every cell with code has been run, from top to bottom."""
    cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    return [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def keep(path: Path, notebook: nbformat.NotebookNode, seconds: float | None = None) -> None:
    """Put a notebook with its outputs into the cache."""
    data = {} if seconds is None else {"execution_seconds": seconds}
    bundle = CacheBundleIn(notebook, str(path), data=data)
    get_cache(CACHE).cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def take_stored(notebooks: list[Path]) -> list[Path]:
    """Keep the stored outputs of those that are as committed; return those that are to be run."""
    taken = []
    for path in as_committed(notebooks):
        notebook = nbformat.read(path, as_version=4)
        if was_run(notebook):
            keep(path, notebook)
            taken.append(path)
    return missing([path for path in notebooks if path not in taken])


def execute(path: Path) -> ExecutionResult:
    """Run a notebook in its own folder."""
    notebook = nbformat.read(path, as_version=4)
    return single_nb_execution(notebook, str(path.parent), TIMEOUT, allow_errors=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", action="store_true", help="run all of them")
    options = parser.parse_args()
    notebooks = [p for f in FOLDERS for p in sorted((ROOT / f).glob("*.ipynb"))]
    todo = longest_first(notebooks if options.run else take_stored(notebooks))
    # As many threads as cores, all together; the kernels take this over.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))
    # Threads, not processes: in one process no two kernels are given the same port.
    with (
        tqdm(total=len(todo), desc="notebooks", disable=not todo) as bar,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        running = {pool.submit(execute, path): path for path in todo}
        for done in as_completed(running):
            path, result = running[done], done.result()
            if result.err is not None:
                pool.shutdown(cancel_futures=True)
                bar.close()
                print(f"{path.name} failed:\n{result.exc_string}", file=sys.stderr)
                return 1
            keep(path, result.nb, result.time)
            bar.update()
            bar.set_postfix_str(f"{path.stem} {result.time:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
