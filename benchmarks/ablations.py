"""What each choice of `t4-drawings` is worth: its recipe with one choice taken back at a time.

    python benchmarks/ablations.py --device-name "two cores of an Intel Xeon"
    python benchmarks/ablations.py --seconds 300 --seeds 0 1 2 --only "as it is" "original recipe"

Every run trains the same small model (the preset `cpu`'s shape, MiniLM as text encoder) on
`emoji`; only the recipe differs. By default all runs take the same number of steps; with
`--seconds` each one gets as many epochs as fit into that time, timed on two. Seconds are those of
the processors in the training loop and in what prepares its data, divided by the threads: other
work on the machine takes none of them. The recalls of every run go to
distilclip/book/results/ablations.json at once, with seed, split, device, date and command: a run
that is there already is not made again, so the command can be stopped at any time and given again.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from unittest.mock import patch

import torch
from timing import commit

import distilclip.training as training
from distilclip import TrainConfig, train
from distilclip.book.stored import RESULTS
from distilclip.runs.settings import DEFAULTS, PRESETS
from distilclip.storage.files import write_text

SHAPE = ("text_model", "image_size", "patch_size", "dim", "depth", "num_heads")
SMALL = {name: PRESETS["cpu"][name] for name in SHAPE} | {"batch_size": 64}
# What a run is made of besides its recipe: its place, its data, its machine, its length.
NO_RECIPE = ("data", "out", "preset", "resume", "seed", "device", "precision", "compile", "cache")
NO_RECIPE += ("skip_broken", "vision_model", "epochs", "evaluations", "tensorboard")
# The recipe of the preset "original", its flaws in the model included, at the same size.
ORIGINAL = {
    name: value
    for name, value in (DEFAULTS | PRESETS["original"]).items()
    if name not in SMALL and name not in NO_RECIPE
} | {"text_projection_lr": PRESETS["original"]["lr"]}


def variants() -> dict[str, dict]:
    """Name to the settings that differ from the recipe as it is."""
    recipe = TrainConfig(preset="t4-drawings")
    return {
        "as it is": {},
        "original recipe": ORIGINAL,
        "one rate, the text's": {"lr": recipe.text_lr, "text_projection_lr": recipe.text_lr},
        "one rate, the image's": {"text_lr": recipe.lr, "text_projection_lr": recipe.lr},
        "text encoder locked": {"text_lr": 0.0},
        "text learns from the start": {"text_start": 0.0},
        "no warm-up": {"warmup": 0.0},
        "no weight decay": {"weight_decay": 0.0},
        "no clipping": {"clip_gradient": 0.0},
        "beta2 0.999": {"beta2": 0.999},
        "no augmentation": {"augmentation": 0.0, "flip": False},
        "twice the augmentation": {"augmentation": 2 * recipe.augmentation},
        "no mirroring": {"flip": False},
        "no positives mask": {"mask_positives": False},
        "fixed temperature": {"learn_temperature": False},
        "captions of any length": {"sort_captions": not recipe.sort_captions},
        "moving average of weights": {"ema": 0.0 if recipe.ema else 0.995},
        "all of the patches": {"patch_dropout": 0.0},
        "small pictures first": {"patch_dropout": 0.0, "full_size_start": 0.6},
        "first token, not the mean": {"image_pool": "first"},
        "projection at the image's rate": {"text_projection_lr": recipe.lr},
    }


def configure(changes: dict, seed: int, epochs: int, out: str) -> TrainConfig:
    """The configuration of one run; nothing is evaluated on the way."""
    settings = SMALL | {"epochs": epochs, "evaluations": 0, "seed": seed} | changes
    return TrainConfig(data="emoji", preset="t4-drawings", out=out, **settings)


@contextlib.contextmanager
def timed_epochs() -> Iterator[list[float]]:
    """The processors' seconds of training in the block, a thread's share.

    First those of preparing the data, the features of captions included where they are computed
    ahead, then those of each epoch.
    """
    seconds = []

    def timed(function: Callable) -> Callable:
        def call(*arguments):
            start = time.process_time()
            result = function(*arguments)
            seconds.append((time.process_time() - start) / torch.get_num_threads())
            return result

        return call

    with contextlib.ExitStack() as stack:
        for name in ("prepare_data", "train_epoch"):
            stack.enter_context(patch.object(training, name, timed(getattr(training, name))))
        yield seconds


def measure(changes: dict, seed: int, epochs: int) -> dict:
    """Train once: the recalls of the splits, the seconds of training, the steps."""
    with tempfile.TemporaryDirectory() as folder, timed_epochs() as seconds:
        result = train(configure(changes, seed, epochs, f"{folder}/run"))
    lines = [line for line in result.history if line["kind"] == "epoch"]
    return {
        "epochs": epochs,
        "steps": lines[-1]["step"],
        "seconds": round(sum(seconds), 1),
        "preparing": round(seconds[0], 1),
        "precision": lines[-1]["precision"],
        "loss": round(lines[-1]["loss"], 4),
        "metrics": result.metrics,
    }


def fitting_epochs(changes: dict, seconds: float) -> int:
    """How many epochs of this recipe fit into a time: two are made to see.

    Two, because the first half of a run may cost less than the second.
    """
    short = measure(changes, 0, 2)
    epoch = (short["seconds"] - short["preparing"]) / short["epochs"]
    return max(1, int((seconds - short["preparing"]) / epoch))


def device_name(given: str) -> str:
    """The device in words."""
    if given:
        return given
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} threads of a {platform.machine()} CPU"


def differs(changes: dict, epochs: int) -> bool:
    """Whether a variant is another recipe than the preset's own."""
    base = dataclasses.asdict(configure({}, 0, epochs, ""))
    return dataclasses.asdict(configure(changes, 0, epochs, "")) != base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="equal steps: so many epochs")
    parser.add_argument("--seconds", type=float, help="equal time instead: so long a training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(variants()))
    parser.add_argument("--device-name", default="", help="the machine, in words")
    parser.add_argument("--out", type=Path, default=RESULTS / "ablations.json")
    options = parser.parse_args()
    base = dataclasses.asdict(configure({}, 0, 1, ""))
    base = {k: v for k, v in base.items() if k not in ("seed", "epochs", "out")}
    base["vision_model"] = base["vision_model"] or None  # as the stored results have it
    results = {"base": base, "runs": []}
    if options.out.is_file():
        results = json.loads(options.out.read_text())
        if results["base"] != base:
            raise SystemExit(
                f"{options.out} was measured with another recipe: remove it, or give --out."
            )
    budget = f"{options.seconds:g} seconds" if options.seconds else f"{options.epochs} epochs"
    for seed in options.seeds:
        for name, changes in variants().items():
            if options.only and name not in options.only:
                continue
            if changes and not differs(changes, options.epochs):
                print(f"{name}: that is the recipe as it is")
                continue
            done = [(r["variant"], r["seed"], r["budget"], r["changes"]) for r in results["runs"]]
            if (name, seed, budget, changes) in done:
                continue
            print(f"{name}, seed {seed}, {budget}", flush=True)
            epochs = options.epochs
            if options.seconds:
                epochs = fitting_epochs(changes, options.seconds)
            started = time.strftime("%H:%M")
            line = {
                "variant": name,
                "changes": changes,
                "budget": budget,
                "seed": seed,
                "data": "emoji",
                **measure(changes, seed, epochs),
                "device": device_name(options.device_name),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "commit": commit(),
                "date": f"{date.today().isoformat()} {started}",
                "command": shlex.join(["python", "benchmarks/ablations.py", *sys.argv[1:]]),
            }
            results["runs"].append(line)
            write_text(options.out, json.dumps(results, indent=1))
            for split, metrics in line["metrics"].items():
                found = {k: round(100 * v, 1) for k, v in metrics.items() if k.startswith("t2i")}
                print(f"  {split}: {found}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
