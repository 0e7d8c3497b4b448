"""How long until an unseen style is found: our recipe and those of peers, with the same encoders.

    python benchmarks/time_to_recall.py --threads 1 --device-name "one core of an Intel Xeon"

All train the small model of the preset `cpu`, a ViT and MiniLM, on `emoji` in our loop. First,
how many seconds of training does our recipe need until text to image R@10 among the drawings of
the held-out style reaches 40 %? A learning rate that falls to zero must know where it ends, so
every budget is a run of its own, a quarter longer than the one before. Then each peer's recipe
gets twice that time. Does it get there? Three seeds, and for each of them its own time.

Ours is the preset's with what fits a run of a tenth of its length, chosen with another style held
out (Noto): the last two layers of the text encoder learn after two fifths of the run, on what the
frozen ones below gave once; the captions' projection learns nearly as fast as the ViT; and the
augmentation is weak.

- open_clip: the defaults of its training script. Everything learns at 5e-4, weight decay 0.2, no
  clipping of gradients, the first token as the image's, no mask of positives, crops of 90 to 100 %
  of a picture and no other augmentation. Its warm-up of 10,000 steps would be longer than the
  run: it gets a tenth of the run.
- transformers: the command that its contrastive example script documents. Everything learns at
  5e-5, weight decay 0.1, no augmentation, gradients clipped.

Seconds are those of the processors in the training loop and in what prepares its data, divided by
the threads, so that other work on the machine takes none of them.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import systems
import torch
from ablations import timed_epochs
from systems import save_random_text
from timing import arguments, print_bars, print_table, run
from torch import Tensor

import distilclip.training as training
from distilclip import TrainConfig, train
from distilclip.data import augment

GOAL = 0.40
OURS = "DistilCLIP, preset cpu for a short run"
FIRST_EPOCHS = 8
SHORT = {
    "augmentation": 0.1,
    "text_lr": 1e-3,
    "text_layers": 2,
    "text_start": 0.4,
    "text_projection_lr": 1e-3,
    "sort_captions": True,
}
PLAIN = {"image_pool": "first", "full_size_start": 0.0, "mask_positives": False}
PEERS = {
    "open_clip's recipe": PLAIN
    | {
        "lr": 5e-4,
        "text_lr": 5e-4,
        "text_projection_lr": 5e-4,
        "weight_decay": 0.2,
        "beta2": 0.98,
        "warmup": 0.1,
        "clip_gradient": 0.0,
        "augmentation": 0.1,  # any but 0: `crops` takes its place
    },
    "transformers' recipe": PLAIN
    | {
        "lr": 5e-5,
        "text_lr": 5e-5,
        "text_projection_lr": 5e-5,
        "weight_decay": 0.1,
        "beta2": 0.999,
        "warmup": 0.0,
        "augmentation": 0.0,
    },
}
SMALL = {"dim": 32, "depth": 1, "num_heads": 1, "image_size": 16, "patch_size": 8}


def crops(pixels: Tensor, flip: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Views of 90 to 100 % of each picture, in the place of `distilclip.training.views`."""
    if not config.augmentation:
        return pixels
    return augment(pixels, generator, shift=0.025, scale=0.05, turn=0, colour=0, grey=0)


def train_once(settings: dict, epochs: int, seed: int) -> dict[str, float]:
    """A run of so many epochs: its seconds, and its recall in the held-out style."""
    with tempfile.TemporaryDirectory() as folder, timed_epochs() as seconds:
        settings = {"epochs": epochs, "seed": seed, "evaluations": 0} | settings
        recall = train(TrainConfig(out=f"{folder}/run", **settings)).metrics["test"]["t2i_r10"]
    took = round(sum(seconds), 1)
    line = {"seed": seed, "epochs": epochs, "seconds": took, "t2i_r10": round(recall, 4)}
    print(line, flush=True)
    return line


def measure(options: argparse.Namespace) -> dict:
    if not options.small:
        return compare({}, GOAL, FIRST_EPOCHS, options.seeds)
    with tempfile.TemporaryDirectory() as place:
        save_random_text(Path(place), replace(systems.SMALL, text_depth=2))
        return compare(SMALL | {"text_model": place}, goal=0.001, epochs=1, seeds=options.seeds[:1])


def compare(sizes: dict, goal: float, epochs: int, seeds: Sequence[int]) -> dict:
    """With each seed: raise our epochs until the goal is reached; a peer gets twice that time."""
    runs = {name: [] for name in (OURS, *PEERS)}
    views = patch.object(training, "views", crops)
    for seed in seeds:
        time_needed = search(sizes | SHORT, goal, epochs, seed, runs[OURS])
        for name, recipe in PEERS.items():
            with views:
                one = train_once(sizes | recipe, 1, seed)  # how long an epoch takes
                fitting = max(1, round(2 * time_needed / one["seconds"]))
                runs[name] += [one, train_once(sizes | recipe, fitting, seed)]
    return summarise(goal, runs)


def summarise(goal: float, runs: dict[str, list[dict]]) -> dict:
    """The table of all runs, and what each peer reaches, in the mean of the seeds' last runs."""
    rows = [[name, *line.values()] for name, lines in runs.items() for line in lines]
    print_table(["recipe", "seed", "epochs", "seconds", "R@10"], rows)
    margins = {}
    for name in PEERS:
        last = {run["seed"]: run["t2i_r10"] for run in runs[name]}
        reached = max(statistics.mean(last.values()), 1e-9)
        margins[f"{goal:.0%} over what {name} reaches in twice our time"] = (goal / reached, 1.0)
    return {"goal": goal, "runs": runs, "bars": print_bars(margins)}


def search(recipe: dict, goal: float, epochs: int, seed: int, runs: list[dict]) -> float:
    """Runs of more and more epochs until one reaches the goal; the seconds of that one."""
    while True:
        runs.append(train_once(recipe, epochs, seed))
        if runs[-1]["t2i_r10"] >= goal:
            return runs[-1]["seconds"]
        epochs = max(epochs + 1, epochs * 5 // 4)


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    run(measure, __doc__, parser)
