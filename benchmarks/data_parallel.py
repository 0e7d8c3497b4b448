"""What averaging gradients costs: after the backward pass, and while it still runs.

    python benchmarks/data_parallel.py --threads 1 --out distilclip/book/results/data_parallel.json

Two processes on this machine, which talk through Gloo, share a batch: ViT-S/16 at 224 pixels with
half of the patches left out, and a text encoder of DistilBERT's shape that learns, random weights,
float32. Each takes in turn a step that sends no gradients, one with `average_gradients` behind the
backward pass, as chapter 11 writes it by hand, and one with `data_parallel`, which is PyTorch's
`DistributedDataParallel`, as `train` uses it; all three with the whole share at once and with
gradient caching. A step is forward, loss and backward, with the embeddings' exchange, without
AdamW. `--threads` is that of one process.

On one machine a message costs the same cores that compute. A network card would do that work
beside them, so that more of it could be hidden than here.
"""

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from systems import SMALL, Sizes, save_random_text, scenes, shape
from timing import in_turn, print_table, run
from torch import Tensor

from distilclip import TrainConfig
from distilclip.data import seeded
from distilclip.loss import contrastive_loss
from distilclip.runs.checkpoint import Run
from distilclip.scale import (
    average_gradients,
    cached_contrastive_backward,
    gather_embeds,
    process_group,
)
from distilclip.storage.files import write_text
from distilclip.training import StepInputs, draw_batch, embed, encoder, prepare_data, start_run

WORLD = 2
MEDIUM = Sizes(dim=384, num_heads=6, batch_size=16, pairs=16)
NONE, AFTER, DURING = "no gradients sent", "sent after", "sent during"


def backward(run: Run, encode: Callable, inputs: StepInputs, positives: Tensor, cached: bool):
    """Forward, loss and backward of this process's share."""
    run.optimizer.zero_grad(set_to_none=True)
    scale = run.model.logit_scale
    if cached:
        parts = list(enumerate(inputs.split(max(1, len(inputs.pixels) // 4))))
        cached_contrastive_backward(encode, parts, scale, positives, loss=contrastive_loss)
    else:
        embeds = [gather_embeds(side) for side in encode((0, inputs))]
        contrastive_loss(*embeds, scale, positives).backward()


def time_ways(sizes: Sizes, text: Path, rounds: int) -> dict:
    """Seconds of each way in each round, in this process; and what is sent, in MiB."""
    settings = shape(sizes, text) | {"text_start": 0.0, "precision": "float32", "device": "cpu"}
    config = TrainConfig(preset="t4-drawings", **settings)
    run = start_run(config, torch.device("cpu"))
    data = prepare_data(run.model, scenes(sizes), config)
    rows = torch.arange(config.batch_size)
    inputs, positives = draw_batch(data, rows, 0, config, run.model.tokenize)

    def plain(part: tuple[int, StepInputs]) -> tuple[Tensor, Tensor]:
        return embed(run, part[1], seeded(0, part[0]))

    learning = [p for p in run.model.parameters() if p.requires_grad]
    encoders = {NONE: plain, AFTER: plain, DURING: encoder(run)}
    sent_behind = {NONE: [], AFTER: learning, DURING: [run.model.log_logit_scale]}

    def step(way: str, cached: bool) -> None:
        torch.manual_seed(0)
        backward(run, encoders[way], inputs, positives, cached)
        average_gradients(sent_behind[way])

    ways = {
        f"{way}{', cached' * cached}": partial(step, way, cached)
        for cached in (False, True)
        for way in encoders
    }
    seconds = in_turn(ways, rounds)
    sent = sum(p.numel() * p.element_size() for p in learning) / 2**20
    return {"seconds": seconds, "gradients_mib": round(sent, 1)}


def work(rank: int, port: int, sizes: Sizes, text: Path, options: argparse.Namespace) -> None:
    """What one of the processes does; the first one writes what it measured beside the text."""
    torch.set_num_threads(options.threads)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    with process_group(timeout=300):
        found = time_ways(sizes, text, options.rounds)
    if rank == 0:
        write_text(text / "found.json", json.dumps(found))


def measure(options: argparse.Namespace) -> dict:
    sizes = SMALL if options.small else MEDIUM
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as place:
        text = Path(place)
        save_random_text(text, sizes)
        context = multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=work, args=(rank, port, sizes, text, options))
            for rank in range(WORLD)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        found = json.loads((text / "found.json").read_text())
    ways, rows = {}, []
    for name, seconds in found["seconds"].items():
        bare = found["seconds"][NONE + ", cached" * name.endswith(", cached")]
        # Of the same round, so that what drifts in the machine meets both
        ratios = [way / none for way, none in zip(seconds, bare, strict=True)]
        line = [statistics.median(seconds), min(seconds), max(seconds), statistics.median(ratios)]
        keys = ("seconds", "fastest", "slowest", "over_no_gradients")
        ways[name] = dict(zip(keys, (round(value, 4) for value in line), strict=True))
        rows.append([name, *line])
    head = [f"{found['gradients_mib']:,} MiB of gradients", "seconds", "fastest", "slowest"]
    print_table([*head, "over none sent"], rows)
    about = {"processes": WORLD, "gradients_mib": found["gradients_mib"], "sizes": vars(sizes)}
    return about | {"ways": ways}


if __name__ == "__main__":
    run(measure, __doc__)
