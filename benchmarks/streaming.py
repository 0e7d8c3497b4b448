"""Data larger than memory: the peak of memory, images a second, and a run that was killed.

    python benchmarks/streaming.py --out distilclip/book/results/streaming.json
    python benchmarks/streaming.py --only speed --out distilclip/book/results/streaming.json
    python benchmarks/streaming.py --small

With `--only`, what is not measured this time stays in the file as it was.

The data are made here: JPEGs of 64 x 64 pixels, no two alike, and captions, in WebDataset's tars of
2,000 pairs. Three questions are asked of `--streaming`:

- Is memory flat? One pass over 20,000 and over 200,000 pairs with a tiny model, each in a process
  of its own, whose peak resident memory is read at its end (Python and all libraries included).
- What does it cost? The loop of chapter 8a on the ViT of the preset `cpu` at its full 48 pixels, on
  pairs decoded before and on the stream, in turn. First with a small text encoder that learns, so
  that both read the captions of every step; then with a frozen MiniLM, whose features the loop in
  memory has computed before, once, and the stream computes for every batch.
- Is resuming exact? A run is killed (SIGKILL) and goes on; its weights and AdamW's moments are
  compared with those of a run that was left alone.
"""

import argparse
import contextlib
import io
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from systems import SMALL, save_random_text
from timing import arguments, in_turn, print_bars, print_table, rates, run
from tqdm import tqdm

from distilclip import TrainConfig, load_pairs, train
from distilclip.runs import checkpoint
from distilclip.runs.streaming import open_streamed
from distilclip.training import prepare_data, start_run, train_epoch

PAIRS, FEW, SHARD = 200_000, 20_000, 2_000
PARTS = ("memory", "resume", "speed")
TINY = {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 1, "num_heads": 2, "embed_dim": 32}
STEPS = 24  # in one turn, of 128 pairs
COLOURS = ("red", "green", "blue", "white", "black", "grey", "orange", "violet")
THINGS = ("bird", "boat", "bottle", "bridge", "cat", "chair", "cloud", "coat", "cup", "dog")
PLACES = ("in a street", "on a hill", "by the sea", "at night", "in a room", "under a tree")


def picture(chance: np.random.Generator) -> bytes:
    """A JPEG of blurred random colours, 64 pixels wide."""
    colours = chance.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).resize((64, 64), Image.Resampling.BILINEAR).save(file, "JPEG")
    return file.getvalue()


def caption(number: int) -> str:
    """One of 480 descriptions, and a number to tell them apart."""
    colour, thing = COLOURS[number % 8], THINGS[number // 8 % 10]
    return f"a {colour} {thing} {PLACES[number // 80 % 6]}, number {number}"


def make_shards(folder: Path, pairs: int, shard: int) -> int:
    """Write tars of `shard` captioned JPEGs each -> their size on the disk in bytes."""
    folder.mkdir()
    chance = np.random.default_rng(0)
    for start in range(0, pairs, shard):
        with tarfile.open(folder / f"{start // shard:05}.tar", "w") as tar:
            for number in range(start, min(start + shard, pairs)):
                contents = {"jpg": picture(chance), "txt": caption(number).encode()}
                for suffix, content in contents.items():
                    member = tarfile.TarInfo(f"{number:08}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return sum(file.stat().st_size for file in folder.iterdir())


def one_run(settings: dict, kill_at: int) -> dict:
    """Train in this process, to be killed at a step or not -> its peak memory and speed."""
    if kill_at or settings.get("resume"):
        checkpoint.SAVE_SECONDS, checkpoint.SAVE_SHARE = 0, 1e9  # save after every step
    original, calls = torch.optim.AdamW.step, []

    def step(*arguments, **options):
        calls.append(1)
        if len(calls) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    torch.optim.AdamW.step = step
    result = train(TrainConfig(**settings), progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    lines = [line for line in result.history if line["kind"] == "epoch"]
    speeds = [line["images_per_second"] for line in lines]
    return {"peak_mib": round(peak, 1), "images_per_second": round(speeds[-1], 1)}


def in_a_process(settings: dict, options: argparse.Namespace, kill_at: int = 0) -> dict | None:
    """`one_run` in a process of its own; None where that was killed."""
    asked = json.dumps([settings, kill_at, options.threads])
    command = [sys.executable, __file__, "--one", asked]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode == -signal.SIGKILL and kill_at:
        return None
    done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def tiny_run(data: Path, out: Path, text: Path, pairs: int, batch: int) -> dict:
    """The settings of one pass over a stream with a tiny model."""
    asked = {"data": str(data), "out": str(out), "text_model": str(text), "streaming": True}
    lengths = {"epochs": 1, "epoch_pictures": pairs, "batch_size": batch, "evaluations": 1}
    plain = {"precision": "float32", "full_size_start": 0.0}
    return asked | lengths | TINY | plain


def measure_memory(folder: Path, text: Path, sizes: dict[int, Path], options) -> dict:
    """The peak memory of a pass over each source, by its number of pairs."""
    found = {}
    for pairs, data in sizes.items():
        settings = tiny_run(
            data, folder / f"run-{pairs}", text, pairs, 16 if options.small else 256
        )
        found[pairs] = in_a_process(settings, options)
    rows = [[f"{pairs:,}", *line.values()] for pairs, line in found.items()]
    print_table(["pairs", "peak MiB", "images/s"], rows)
    return {str(pairs): line for pairs, line in found.items()}


def measure_resume(folder: Path, text: Path, data: Path, options: argparse.Namespace) -> dict:
    """Whether a run that is killed on its way ends as one that is not."""
    batch, steps = (16, 6) if options.small else (256, 40)
    whole, killed = (
        tiny_run(data, folder / name, text, steps * batch, batch) for name in ("whole", "killed")
    )
    kill_at = steps // 2 + 1
    in_a_process(whole, options)
    was_killed = in_a_process(killed, options, kill_at) is None
    in_a_process(killed | {"resume": True}, options)
    ours, theirs = (
        load_file(Path(settings["out"]) / checkpoint.STATE_FILE) for settings in (killed, whole)
    )
    different = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    print(f"killed at step {kill_at} of {steps}: {was_killed}; tensors: {len(theirs)}, of them")
    print(f"different after resuming: {len(different)}", end="\n\n")
    return {
        "steps": steps,
        "killed_at": kill_at,
        "was_killed": was_killed,
        "tensors": len(theirs),
        "different": len(different),
    }


def loop(training, data) -> Callable[[], None]:
    """An action: the next epoch of a run."""
    epochs = iter(range(10**6))

    def epoch() -> None:
        training.sums = checkpoint.new_sums()
        with tqdm(total=0, file=io.StringIO()) as bar:
            train_epoch(training, data, next(epochs), bar, save=lambda: None)

    return epoch


def measure_speed(data: Path, settings: dict, options: argparse.Namespace) -> dict:
    """Images a second of the loop in memory and of the streamed one, in turn."""
    steps = 4 if options.small else STEPS
    config = TrainConfig(
        **settings,
        data=str(data),
        streaming=True,
        precision="float32",
        full_size_start=0.0,
        batch_size=16 if options.small else 128,
        epoch_pictures=steps * (16 if options.small else 128),
        epochs=10**4,
    )
    rows = load_pairs(config.data)["train"].select(range(config.epoch_pictures))
    device = torch.device("cpu")
    with contextlib.ExitStack() as stack:
        splits, _ = stack.enter_context(open_streamed(config, None, (0, 1), device))
        actions = {}
        for name, pairs in (("in memory", rows), ("streamed", splits["train"])):
            training = start_run(config, device)
            training.save_at = math.inf
            actions[name] = loop(training, prepare_data(training.model, pairs, config))
        found = rates(in_turn(actions, options.rounds), steps * config.batch_size)
    lines = [[name, *line.values()] for name, line in found.items()]
    print_table(
        [f"text encoder {Path(config.text_model).name}", "images/s", "slowest", "fastest"], lines
    )
    ratio = found["streamed"]["per_second"] / found["in memory"]["per_second"]
    return found | {"ratio": round(ratio, 3)}


def measure(options: argparse.Namespace) -> dict:
    pairs, few, shard = (400, 120, 40) if options.small else (PAIRS, FEW, SHARD)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        text = folder / "small"
        save_random_text(text, SMALL)
        sizes = {count: folder / f"pairs-{count}" for count in (few, pairs)}
        if options.only and "memory" not in options.only:
            del sizes[pairs]
        size = {count: make_shards(data, count, shard) for count, data in sizes.items()}
        found = json.loads(options.out.read_text())["results"] if options.only else {}
        if "memory" in (options.only or PARTS):
            found["memory"] = measure_memory(folder, text, sizes, options)
        if "resume" in (options.only or PARTS):
            found["resume"] = measure_resume(folder, text, sizes[few], options)
        learns = {"text_model": str(text), "text_lr": 1e-4}
        frozen = {"text_model": "minilm"}
        if "speed" in (options.only or PARTS):
            found["speed_threads"] = options.threads
            found["speed"] = {
                name: measure_speed(sizes[few], settings, options)
                for name, settings in (("learns", learns), ("frozen MiniLM", frozen))
            }
    memory, resumed, speed = (found[part] for part in PARTS)
    peaks = [memory[str(count)]["peak_mib"] for count in (few, pairs)]
    bars = {
        "peak memory, few pairs over many": (peaks[0] / peaks[1], 1 / 1.1),
        "images/s, streamed over in memory": (speed["learns"]["ratio"], 0.8),
        "resumed exactly (1: yes)": (float(resumed["was_killed"] and not resumed["different"]), 1),
    }
    return {
        "pairs": pairs,
        "few": few,
        "shard": shard,
        "bytes_a_pair": round(size[few] / few),
        "shuffle_buffer": TrainConfig().shuffle_buffer,
        "memory": memory,
        "resume": resumed,
        "speed": speed,
        "speed_threads": found["speed_threads"],
        "bars": print_bars(bars),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        settings, kill_at, threads = json.loads(sys.argv[2])
        torch.set_num_threads(threads)
        print(json.dumps(one_run(settings, kill_at)))
    else:
        parser = arguments(__doc__)
        parser.add_argument("--only", nargs="+", choices=PARTS, help="parts of what is in --out")
        run(measure, __doc__, parser)
