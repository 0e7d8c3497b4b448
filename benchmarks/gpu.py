"""What one card does, in ten minutes at most: `make bench-gpu`.

    make bench-gpu DATA=flickr8k/
    python benchmarks/gpu.py --data flickr8k/
    python benchmarks/gpu.py --small --device cpu

Any card. Each part is written into distilclip/book/results/gpu.json as soon as it is known, and the
page of costs shows what is there. A part that fails says why, and the others go on; a part for
which the time is over says so.

- rates: one product of large square matrices, by number format.
- steps: the systems of systems.py with ViT-B/16 and DistilBERT, whole steps from decoded pictures
  on the CPU, with the card's memory at its peak, and how much of the matrix rate ours reaches.
- loop: `train_epoch` with the preset `t4` beside its own step on a batch that lies on the card.
- parts: where the time of our step goes, with a wait for the card at both ends of each part, which
  makes the whole slower and the shares nearly right.
- t4: float16, no FlashAttention and at most 15 GiB, as on a T4, at this card's speed.
- run: `distilclip train` with the preset `t4` on the folder that is given (`emoji` otherwise),
  killed after its first epoch and resumed.
"""

import argparse
import contextlib
import functools
import gc
import io
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import torch
from host_work import captions
from systems import SMALL, SYSTEMS, OurSteps, Sizes, save_random_text, shape
from timing import PACKAGES, commit, print_table, processor, version
from tqdm import tqdm
from where_time_goes import count_operations, shares

from distilclip import TrainConfig
from distilclip.book.stored import RESULTS
from distilclip.data import TrainingPairs
from distilclip.runs.checkpoint import new_sums
from distilclip.runs.memory import is_out_of_memory
from distilclip.storage.files import read_json_lines, write_text
from distilclip.training import TrainingData, draw_batch, start_run, train_epoch, train_step

GIB = 2**30
T4_MEMORY = 15 * GIB
SMALL_RUN = ["--image-size=16", "--patch-size=8", "--dim=16", "--depth=1", "--num-heads=2"]
SMALL_RUN += ["--batch-size=8", "--epochs=4", "--precision=float32"]


@dataclass
class Bench:
    """A device, sizes, a random text encoder's folder, and how often each thing is timed."""

    device: torch.device
    sizes: Sizes
    text: Path
    data: str
    small: bool

    @property
    def on_card(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until the card has done all that was asked of it."""
        if self.on_card:
            torch.cuda.synchronize()

    def clear(self) -> None:
        """Give memory back, and begin anew to look for its peak."""
        gc.collect()
        if self.on_card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float | None:
        """GiB of the card's memory since `clear`, at most; None on a CPU."""
        return round(torch.cuda.max_memory_allocated() / GIB, 2) if self.on_card else None

    def seconds(self, action: Callable[[], object], times: int = 8) -> float:
        """The median of three times some actions, for one of them, after some that warm up."""
        times = 1 if self.small else times
        found = []
        for number in range(2 if self.small else 4):
            self.wait()
            start = time.perf_counter()
            for _ in range(times):
                action()
            self.wait()
            if number:
                found.append((time.perf_counter() - start) / times)
        return statistics.median(found)

    def config(self, preset: str, **changes) -> TrainConfig:
        """A preset whose text encoder learns from the start; of a small size where asked for."""
        settings = {"text_model": str(self.text), "text_start": 0.0} | changes
        if self.small:  # no time is spent on choosing a number format
            settings = shape(self.sizes, self.text) | {"precision": "float32"} | settings
        return TrainConfig(preset=preset, **settings)


def measure_rates(bench: Bench) -> dict:
    """TFLOP/s of one product of large matrices, by number format."""
    side, found = 256 if bench.small else 8192, {}
    for name in ("float32", "bfloat16", "float16"):
        matrix = torch.randn(side, side, device=bench.device).to(getattr(torch, name))
        seconds = bench.seconds(functools.partial(torch.mm, matrix, matrix))
        found[name] = round(2 * side**3 / seconds / 1e12, 4)
    print_table(["format", "TFLOP/s"], [[name, rate] for name, rate in found.items()])
    return found


def measure_steps(bench: Bench) -> dict:
    """Images a second and GiB of whole steps, ours beside the others', by batch size."""
    found, rows = {}, []
    for batch in [bench.sizes.batch_size] if bench.small else [64, 256]:
        sizes = replace(bench.sizes, batch_size=batch, pairs=max(batch, bench.sizes.pairs))
        lines = found[str(batch)] = {}
        for system, build in SYSTEMS.items():
            bench.clear()
            try:
                steps = build(sizes, bench.text, bench.device)
                for name, step in steps.items():
                    bench.clear()
                    rate = round(batch / bench.seconds(step), 2)
                    lines[name] = {"per_second": rate, "peak_gib": bench.peak()}
                    rows.append([f"{name}, batch {batch}", rate, bench.peak() or ""])
            except (Exception, SystemExit) as error:  # a peer is missing, or the card is full
                lines[system] = {"error": why(error)}
                rows.append([f"{system}, batch {batch}", why(error), ""])
            steps = step = None
    print_table(["step", "images/s", "peak GiB"], rows)
    return found


def measure_share(bench: Bench, rates: dict, steps: dict) -> dict:
    """How much of the matrix rate our step with every patch reaches, at each batch size."""
    sizes = replace(bench.sizes, batch_size=4, pairs=max(4, bench.sizes.pairs))
    config = bench.config("t4-drawings", **shape(sizes, bench.text))
    ours = OurSteps(config, sizes, bench.device)
    operations = count_operations(ours.make(every_patch=True)) / 4
    found = {"precision": ours.run.precision, "gflop_an_image": round(operations / 1e9, 2)}
    for batch, lines in steps.items():
        if line := lines.get("DistilCLIP, every patch"):
            reached = line["per_second"] * operations / 1e12
            found[batch] = round(reached / rates[ours.run.precision], 4)
    return found


def loop_of(bench: Bench, config: TrainConfig) -> dict:
    """Images a second of `train_epoch`, and of its own step on a batch that is on the device."""
    bench.clear()
    count = 2 if bench.small else 16
    run = start_run(config, bench.device)
    run.save_at = float("inf")
    pictures = count * config.batch_size
    pixels = torch.randint(
        0, 256, (pictures, 3, config.image_size, config.image_size), dtype=torch.uint8
    )
    pairs = TrainingPairs(pixels, captions(pictures))
    data = TrainingData(pairs, None, torch.ones(pictures, dtype=torch.bool))
    drawn = draw_batch(data, torch.arange(config.batch_size), 0, config, run.model.tokenize)
    inputs = drawn[0].map(lambda tensor: tensor.to(bench.device))

    def loop() -> None:
        run.sums, run.step = new_sums(), 0
        with tqdm(total=count, file=io.StringIO()) as bar:
            train_epoch(run, data, 0, bar, save=lambda: None)

    def bare() -> None:
        for _ in range(count):
            train_step(run, inputs, drawn[1])

    found = {"precision": run.precision, "batch_size": config.batch_size}
    for name, action in (("bare", bare), ("loop", loop)):
        seconds = bench.seconds(action, times=1)
        found[f"{name}_per_second"] = round(count * config.batch_size / seconds, 1)
    found["loop_over_bare"] = round(found["loop_per_second"] / found["bare_per_second"], 3)
    return found | {"peak_gib": bench.peak()}


def measure_loop(bench: Bench) -> dict:
    """The loop of the preset `t4` over its bare step."""
    found = loop_of(bench, bench.config("t4"))
    print_table(["loop, preset t4", ""], [[name, str(value)] for name, value in found.items()])
    return found


def measure_parts(bench: Bench) -> dict:
    """The share of each part in the time of our step."""
    bench.clear()
    sizes = replace(bench.sizes, pairs=max(bench.sizes.batch_size, bench.sizes.pairs))
    config = bench.config("t4-drawings", **shape(sizes, bench.text))
    ours = OurSteps(config, sizes, bench.device)
    found, _ = shares(ours.run, ours.make(), 2 if bench.small else 10, bench.wait)
    print_table(["part", "time"], [[name, f"{share:.1%}"] for name, share in found.items()])
    return {name: round(share, 4) for name, share in found.items()}


@contextlib.contextmanager
def rules_of_a_t4(bench: Bench) -> Iterator[None]:
    """No FlashAttention, and no more memory than a T4 has, while the block runs."""
    if not bench.on_card:
        yield
        return
    whole = torch.cuda.get_device_properties(bench.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, T4_MEMORY / whole))
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_flash_sdp(True)
        torch.cuda.set_per_process_memory_fraction(1.0)


def measure_t4(bench: Bench) -> dict:
    """The loops of `t4` and `original` in float16 under a T4's rules."""
    found = {}
    for preset in ("t4", "original"):
        with rules_of_a_t4(bench):
            try:
                found[preset] = loop_of(bench, bench.config(preset, precision="float16"))
            except Exception as error:
                found[preset] = {"error": why(error)}
        rows = [[name, str(value)] for name, value in found[preset].items()]
        print_table([f"preset {preset}, float16", ""], rows)
    return found


def measure_run(bench: Bench) -> dict:
    """A short run, killed after an epoch and resumed: images a second, recall, where it went on."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        command = [sys.executable, "-m", "distilclip.command.cli", "train", "--preset=t4"]
        command += [f"--data={bench.data}", f"--out={out}", f"--device={bench.device}"]
        command += SMALL_RUN if bench.small else ["--epochs=4"]
        command += [f"--text-model={bench.text if bench.small else 'minilm'}"]
        started, metrics = time.perf_counter(), out / "metrics.jsonl"

        def lines() -> list[dict]:
            return read_json_lines(metrics) if metrics.is_file() else []

        with (Path(place) / "said.txt").open("w") as said:
            first = subprocess.Popen(command, stdout=said, stderr=said)
            while first.poll() is None and not lines():
                time.sleep(0.02)
            first.kill()
            first.wait()
            killed_after = sum(line["kind"] == "epoch" for line in lines())
            done = subprocess.run([*command, "--resume"], stdout=said, stderr=said, check=False)
        if done.returncode:
            last = (Path(place) / "said.txt").read_text().strip().splitlines()[-1]
            return {"error": last.replace(place, "")[-300:]}
        found = lines()
    epochs = [line for line in found if line["kind"] == "epoch"]
    final = next(line for line in found if line["kind"] == "final")
    return {
        "data": Path(bench.data).name,
        "precision": epochs[-1]["precision"],
        "epochs": len(epochs),
        "epochs_before_the_kill": killed_after,
        "images_per_second": epochs[-1]["images_per_second"],
        "seconds_in_all": round(time.perf_counter() - started, 1),
        final["split"]: {k: round(v, 4) for k, v in final.items() if k.startswith("t2i")},
    }


def why(error: BaseException) -> str:
    """An error in a few words."""
    if isinstance(error, SystemExit):
        return "not installed here"
    if is_out_of_memory(error):
        return "out of memory"
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200]


PARTS = {
    "rates": measure_rates,
    "steps": measure_steps,
    "loop": measure_loop,
    "parts": measure_parts,
    "t4": measure_t4,
    "run": measure_run,
}


def describe(device: torch.device) -> str:
    """A device in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="emoji", help="a folder of photographs, for the run")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=9.0, help="no part begins later")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    given = sys.argv[1:] if given is None else given
    options = parser.parse_args(given)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA card here: --small --device cpu tries it out.", file=sys.stderr)
        return 1
    if options.out == RESULTS / "gpu.json" and (device.type != "cuda" or options.small):
        print("What is no card's measure needs another file: add --out.", file=sys.stderr)
        return 1
    shown = ["FOLDER" if os.sep in word and Path(word).is_dir() else word for word in given]
    results = {
        "command": shlex.join(["python", "benchmarks/gpu.py", *shown]).split(" --out")[0],
        "date": date.today().isoformat(),
        "device": describe(device),
        "commit": commit(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        sizes = SMALL if options.small else Sizes(batch_size=64)
        save_random_text(Path(place), sizes)
        bench = Bench(device, sizes, Path(place), options.data, options.small)
        for name in options.only:
            print(f"==> {name}", flush=True)
            if time.monotonic() - started > 60 * options.minutes:
                results[name] = {"error": "the time was over"}
            else:
                try:
                    results[name] = PARTS[name](bench)
                    if name == "steps" and "error" not in results.get("rates", {"error": ""}):
                        results["share"] = measure_share(bench, results["rates"], results["steps"])
                except Exception as error:
                    results[name] = {"error": why(error)}
            if "error" in results[name]:
                print(results[name]["error"], flush=True)
            results["minutes"] = round((time.monotonic() - started) / 60, 2)
            write_text(options.out, json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
