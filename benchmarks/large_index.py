"""An index of a million vectors, and a folder of 100,000 pictures: seconds and peak memory.

    python benchmarks/large_index.py --out distilclip/book/results/large_index.json
    python benchmarks/large_index.py --small

The million are random unit vectors of the packaged model's width, with a name and a stamp each.
They are saved, loaded and searched in processes of their own, whose peak resident memory includes
Python and all libraries; so does a process that holds two vectors alone, for comparison.

The folder's pictures are generated, and it is searched as a user would, with `distilclip search`:
killed (SIGKILL) as soon as it has saved a part of its work, called again, which embeds the rest,
and called a third time, which embeds nothing. The index that came about in two parts is then
compared with vectors that are made anew.
"""

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timing import print_table, run
from tqdm import tqdm

from distilclip import DistilCLIP, ImageIndex

SIDE, LOOKED_AT = 96, 200  # pixels; vectors that are compared
SEARCH = [sys.executable, "-m", "distilclip.cli", "search", "emoji"]


def seconds_of(work) -> float:
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 3)


def in_this_process(step: str, count: int, file: Path) -> dict:
    """One step with an index of `count` vectors -> its seconds and this process's peak."""
    model = DistilCLIP.from_pretrained("emoji")
    seconds = {}
    if step == "save":
        torch.manual_seed(0)
        embeds = F.normalize(torch.randn(count, model.config.embed_dim), dim=-1)
        names = [f"{row // 1000:04}/{row:07}.jpg" for row in range(count)]
        index = ImageIndex(model, names, embeds, file.parent)
        index.stamps = {name: (1, 2**60 + row, 2**60, row) for row, name in enumerate(names)}
        seconds["save"] = seconds_of(lambda: index.save(file))
    else:
        started = time.perf_counter()
        index = ImageIndex.load(model, file)
        seconds["load"] = round(time.perf_counter() - started, 3)
        # A picture's own vector: what must come first is known.
        rows = torch.randint(count, (16,), generator=torch.Generator().manual_seed(1)).tolist()
        found = []
        index.search(index.embeds[0])
        taken = [
            seconds_of(lambda row=row: found.append(index.search(index.embeds[row], k=9)))
            for row in rows
        ]
        seconds["search"] = sorted(taken)[len(taken) // 2]
        firsts = [hits[0].name for hits in found]
        if firsts != [index.names[row] for row in rows]:
            raise AssertionError("A vector is not its own nearest.")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    return seconds | {"peak_gib": round(peak, 3)}


def measure_vectors(count: int) -> dict:
    """Save, load and search `count` vectors; and two, for what a process takes anyway."""
    results = {}
    for number in (2, count):
        with tempfile.TemporaryDirectory() as place:
            file, line = Path(place) / "index.safetensors", {}
            for step in ("save", "load"):
                command = [sys.executable, __file__, "--one", step, str(number), str(file)]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                line |= {k if k != "peak_gib" else f"{step}_peak_gib": found[k] for k in found}
            line["file_mib"] = round(file.stat().st_size / 2**20, 1)
        results[str(number)] = line
    return results


def draw_pictures(folder: Path, count: int) -> None:
    """JPEG files of coloured noise in coarse blocks, no two alike, a thousand a folder."""
    generator = np.random.default_rng(0)
    for number in tqdm(range(count), "drawing pictures"):
        if number % 1000 == 0:
            (folder / f"{number // 1000:04}").mkdir(parents=True)
        blocks = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        picture = blocks.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number // 1000:04}" / f"{number:06}.jpg", quality=85)


def search(folder: Path, cache: Path, stop_when_saved: bool = False) -> dict:
    """`distilclip search` -> seconds, peak memory, what it says of its index, its first hit.

    With `stop_when_saved` it is killed once a file is there.
    """
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        command = [*SEARCH, "a red square", str(folder), "-k", "1"]
        process = subprocess.Popen(command, stdout=out, stderr=errors, env=environment)
        if stop_when_saved:
            while process.poll() is None and not list(cache.rglob("*.safetensors")):
                time.sleep(0.05)
            process.kill()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), errors.seek(0)
        said = (out.read() + errors.read()).decode(errors="replace")
    if process.returncode not in (0, -9):
        raise RuntimeError(said)
    counts = re.search(r"([\d,]+) pictures: ([\d,]+) embedded", said)
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "peak_gib": round(used.ru_maxrss / 2**20, 3),
        "killed": process.returncode == -9,
        "embedded": int(counts[2].replace(",", "")) if counts else None,
    }


def differing(folder: Path, cache: Path) -> tuple[int, float]:
    """Pictures in the cached index, and how far some of its vectors are from new ones."""
    model = DistilCLIP.from_pretrained("emoji")
    index = ImageIndex.load(model, next(cache.rglob("*.safetensors")))
    rows = random.Random(0).sample(range(len(index)), min(LOOKED_AT, len(index)))
    again = model.encode_image([folder / index.names[row] for row in rows])
    return len(index), (again - index.embeds[rows]).abs().max().item()


def measure_folder(count: int) -> dict:
    """Kill, resume and repeat a search of a folder of `count` generated pictures."""
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place) / "pictures", Path(place) / "cache"
        draw_pictures(folder, count)
        lines = {"killed": search(folder, cache, stop_when_saved=True)}
        kept = differing(folder, cache)[0]
        lines["resumed"] = search(folder, cache)
        lines["again"] = search(folder, cache)
        held, away = differing(folder, cache)
        size = sum(file.stat().st_size for file in cache.rglob("*.safetensors"))
    resumed = lines["resumed"]["embedded"]
    if held != count or kept + (resumed or 0) != count or away > 1e-4:
        raise AssertionError(f"{kept} + {resumed} of {count} pictures, {away} away.")
    return {
        "pictures": count,
        "kept_when_killed": kept,
        "furthest_from_new_vectors": float(f"{away:.1e}"),
        "file_mib": round(size / 2**20, 1),
        "searches": lines,
    }


def measure(options: argparse.Namespace) -> dict:
    vectors, pictures = (20_000, 600) if options.small else (1_000_000, 100_000)
    results = {"vectors": measure_vectors(vectors), "folder": measure_folder(pictures)}
    rows = [[name, *line.values()] for name, line in results["vectors"].items()]
    print_table(["vectors", *results["vectors"][str(vectors)]], rows)
    searches = results["folder"]["searches"]
    rows = [[name, *line.values()] for name, line in searches.items()]
    print_table(["search", *searches["again"]], rows)
    return results


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        step, count, file = sys.argv[2:]
        print(json.dumps(in_this_process(step, int(count), Path(file))))
    else:
        run(measure, __doc__)
