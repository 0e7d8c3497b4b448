"""Recipes on photographs, small: how much a recipe finds after equally many pictures seen.

    python benchmarks/photographs.py FOLDER --threads 1 --device-name "one core of ..."
    python benchmarks/photographs.py FOLDER --small

FOLDER holds photographs with captions, Flickr8k for instance (any source of `load_pairs`). Each
recipe keeps all of its preset but the sizes: pictures of 64 pixels in patches of 8, a ViT of width
192 and 6 layers, MiniLM in the place of DistilBERT, few epochs. So a run takes minutes on a core
instead of an hour on a T4, and says which of two recipes is ahead there and then, not what the
preset itself reaches. Batch size and learning rates are the presets' own.

Each run is added to distilclip/book/results/photographs_cpu.json when it is done and is not made
again: the command can be stopped at any time and given again. Runs of other lengths are kept apart.
R@10 is that of the validation split, text to image; the pictures seen are those of all epochs.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from timing import commit, print_bars, print_table

from distilclip import TrainConfig, train
from distilclip.book.stored import RESULTS
from distilclip.storage.files import write_text

OUT = RESULTS / "photographs_cpu.json"
SIZES = {"image_size": 64, "patch_size": 8, "dim": 192, "depth": 6, "num_heads": 3}
TINY = {"image_size": 16, "patch_size": 8, "dim": 32, "depth": 1, "num_heads": 2, "batch_size": 8}
NEW, DRAWINGS, ORIGINAL = "t4", "t4-drawings", "original"
RECIPES = {  # what each changes in its preset, besides the sizes
    ORIGINAL: {"preset": "original"},
    DRAWINGS: {"preset": "t4-drawings"},
    NEW: {"preset": "t4"},
    "t4-drawings, text from the start": {"preset": "t4-drawings", "text_start": 0.0},
    "t4, all patches": {"preset": "t4", "patch_dropout": 0.0},
    "t4, two captions a picture": {"preset": "t4", "captions_per_picture": 2},
    "t4, crops from 0.25": {"preset": "t4", "crop_scale": 0.25},
    "t4, no crops": {"preset": "t4", "crop_scale": 1.0},
    "t4, average of the weights": {"preset": "t4", "ema": 0.99},
    "t4, text_lr 2e-4": {"preset": "t4", "text_lr": 2e-4},
    "t4, batches of 128": {"preset": "t4", "batch_size": 128},
    "t4, text_lr 3e-5": {"preset": "t4", "text_lr": 3e-5},
    "t4, text_lr 3e-5, all patches": {"preset": "t4", "text_lr": 3e-5, "patch_dropout": 0.0},
    "t4, text_lr 3e-5, lr 1e-3": {"preset": "t4", "text_lr": 3e-5, "lr": 1e-3},
    "t4, text_lr 3e-5, five captions a picture": {
        "preset": "t4",
        "text_lr": 3e-5,
        "captions_per_picture": 5,
    },
}


def train_once(data: str, changes: dict, epochs: int, seed: int, sizes: dict) -> dict:
    """A run of a recipe: its recalls on the validation split, its pictures and seconds."""
    settings = {"text_model": "minilm", "epochs": epochs, "evaluations": 0, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        settings |= {"device": "cpu", "data": data, "out": f"{folder}/run"}
        started = time.perf_counter()
        result = train(TrainConfig(**settings | sizes | changes))
    lines = [line for line in result.history if line["kind"] == "epoch"]
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "pictures_seen": lines[-1]["step"] * result_batch(changes, sizes),
        "precision": lines[-1]["precision"],
        "loss": round(lines[-1]["loss"], 4),
        "metrics": result.metrics["validation"],
    }


def result_batch(changes: dict, sizes: dict) -> int:
    """The pictures in a step of a recipe."""
    return TrainConfig(**({"text_model": "minilm"} | sizes | changes)).batch_size


def stored(file: Path) -> list[dict]:
    """The runs that are there."""
    return json.loads(file.read_text())["runs"] if file.is_file() else []


def recalls(runs: list[dict], recipe: str) -> list[float]:
    """R@10 of a recipe's seeds, in per cent."""
    found = sorted(
        (run["seed"], run["metrics"]["t2i_r10"]) for run in runs if run["recipe"] == recipe
    )
    return [100 * value for _, value in found]


def report(runs: list[dict]) -> dict[str, tuple[float, float]]:
    """Print a row a recipe -> the bars: a ratio, and what is asked of it, by name."""
    rows, means = [], {}
    for recipe in RECIPES:
        if values := recalls(runs, recipe):
            means[recipe] = statistics.mean(values)
            rows.append([recipe, f"{means[recipe]:.1f}", ", ".join(f"{v:.1f}" for v in values)])
    print_table(["recipe", "R@10, %", "seeds"], rows)
    asked = (("t4 over t4-drawings", DRAWINGS, 1.3), ("t4 over original", ORIGINAL, 2.0))
    return {
        name: (means[NEW] / means[other], goal)
        for name, other, goal in asked
        if NEW in means and other in means
    }


def measure(options: argparse.Namespace, sizes: dict) -> list[dict]:
    """Make the runs that are asked for and not there, and write each down."""
    for seed in options.seeds:
        for recipe in options.only or RECIPES:
            runs = stored(options.out)
            wanted = {"recipe": recipe, "seed": seed, "epochs": options.epochs}
            if any(wanted.items() <= run.items() for run in runs):
                continue
            run = train_once(options.data, RECIPES[recipe], options.epochs, seed, sizes)
            about = wanted | {"settings": RECIPES[recipe] | sizes, "date": date.today().isoformat()}
            about |= {"device": options.device_name, "threads": options.threads}
            about |= {"torch": torch.__version__, "commit": commit()}
            words = ["python", "benchmarks/photographs.py", "FOLDER", *options.shown]
            about["command"] = shlex.join(words)
            whole = {"runs": [*stored(options.out), about | run]}
            write_text(options.out, json.dumps(whole, indent=1) + "\n")
    return [run for run in stored(options.out) if run["epochs"] == options.epochs]


def main(given: list[str] | None = None) -> None:
    given = sys.argv[1:] if given is None else given
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="photographs with captions")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), help="these recipes")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device-name", default="", help="what the results say of the machine")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--small", action="store_true", help="a tiny model, for a trial")
    options = parser.parse_args(given)
    hidden = (options.data, "--out", str(options.out))
    options.shown = [word for word in given if word not in hidden]
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as place:
        options.out = options.out or (Path(place) / "runs.json" if options.small else OUT)
        print_bars(report(measure(options, TINY if options.small else SIZES)))


if __name__ == "__main__":
    main()
