"""A ViT beside a CNN of as many parameters: who needs how many drawings?

    python benchmarks/inductive_bias.py --threads 1 --device-name "one core of two (AMD EPYC)"
    python benchmarks/inductive_bias.py --small

Both learn to name the group of a drawing ("food-drink", "animals-nature", ...; nine of them) from
200, from 2,000 and from all training drawings of `emoji`. Everything but the network is the same:
pictures, augmentation, AdamW, schedule, batches, steps. A seed decides which drawings are learned
from, the first weights and the order.

First each network looks for its learning rate among four, on 2,000 drawings with a seed that is
used for nothing else, by its accuracy on `validation` (drawings of known styles). Then come the
seeds, whose accuracy is taken on `test` (a style that no training drawing has) and on
`test_concepts` (that style, and concepts that no training drawing shows). In the part "shuffled"
the 16 squares of every picture are put in other places, the same ones in all pictures: what was
near is near no longer, and nothing is lost that one could not learn to put back.

Each run is added to distilclip/book/results/inductive_bias.json when it is done and is not made
again: the command can be stopped at any time and given again. Seconds are the processor's.
"""

import argparse
import json
import math
import shlex
import statistics
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from timing import commit, print_table
from torch import Tensor, nn

from distilclip import ViT, ViTConfig, load_pairs
from distilclip.book.stored import RESULTS
from distilclip.data import augment, decode_pixels, seeded
from distilclip.storage.files import write_text
from distilclip.vit import evaluating, pool_image

OUT = RESULTS / "inductive_bias.json"
SIZE, PATCH, BATCH, STEPS = 32, 8, 32, 1600
SHAPE = {"image_size": SIZE, "patch_size": PATCH, "dim": 64, "depth": 3, "num_heads": 4}
CHANNELS = 24
VIEWS = {"shift": 0.05, "scale": 0.125, "turn": 7.5, "colour": 0.2, "grey": 0.05, "flip": True}
SEARCH_SEED, SEARCHED = 100, 2000
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
PICTURES = (200, 2000, None)  # None: all of them
SPLITS = ("validation", "test", "test_concepts")


def silent_head(dim: int, classes: int) -> nn.Linear:
    """A linear layer that begins with the same score for every class, as in chapter 3."""
    head = nn.Linear(dim, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


class PatchClassifier(nn.Module):
    """The book's ViT, the mean of its patches and a linear head: (B, 3, S, S) -> (B, classes)."""

    def __init__(self, classes: int):
        super().__init__()
        self.vit = ViT(ViTConfig(**SHAPE))
        self.head = silent_head(SHAPE["dim"], classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(pool_image(self.vit(pixel_values), "mean"))


def convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """3 x 3 pixels at a time, normalised over the batch, then a ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def small_cnn(classes: int, channels: int = CHANNELS) -> nn.Sequential:
    """Five convolutions, the mean over all places, a linear head: (B, 3, S, S) -> (B, classes)."""
    widths = (3, channels, 2 * channels, 2 * channels, 4 * channels, 4 * channels)
    strides = (2, 2, 1, 2, 1)
    layers = [convolution(*sizes) for sizes in zip(widths[:-1], widths[1:], strides, strict=True)]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), silent_head(widths[-1], classes)]
    return nn.Sequential(*layers, *pool)


MODELS = {"ViT": PatchClassifier, "CNN": small_cnn}


def load_drawings(limit: int | None) -> tuple[dict[str, tuple[Tensor, Tensor]], list[str]]:
    """Split -> pixels (N, 3, S, S), uint8, and the number of each one's group; and the groups.

    With a `limit`, that many of each split: to see whether all of it runs.
    """
    splits = load_pairs("emoji")
    groups = sorted(set(splits["train"]["group"]))
    drawings = {}
    for split in ("train", *SPLITS):
        rows = splits[split]
        if limit:
            rows = rows.shuffle(seed=0).select(range(min(limit, len(rows))))
        labels = torch.tensor([groups.index(group) for group in rows["group"]])
        drawings[split] = decode_pixels(rows, SIZE, progress=False), labels
    return drawings, groups


def shuffle_squares(images: Tensor) -> Tensor:
    """Put the squares of PATCH pixels in other places, the same in every picture."""
    side = images.shape[-1] // PATCH
    squares = rearrange(images, "b c (i p) (j q) -> b (i j) c p q", p=PATCH, q=PATCH)
    order = torch.randperm(side * side, generator=seeded(0))
    return rearrange(squares[:, order], "b (i j) c p q -> b c (i p) (j q)", i=side)


def seen(images: Tensor, is_shuffled: bool) -> Tensor:
    """Pixels in [0, 1] as a network sees them."""
    return 2 * (shuffle_squares(images) if is_shuffled else images) - 1


@torch.no_grad()
def accuracy(model: nn.Module, pixels: Tensor, labels: Tensor, is_shuffled: bool) -> float:
    """The share of drawings whose group comes first."""
    right = 0
    with evaluating(model):
        for some, groups in zip(pixels.split(256), labels.split(256), strict=True):
            predicted = model(seen(some / 255, is_shuffled)).argmax(dim=1)
            right += int((predicted == groups).sum())
    return right / len(labels)


def learn(
    name: str,
    drawings: dict[str, tuple[Tensor, Tensor]],
    classes: int,
    pictures: int | None,
    lr: float,
    seed: int,
    steps: int,
    is_shuffled: bool,
) -> dict:
    """Train one network once -> its accuracies, its parameters, its seconds."""
    torch.manual_seed(seed)
    model = MODELS[name](classes)
    generator, used = seeded(seed), time.process_time()
    pixels, labels = drawings["train"]
    chosen = torch.randperm(len(labels), generator=generator)[:pictures]
    pixels, labels = pixels[chosen], labels[chosen]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    losses, order = [], torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        while len(order) < BATCH:
            order = torch.cat([order, torch.randperm(len(labels), generator=generator)])
        rows, order = order[:BATCH], order[BATCH:]
        views = augment(pixels[rows], generator, **VIEWS)
        loss = F.cross_entropy(model(seen(views, is_shuffled)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    training = accuracy(model, pixels[:2000], labels[:2000], is_shuffled)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "epochs": round(steps * BATCH / len(labels), 1),
        "loss": round(statistics.mean(losses[-50:]), 4),
        "accuracy": {"train": round(training, 4)}
        | {split: round(accuracy(model, *drawings[split], is_shuffled), 4) for split in SPLITS},
        "seconds": round(time.process_time() - used, 1),
    }


def stored(file: Path) -> list[dict]:
    """The runs that are there."""
    return json.loads(file.read_text())["runs"] if file.is_file() else []


def made(runs: list[dict], part: str, name: str, **which: object) -> list[dict]:
    """Those of a part and a network in which `which` stands."""
    return [
        run
        for run in runs
        if (run["part"], run["model"]) == (part, name)
        and all(run[key] == value for key, value in which.items())
    ]


def best_rate(runs: list[dict], name: str) -> float:
    """The learning rate with which a network did best on `validation`."""
    found = made(runs, "search", name)
    return max(found, key=lambda run: run["accuracy"]["validation"])["lr"]


def measure(options: argparse.Namespace) -> list[dict]:
    """Make the runs that are asked for and not there, and write each down."""
    drawings, groups = load_drawings(options.limit)
    most = {  # what the best answer that looks at no picture would reach
        split: max(Counter(labels.tolist()).values()) / len(labels)
        for split, (_, labels) in drawings.items()
    }
    tasks = {"classes": len(groups), "most_frequent": {k: round(v, 4) for k, v in most.items()}}
    tasks["drawings"] = {split: len(labels) for split, (_, labels) in drawings.items()}

    def make(part: str, name: str, pictures: int | None, lr: float, seed: int) -> None:
        pictures = min(pictures or math.inf, len(drawings["train"][1]))
        which = {"pictures": pictures, "lr": lr, "seed": seed, "steps": options.steps}
        if made(stored(options.out), part, name, **which):
            return
        print(f"{part}: {name}, {pictures} drawings, rate {lr:g}, seed {seed}", flush=True)
        found = learn(
            name, drawings, len(groups), pictures, lr, seed, options.steps, part == "shuffled"
        )
        about = {
            "recipe": f"{part}: {name}, {pictures} drawings, rate {lr:g}",
            "part": part,
            "model": name,
        }
        run = about | which | found
        run |= {
            "device": options.device_name,
            "threads": options.threads,
            "torch": torch.__version__,
            "commit": commit(),
            "date": date.today().isoformat(),
            "command": options.shown,
        }
        results = {"task": tasks, "runs": [*stored(options.out), run]}
        write_text(options.out, json.dumps(results, indent=1) + "\n")
        print(f"  {run['accuracy']}, {run['seconds']} s", flush=True)

    for lr in RATES:
        for name in MODELS:
            make("search", name, SEARCHED, lr, SEARCH_SEED)
    rates = {name: best_rate(stored(options.out), name) for name in MODELS}
    for part, sizes in (("drawings", PICTURES), ("shuffled", (SEARCHED,))):
        for seed in options.seeds:
            for pictures in sizes:
                for name in MODELS:
                    make(part, name, pictures, rates[name], seed)
    return stored(options.out)


def report(runs: list[dict]) -> None:
    """Print a row a part, a network and a number of drawings: the mean and each seed, in %."""
    rows = []
    keys = dict.fromkeys((run["part"], run["pictures"], run["model"], run["lr"]) for run in runs)
    for part, pictures, name, lr in sorted(keys):
        some = made(runs, part, name, pictures=pictures, lr=lr)
        row = [f"{part}, {pictures} drawings", name, f"{lr:g}"]
        for split in ("train", *SPLITS):
            found = [100 * run["accuracy"][split] for run in some]
            each = " ".join(f"{value:.1f}" for value in found)
            row.append(f"{statistics.mean(found):.1f} ({each})")
        rows.append([*row, statistics.median(run["seconds"] for run in some)])
    print_table(["what", "network", "rate", "train", *SPLITS, "seconds"], rows)


def main(given: list[str] | None = None) -> None:
    given = sys.argv[1:] if given is None else given
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS, help="of every run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device-name", default="", help="the machine, in words")
    parser.add_argument("--small", action="store_true", help="see whether it runs, soon")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(given)
    others = [word for word in given if word not in ("--out", str(options.out))]
    options.shown = shlex.join(["python", "benchmarks/inductive_bias.py", *others])
    options.limit = 240 if options.small else None
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as place:
        options.out = options.out or (Path(place) / "runs.json" if options.small else OUT)
        if options.small:
            options.steps = 2
        report(measure(options))


if __name__ == "__main__":
    main()
