"""What it is worth that a process keeps freed tensors (distilclip/runs/memory.py), on a CPU.

    python benchmarks/freed_memory.py

Training steps of a ViT-B/16 with every patch and a DistilBERT, batch 16, a fresh process each time,
in turn: with freed memory kept, as `distilclip train` has it, and handed back, which is the C
library's own way. Printed are the seconds of a step, its page faults, and the peak of the memory.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from systems import SMALL, Sizes, build_distilclip, save_random_text
from timing import print_table, run

import distilclip.training as training

STEPS = 4


def measure_one(kept: bool, small: bool) -> list[float]:
    """Seconds and page faults a step, and MiB at the peak, in this process."""
    if not kept:
        training.keep_freed_memory = lambda: None
    sizes = SMALL if small else Sizes()
    with tempfile.TemporaryDirectory() as folder:
        save_random_text(Path(folder), sizes)
        step = build_distilclip(sizes, Path(folder))["DistilCLIP, every patch"]
    step()
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for _ in range(STEPS):
        step()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    faults = (after.ru_minflt - before.ru_minflt) / STEPS
    return [seconds / STEPS, faults, after.ru_maxrss / 1024]


def measure(options: argparse.Namespace) -> dict:
    measured = {"kept": [], "handed back": []}
    for number in range(options.rounds):
        for name in list(measured)[:: -1 if number % 2 else 1]:
            command = [sys.executable, __file__, "--one", name, str(options.threads)]
            command += ["--small"] if options.small else []
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            measured[name].append([float(number) for number in out.split()])
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in measured.items()
    }
    rows = [[name, m[0], round(m[1]), round(m[2])] for name, m in medians.items()]
    print_table(["freed memory", "seconds a step", "page faults", "peak MiB"], rows)
    ratio = medians["handed back"][0] / medians["kept"][0]
    print(f"kept is {ratio:.2f} times as fast")
    return {"medians": medians, "ratio": round(ratio, 3)}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        torch.set_num_threads(int(sys.argv[3]))
        print(*measure_one(sys.argv[2] == "kept", "--small" in sys.argv))
    else:
        run(measure, __doc__)
