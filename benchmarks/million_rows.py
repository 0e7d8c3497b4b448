"""How long `load_pairs` takes for a table of a million rows, and how much memory.

    python benchmarks/million_rows.py --out distilclip/book/results/million_rows.json
    python benchmarks/million_rows.py --small

A .csv with a row a caption, as Flickr30k has it, that names the same picture many times. Nothing is
decoded: what is measured is reading the table, finding the files, and joining rows that hold the
same picture, which compares the files' bytes. Once with few files (each named a thousand times),
once with many (each named five times), in a process of its own that imports what it needs first;
its peak resident memory includes Python and all libraries.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import print_bars, print_table, run

ROWS, FILES = 1_000_000, (1_000, 200_000)
SECONDS, GIB = 60.0, 2.0  # the bars


def make_table(folder: Path, rows: int, files: int) -> Path:
    """A table of `rows` captions of `files` pictures, no two alike, that lie beside it.

    The files hold some bytes that nobody decodes.
    """
    for number in range(files):
        place = folder / f"{number // 1000:03}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06}.jpg").write_bytes(b"\xff\xd8\xff picture %d" % number)
    table = folder / "captions.csv"
    with open(table, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["image", "caption"])
        for row in range(rows):
            number = row % files
            name = f"{number // 1000:03}/{number:06}.jpg"
            writer.writerow([name, f"what somebody said of picture {number}, line {row}"])
    return table


def load(table: str) -> dict:
    """Load a table in this process -> seconds, peak memory, pictures and captions."""
    from distilclip import load_pairs

    started, busy = time.perf_counter(), time.process_time()
    pairs = load_pairs(table)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = used.ru_maxrss / 2**20  # Linux counts in KiB
    captions = sum(len(texts) for rows in pairs.values() for texts in rows["captions"])
    pictures = sum(map(len, pairs.values()))
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(busy, 2),
        "peak_gib": round(peak, 3),
        "pictures": pictures,
        "captions": captions,
    }


def measure(options: argparse.Namespace) -> dict:
    rows, counts = (2_000, (10, 400)) if options.small else (ROWS, FILES)
    results, bars = {}, {}
    for files in counts:
        with tempfile.TemporaryDirectory() as place:
            table = make_table(Path(place), rows, files)
            command = [sys.executable, __file__, "--one", str(table)]
            environment = os.environ | {"HF_DATASETS_CACHE": f"{place}/cache"}
            done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True)
        line = results[f"{files}"] = json.loads(done.stdout.splitlines()[-1])
        if (line["pictures"], line["captions"]) != (files, rows):
            raise AssertionError(f"{rows} rows of {files} pictures became {line}.")
        name = f"{rows:,} rows, {files:,} files"
        bars[f"{name}: a minute over its seconds"] = (SECONDS / line["seconds"], 1.0)
        bars[f"{name}: 2 GiB over its peak"] = (GIB / line["peak_gib"], 1.0)
    table = [[name, *line.values()] for name, line in results.items()]
    print_table(["files", "seconds", "of the processor", "peak GiB", "pictures", "captions"], table)
    return {"rows": rows, "tables": results, "bars": print_bars(bars)}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(load(sys.argv[2])))
    else:
        run(measure, __doc__)
