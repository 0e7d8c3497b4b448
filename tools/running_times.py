"""Measure how long the code of each chapter runs, section by section: book/running_times.json.

    python tools/running_times.py --device-name "two cores of ..."              every chapter
    python tools/running_times.py --device-name "..." 03_vit 08_train           some, others stay

Each chapter runs alone from top to bottom, in a kernel that is new; what it shows is not kept. Run
it on a machine that does nothing else. `tools/reading_times.py` puts the figures into the book.
"""

import argparse
import json
import os
import sys
from datetime import date, datetime
from pathlib import Path

import nbformat
from mirror import notebooks
from nbclient import NotebookClient
from reading_times import RAN, pieces_of
from tqdm import tqdm

TIMEOUT = 1800  # seconds for a cell, as in _config.yml


def seconds_of(cell: nbformat.NotebookNode) -> float:
    """How long a cell ran, by what the kernel said about it."""
    times = cell.metadata.get("execution", {})
    names = "iopub.status.busy", "shell.execute_reply"
    if not all(name in times for name in names):
        return 0.0  # a cell without code is not sent
    started, ended = (datetime.fromisoformat(times[name].replace("Z", "+00:00")) for name in names)
    return (ended - started).total_seconds()


def measure(path: Path) -> dict[str, float]:
    """Run a notebook in its folder -> the seconds of its sections by their headings."""
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=TIMEOUT, resources=place, record_timing=True).execute()
    seconds: dict[str, float] = {}
    for name, piece in pieces_of(notebook.cells):
        if not isinstance(piece, str):
            seconds[name] = seconds.get(name, 0.0) + seconds_of(piece)
    return {name: round(value, 1) for name, value in seconds.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("chapters", nargs="*", help="some of them, such as 03_vit (default: all)")
    parser.add_argument("--device-name", required=True, help="the machine, in words")
    options = parser.parse_args()
    known = {path.stem: path for path in notebooks()}
    if unknown := set(options.chapters) - set(known):
        parser.error(f"there is no chapter {sorted(unknown)[0]}; there are {', '.join(known)}")
    old = json.loads(RAN.read_text(encoding="utf-8")) if RAN.is_file() else {}
    if options.chapters and old.get("device", options.device_name) != options.device_name:
        parser.error(f"the others were timed on {old['device']}: time all chapters, or use that")
    seconds = {name: each for name, each in old.get("seconds", {}).items() if name in known}
    with tqdm(options.chapters or list(known), desc="chapters") as chapters:
        for name in chapters:
            chapters.set_postfix_str(name)
            seconds[name] = measure(known[name])
            about = {"device": options.device_name, "date": date.today().isoformat()}
            about |= {"cores": os.cpu_count(), "seconds": dict(sorted(seconds.items()))}
            RAN.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
