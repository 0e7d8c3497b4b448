"""Images a second of whole training steps: ours beside what a user would pick instead.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --small

ViT-B/16 at 224 pixels and DistilBERT, both trained, 16 pairs a step; systems.py says what is in a
step. Every system has a process of its own, which waits while another one works: a round takes
one step of each, and medians are taken over the rounds. Peak memory is that of further processes,
one for each kind of step, after two steps: with Python, the libraries and the decoded pictures.
"""

import argparse
import multiprocessing
import resource
import tempfile
from functools import partial
from pathlib import Path

import torch
from systems import SMALL, SYSTEMS, Sizes, save_random_text
from timing import in_turn, print_bars, print_table, rates, run

from distilclip import TrainConfig

Connection = multiprocessing.connection.Connection
PROCESSES = multiprocessing.get_context("spawn")  # a fork would take over the threads' locks


def serve(there: Connection, system: str, sizes: Sizes, text_folder: Path, threads: int) -> None:
    """Build a system, tell the names of its steps, then take the step that is asked for, and so on.

    Each answer is the share of padding and the peak memory of this process in MiB.
    """
    torch.set_num_threads(threads)
    steps = SYSTEMS[system](sizes, text_folder)
    there.send(list(steps))
    for name in iter(there.recv, None):
        padding = steps[name]()
        there.send((padding, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


class Worker:
    """A system in a process of its own; `steps` names what it can do."""

    def __init__(self, system: str, sizes: Sizes, text_folder: Path, threads: int):
        self.system = system
        self.here, there = PROCESSES.Pipe()
        arguments = (there, system, sizes, text_folder, threads)
        self.process = PROCESSES.Process(target=serve, args=arguments, daemon=True)
        self.process.start()
        there.close()  # so that a worker that dies ends `recv` with an error
        self.steps = self.here.recv()

    def step(self, name: str) -> tuple[float, float]:
        self.here.send(name)
        return self.here.recv()

    def stop(self) -> None:
        self.here.send(None)
        self.process.join()


def peak_memory(worker: Worker, name: str) -> float:
    """MiB that `name` needs, in a process that has done nothing else."""
    for _ in range(2):  # AdamW has its moments after the first
        _, peak = worker.step(name)
    worker.stop()
    return round(peak)


def measure(options: argparse.Namespace) -> dict:
    sizes = SMALL if options.small else Sizes()
    with tempfile.TemporaryDirectory() as place:
        save_random_text(Path(place), sizes)
        common = (sizes, Path(place), options.threads)
        workers = [Worker(system, *common) for system in SYSTEMS]
        padding: dict[str, list[float]] = {}

        def step(worker: Worker, name: str) -> None:
            padding.setdefault(name, []).append(worker.step(name)[0])

        actions = {name: partial(step, w, name) for w in workers for name in w.steps}
        lines = rates(in_turn(actions, options.rounds), sizes.batch_size)
        for worker in workers:
            worker.stop()
        for worker in workers:
            for name in worker.steps:
                lines[name]["peak_mib"] = peak_memory(Worker(worker.system, *common), name)
                lines[name]["padding"] = round(sum(padding[name]) / len(padding[name]), 4)
    ours = lines["DistilCLIP"]["per_second"]
    head = ["images/s", "slowest", "fastest", "ours over it", "padding", "peak MiB"]
    rows = []
    for name, line in lines.items():
        speeds = [line[key] for key in ("per_second", "slowest", "fastest")]
        memory = f"{line['peak_mib']:,}"
        rows.append([name, *speeds, ours / speeds[0], f"{line['padding']:.1%}", memory])
    print_table(["training step", *head], rows)
    speed = {name: line["per_second"] for name, line in lines.items()}
    every_patch = speed["DistilCLIP, every patch"]
    share = TrainConfig(
        preset="t4-drawings"
    ).text_start  # of a run, with the captions' encoder frozen
    whole_run = 1 / (share / speed["DistilCLIP, text locked"] + (1 - share) / ours)
    bars = {
        "ours over the best peer, each by its defaults": (
            ours / max(speed["transformers"], speed["open_clip"]),
            2.0,
        ),
        "ours over the original": (ours / speed["original"], 3.0),
        "ours with every patch over the best peer with the same autocast": (
            every_patch
            / max(speed[f"{name}, same autocast"] for name in ("transformers", "open_clip")),
            1.0,
        ),
        "a whole run of the preset over every patch and caption in every step": (
            whole_run / every_patch,
            1.7,
        ),
    }
    return {"sizes": vars(sizes), "steps": lines, "bars": print_bars(bars)}


if __name__ == "__main__":
    run(measure, __doc__)
