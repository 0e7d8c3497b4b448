"""Exact and approximate search among very many vectors: time, memory, and what is missed.

The vectors are those of the emoji test pictures by the packaged model, shaken by noise until there
are enough; the queries are its captions, which lie apart from the pictures, as they do in use.
Recall is the share of the exact ten nearest that an approximate search finds. Needs `faiss-cpu`.

    python benchmarks/faiss_search.py --count 1000000 --out figures.json
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import torch
import torch.nn.functional as F
from torch import Tensor

from distilclip import DistilCLIP, ImageIndex, load_pairs
from distilclip.data import seeded
from distilclip.index.neighbours import faiss_neighbours
from distilclip.storage.files import write_text

QUERIES = 256
Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]  # queries and k -> scores and rows


def shaken(embeds: Tensor, count: int, noise: float = 0.5) -> Tensor:
    """`count` unit vectors around those in `embeds`, made a block at a time."""
    generator, blocks = seeded(0), []
    for start in range(0, count, 50_000):
        rows = torch.arange(start, min(start + 50_000, count)) % len(embeds)
        shake = torch.randn(len(rows), embeds.shape[1], generator=generator)
        blocks.append(F.normalize(embeds[rows] + noise * shake / embeds.shape[1] ** 0.5, dim=-1))
    return torch.cat(blocks)


def seconds_of(nearest: Search, queries: Tensor) -> tuple[float, float]:
    """Seconds a query, one at a time and all at once."""
    started = time.perf_counter()
    for query in queries[:32]:
        nearest(query.unsqueeze(0), 10)
    alone = (time.perf_counter() - started) / 32
    started = time.perf_counter()
    nearest(queries, 10)
    return alone, (time.perf_counter() - started) / len(queries)


def resident_mib() -> int:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20


def measure(count: int) -> dict:
    """A row for the exact product, for FAISS's exact search, and for each effort."""
    model = DistilCLIP.from_pretrained("emoji")
    test = load_pairs("emoji")["test"]
    pictures = ImageIndex.from_dataset(model, test, progress=False).embeds
    captions = [texts[0] for texts in test["captions"]][:QUERIES]
    queries = model.encode_text(captions)
    index = ImageIndex(model, [str(row) for row in range(count)], shaken(pictures, count))
    exact = index.nearest(queries, 10)[1]
    rows = [{"kind": "torch", "build_s": 0.0, "recall": 1.0}]
    rows[0]["alone_ms"], rows[0]["batch_ms"] = (
        1000 * s for s in seconds_of(index.nearest, queries)
    )
    for kind, efforts in {
        "flat": (0,),
        "ivf": (4, 16, 64, 256),
        "hnsw": (16, 64, 128, 512),
    }.items():
        before, started = resident_mib(), time.perf_counter()
        found = faiss_neighbours(index.embeds, kind)
        built, extra = time.perf_counter() - started, resident_mib() - before
        for effort in efforts:
            nearest = functools.partial(found, effort=effort)
            row = {"kind": kind, "effort": effort, "build_s": built, "extra_mib": extra}
            is_hit = (nearest(queries, 10)[1].unsqueeze(2) == exact.unsqueeze(1)).any(dim=2)
            row["recall"] = is_hit.double().mean().item()
            row["alone_ms"], row["batch_ms"] = (1000 * s for s in seconds_of(nearest, queries))
            rows.append(row)
            print(json.dumps(row), flush=True)
    return {
        "count": count,
        "width": pictures.shape[1],
        "queries": len(queries),
        "threads": torch.get_num_threads(),
        "faiss": faiss.__version__,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    figures = json.dumps(measure(options.count), indent=2)
    print(figures)
    if options.out:
        write_text(options.out, figures)


if __name__ == "__main__":
    main()
