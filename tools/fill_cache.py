"""Run the notebooks that the book's cache does not know, several at a time.

Jupyter Book runs them one after the other; each keeps one core busy for most of its time, or two
for a part of it. Here each gets its share of the cores, the longest first, and Jupyter Book then
finds all outputs in its cache. A notebook that fails ends this with its traceback; those that
were done stay in the cache.

python tools/fill_cache.py
"""

import argparse
import os
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
TIMEOUT = 1800  # seconds for a cell, as in _config.yml
WORKERS = min(os.cpu_count() or 1, 4)


def missing(notebooks: list[Path]) -> list[Path]:
    """Those whose code the cache does not know, in the order in which to start them."""
    cache, found = get_cache(CACHE), []
    for path in notebooks:
        try:
            cache.match_cache_notebook(nbformat.read(path, as_version=4))
        except KeyError:
            found.append(path)
    place = {name: number for number, name in enumerate(LONGEST)}
    return sorted(found, key=lambda path: place.get(path.stem, len(LONGEST)))


def execute(path: Path) -> ExecutionResult:
    """Run a notebook in its own folder."""
    notebook = nbformat.read(path, as_version=4)
    return single_nb_execution(notebook, str(path.parent), TIMEOUT, allow_errors=False)


def main() -> int:
    argparse.ArgumentParser(description=__doc__.split("\n\n")[0]).parse_args()
    todo = missing([p for f in FOLDERS for p in sorted((ROOT / f).glob("*.ipynb"))])
    cache = get_cache(CACHE)
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
            bundle = CacheBundleIn(result.nb, str(path), data={"execution_seconds": result.time})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
            bar.update()
            bar.set_postfix_str(f"{path.stem} {result.time:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
