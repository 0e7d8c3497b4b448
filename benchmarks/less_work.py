"""Less work for the same result: what small pictures and left-out patches save, and what they cost.

    python benchmarks/less_work.py --threads 1 --device-name "one core of an Intel Xeon"
    python benchmarks/less_work.py --small

The recipe of the preset `cpu` on `emoji`. The whole step has every patch of every picture at full
size. Each saving is then trained twice for each seed: for as many epochs, so that both have seen
the same number of pictures, and for as many epochs as fit into the time that the whole took. The
savings are the preset's own, pictures at half their width until `full_size_start` (RECLIP, Li et
al., 2023), and half of the patches left out (FLIP, Li et al., 2023). Nothing else differs.

How strongly pictures are changed matters in a run that is shorter than the preset's. With
`--augmentation` all runs, the whole one included, have another strength than the preset's.

Seconds are those of the processors in the training loop and in what prepares its data, divided by
the threads, so that other work on the machine takes none of them. Each run is added to
distilclip/book/results/less_work.json when it is done and is not made again: the command can be
stopped at any time and given again, and two of them can work on different seeds.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path

import systems
import torch
from ablations import timed_epochs
from systems import save_random_text
from timing import arguments, commit, print_bars, print_table

from distilclip import TrainConfig, train
from distilclip.book.stored import RESULTS
from distilclip.storage.files import write_text

OUT = RESULTS / "less_work.json"
EPOCHS = 20
TINY = {"dim": 32, "depth": 1, "num_heads": 1, "image_size": 16, "patch_size": 4}
WHOLE = "the whole step"
EVERYTHING = {"patch_dropout": 0.0, "full_size_start": 0.0}
SAVINGS = {
    "small pictures first": {"full_size_start": TrainConfig().full_size_start},
    "half of the patches": {"patch_dropout": 0.5},
}
IMAGES, TIME = "equal pictures", "equal time"


def train_once(changes: dict, epochs: int, seed: int) -> dict:
    """A run of so many epochs: its pictures a second, its seconds, its recalls."""
    with tempfile.TemporaryDirectory() as folder, timed_epochs() as seconds:
        settings = {"epochs": epochs, "evaluations": 0, "seed": seed} | EVERYTHING | changes
        config = TrainConfig(data="emoji", preset="cpu", out=f"{folder}/run", **settings)
        result = train(config)
    steps = next(line["step"] for line in result.history[::-1] if line["kind"] == "epoch")
    return {
        "epochs": epochs,
        "seconds": round(sum(seconds), 1),
        "images_per_second": round(steps * config.batch_size / sum(seconds[1:]), 1),
        "metrics": result.metrics,
    }


def stored(file: Path) -> list[dict]:
    """The runs that are there."""
    return json.loads(file.read_text())["runs"] if file.is_file() else []


def kind(run: dict) -> tuple[float, str, str, int]:
    """What tells one run from another."""
    return run["augmentation"], run["step"], run["budget"], run["seed"]


def recall(run: dict) -> float:
    """R@10 in the held-out style, in per cent."""
    return 100 * run["metrics"]["test"]["t2i_r10"]


def summarise(runs: list[dict]) -> None:
    """The table, and for each saving its bars, over the seeds that have all of its runs."""
    keys = ("augmentation", "step", "budget", "seed", "epochs", "seconds", "images_per_second")
    print_table([*keys, "R@10 (%)"], [[*(str(r[k]) for k in keys), recall(r)] for r in runs])
    by = {kind(run): run for run in runs}
    for strength, name in dict.fromkeys((run["augmentation"], run["step"]) for run in runs):
        sets = [
            (by[strength, WHOLE, IMAGES, seed], by[strength, name, IMAGES, seed], by[longest])
            for longest in by
            for seed in longest[3:]
            if longest[:3] == (strength, name, TIME)
        ]
        if sets:
            speed = [few["images_per_second"] / all_["images_per_second"] for all_, few, _ in sets]
            gained = [recall(few) - recall(all_) for all_, few, _ in sets]
            later = [recall(longer) - recall(all_) for all_, _, longer in sets]
            print(f"{name}, augmentation {strength}, seeds: {len(sets)}")
            print_bars(
                {
                    "images/s over those of the whole step": (statistics.median(speed), 1.7),
                    "points of R@10 gained, equal pictures": (statistics.mean(gained), -1.0),
                    "points of R@10 gained, equal time": (statistics.mean(later), 0.0),
                }
            )


def measure(options: argparse.Namespace, sizes: dict, epochs: int) -> None:
    plan = [
        (WHOLE, IMAGES),
        *((name, budget) for name in options.only for budget in options.budgets),
    ]
    strength = options.augmentation
    for seed in options.seeds:
        for step, budget in plan:
            done = {kind(run): run for run in stored(options.out)}
            if (strength, step, budget, seed) in done:
                continue
            wanted = epochs
            if budget == TIME:
                whole = done[strength, WHOLE, IMAGES, seed]["seconds"]
                few = done[strength, step, IMAGES, seed]["seconds"]
                wanted = max(1, int(whole / few * epochs))
            print(f"{step}, {budget}, augmentation {strength}, seed {seed}", flush=True)
            changes = sizes | {"augmentation": strength} | SAVINGS.get(step, {})
            line = {
                "augmentation": strength,
                "step": step,
                "budget": budget,
                "seed": seed,
                **train_once(changes, wanted, seed),
                "device": options.device_name,
                "threads": options.threads,
                "torch": torch.__version__,
                "commit": commit(),
                "date": date.today().isoformat(),
                "command": shlex.join(["python", "benchmarks/less_work.py", *sys.argv[1:]]),
            }
            runs = [*stored(options.out), line]
            write_text(options.out, json.dumps({"runs": runs}, indent=1) + "\n")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(SAVINGS), default=list(SAVINGS))
    parser.add_argument("--budgets", nargs="+", choices=(IMAGES, TIME), default=[IMAGES, TIME])
    parser.add_argument("--augmentation", type=float, default=TrainConfig().augmentation)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as place:
        if options.small:
            save_random_text(Path(place), systems.SMALL)
            options.out = options.out or Path(place) / "runs.json"
            measure(options, TINY | {"text_model": place}, 1)
        else:
            options.out = options.out or OUT
            measure(options, {}, EPOCHS)
        summarise(stored(options.out))


if __name__ == "__main__":
    main()
