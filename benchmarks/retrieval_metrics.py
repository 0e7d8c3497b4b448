"""How much `retrieval_metrics` costs beside the matrix products that it cannot do without.

Random unit vectors, one text an image. The bare products are measured in the same run, in turn
with the metrics: every text against every image and every image against every text, as loops over
blocks whose results are thrown away, each in the faster of two block shapes. `retrieval_metrics`
computes a block once for both directions, so its time beside a single product is reported too.
The peak is the largest resident memory of the whole process.

    python benchmarks/retrieval_metrics.py --pairs 100000 --out figures.json
"""

import argparse
import json
import platform
import resource
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from distilclip.search import retrieval_metrics
from distilclip.storage.files import write_text


def product(left: Tensor, right: Tensor, rows: int, columns: int) -> float:
    """Seconds for every cosine of `left` and `right`, block by block."""
    started = time.perf_counter()
    for top in range(0, len(left), rows):
        for start in range(0, len(right), columns):
            left[top : top + rows] @ right[start : start + columns].T
    return time.perf_counter() - started


def measure(pairs: int, width: int, rounds: int) -> dict:
    """Medians over `rounds`, and the peak of memory in MiB."""
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        F.normalize(torch.randn(pairs, width, generator=generator), dim=-1) for _ in range(2)
    )
    seconds = {"metrics": [], "text_to_image": [], "image_to_text": []}
    for _ in range(rounds):
        for name, (left, right) in {
            "text_to_image": (texts, images),
            "image_to_text": (images, texts),
        }.items():
            seconds[name].append(
                min(product(left, right, 512, 512), product(left, right, 1024, pairs))
            )
        started = time.perf_counter()
        metrics = retrieval_metrics(images, texts, range(pairs))
        seconds["metrics"].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    both = medians["text_to_image"] + medians["image_to_text"]
    return {
        "pairs": pairs,
        "width": width,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "seconds": {name: round(value, 3) for name, value in medians.items()},
        "times_both_products": round(medians["metrics"] / both, 3),
        "times_one_product": round(2 * medians["metrics"] / both, 3),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "t2i_r10": metrics["t2i_r10"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = json.dumps(measure(options.pairs, options.width, options.rounds), indent=2)
    print(figures)
    if options.out:
        write_text(options.out, figures)


if __name__ == "__main__":
    main()
