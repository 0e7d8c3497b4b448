"""Run notebooks from top to bottom and store their outputs: all of them, or those named.

python tools/run_notebooks.py [notebooks/01_patches.ipynb ...]
"""

import argparse
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]


def run(path: Path) -> None:
    """Execute `path` in its own folder and write it back, without times or machine's traits."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": path.parent}}
    client = NotebookClient(notebook, timeout=1800, coalesce_streams=True, resources=place)
    started = time.perf_counter()
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [keep for keep in cell.outputs if keep.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    nbformat.write(notebook, path)
    print(f"{path.name}: {time.perf_counter() - started:.1f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("named", nargs="*", type=Path, metavar="NOTEBOOK")
    named = parser.parse_args().named
    folders = ("notebooks", "solutions")
    paths = named or [p for name in folders for p in sorted((ROOT / name).glob("*.ipynb"))]
    for path in paths:
        try:
            run(path)
        except CellExecutionError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
