"""A model that goes on, beside one from scratch: what a folder of one's own pictures gains.

    python benchmarks/tuning.py FOLDER --kind photographs --device-name "two cores of ..."
    python benchmarks/tuning.py FOLDER --kind stamps --folds 5
    python benchmarks/tuning.py FOLDER --small

FOLDER holds pictures with captions (any source of `load_pairs`). `--pictures` of them are learned
from, `--held-out` others are searched, with every caption as a query: those of the source's own
validation split, or of its train split where that has too few. With `--choosing` those are put
aside, and as many of the pictures to learn from are searched instead: a recipe is chosen there, and
what it gains is told by pictures that had no part in the choice. With `--folds 5` every picture is
held out once: each run learns from four fifths of all the source's pictures and searches the rest,
with a seed of its own, because a recall on few pictures is a matter of luck. Three ways to a model
are compared: the bundled one as it is, one from scratch by the preset `cpu` with the batch size of
the README's older recipe, and the bundled one that goes on, by the preset `tune` and by what
`RECIPES` changes in it. Of those that start from the bundled one it is measured, too, how well they
still find the drawings of its own test split ("kept").

Each run is added to distilclip/book/results/tuning.json when it is done and is not made again: the
command can be stopped at any time and given again. Seconds are those of the processors in a whole
run: pictures decoded, captions read, steps, recalls. Without `--only`, the first three are made.
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

import datasets
import torch
from timing import commit, print_bars, print_table

from distilclip import DistilCLIP, TrainConfig, load_pairs, train
from distilclip.book.stored import RESULTS
from distilclip.search import evaluate_retrieval
from distilclip.storage.files import write_text

OUT = RESULTS / "tuning.json"
BUNDLED, SCRATCH, TUNE = "the bundled model as it is", "from scratch", "tune"
WATCHED = 10  # pictures that a run measures itself on; nothing is chosen by them
TINY = {"epochs": 1, "batch_size": 8, "evaluations": 0}
# As many drawings as pictures beside them, in about three quarters of the time
REPLAY = {"preset": "tune", "replay": 1.0, "patch_dropout": 0.5, "epochs": 25, "batch_size": 128}
RECIPES = {  # what each changes in its preset
    SCRATCH: {"preset": "cpu", "batch_size": 32},
    "from scratch, half as long": {"preset": "cpu", "batch_size": 32, "epochs": 60},
    TUNE: {"preset": "tune"},
    "tune, replay": REPLAY,
    "tune, replay, 28 epochs": REPLAY | {"epochs": 28},
    "tune, replay, 28 epochs, batches of 64": REPLAY | {"epochs": 28, "batch_size": 64},
    "tune, replay, 40 epochs": REPLAY | {"epochs": 40},
    "tune, replay, 30 epochs, patch dropout 0.25": REPLAY | {"epochs": 30, "patch_dropout": 0.25},
    "tune, replay, 20 epochs, every patch": REPLAY | {"epochs": 20, "patch_dropout": 0.0},
    "tune, patch dropout 0.25": {"preset": "tune", "patch_dropout": 0.25},
    "tune, lr 1e-4, 20 epochs": {"preset": "tune", "lr": 1e-4, "epochs": 20},
    "tune, lr 3e-4, 20 epochs": {"preset": "tune", "lr": 3e-4, "epochs": 20},
    "tune, lr 1e-3, 20 epochs": {"preset": "tune", "lr": 1e-3, "epochs": 20},
    "tune, 64 pixels, 20 epochs": {"preset": "tune", "image_size": 64, "epochs": 20},
    "tune, text projection at 5e-5": {"preset": "tune", "text_projection_lr": 5e-5},
    "tune, crops from 0.8": {"preset": "tune", "crop_scale": 0.8},
    "tune, no mirroring": {"preset": "tune", "flip": False},
    "tune, augmentation 0.25": {"preset": "tune", "augmentation": 0.25},
    "tune, crops from 0.3": {"preset": "tune", "crop_scale": 0.3},
    "tune, dropout 0.1": {"preset": "tune", "dropout": 0.1},
    "tune, 25 epochs, batches of 32": {"preset": "tune", "epochs": 25, "batch_size": 32},
    "tune, no crops, augmentation 0.25": {
        "preset": "tune",
        "crop_scale": 1.0,
        "augmentation": 0.25,
    },
}


def cut(learned: datasets.Dataset, held_out: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Put the last pictures aside, so many and those that a run watches."""
    first = max(1, len(learned) - held_out - WATCHED)
    return learned.select(range(first)), learned.select(range(first, len(learned)))


def choose(data: str, pictures: int, held_out: int, choosing: bool = False) -> datasets.DatasetDict:
    """So many pictures to learn from and so many others, always the same ones."""
    splits = load_pairs(data)
    learned, others = splits["train"].shuffle(seed=0), splits["validation"].shuffle(seed=0)
    if len(others) < held_out + WATCHED:
        learned, others = cut(learned, held_out)
    learned = learned.select(range(min(pictures, len(learned))))
    if choosing:
        learned, others = cut(learned, held_out)
    chosen = {
        "train": learned,
        "validation": others.select(range(WATCHED)),
        "test": others.select(range(WATCHED, WATCHED + held_out)),
    }
    return datasets.DatasetDict(**chosen)


def fold_of(data: str, number: int, folds: int) -> datasets.DatasetDict:
    """One of so many equal parts of all pictures to search, and the others to learn from."""
    everything = datasets.concatenate_datasets(list(load_pairs(data).values())).shuffle(seed=0)
    parts = [everything.shard(folds, part) for part in range(folds)]
    searched = parts.pop(number)
    learned = datasets.concatenate_datasets(parts).shuffle(seed=number)
    chosen = {
        "train": learned.select(range(WATCHED, len(learned))),
        "validation": learned.select(range(WATCHED)),
        "test": searched,
    }
    return datasets.DatasetDict(**chosen)


def measure_once(rows: datasets.DatasetDict, recipe: str, seed: int, tiny: dict) -> dict:
    """Recalls on the held-out pictures by one of the ways, and what it took."""
    started, used = time.perf_counter(), time.process_time()
    if recipe == BUNDLED:
        model, settings, precision = DistilCLIP.from_pretrained("emoji"), {}, "float32"
        metrics = evaluate_retrieval(model, rows["test"])
    else:
        settings = {"evaluations": 0, "seed": seed, "device": "cpu"} | RECIPES[recipe] | tiny
        with tempfile.TemporaryDirectory() as folder:
            result = train(TrainConfig(out=f"{folder}/run", **settings), data=rows)
        model, metrics = result.model, result.metrics["test"]
        precision = next(line["precision"] for line in result.history if line["kind"] == "epoch")
    run = {
        "recipe": recipe,
        "seed": seed,
        "settings": settings,
        "precision": precision,
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time() - used, 1),
        "metrics": metrics,
    }
    if recipe != SCRATCH and not tiny:
        run["kept"] = evaluate_retrieval(model, load_pairs("emoji")["test"])
    return run


def stored(file: Path) -> list[dict]:
    """The runs that are there."""
    return json.loads(file.read_text())["runs"] if file.is_file() else []


def report(runs: list[dict]) -> dict[str, tuple[float, float]]:
    """Print a row a recipe, all on the same pictures -> the bars: points gained, points asked."""
    rows, means = [], {}
    for recipe in (BUNDLED, *RECIPES):
        some = [run for run in runs if run["recipe"] == recipe]
        if some:
            recalls = [
                [100 * run["metrics"][name] for run in some]
                for name in ("t2i_r1", "t2i_r5", "t2i_r10")
            ]
            means[recipe] = statistics.mean(recalls[2])
            spread = ", ".join(f"{value:.1f}" for value in recalls[2])
            used = [run["processor_seconds"] for run in some if "processor_seconds" in run]
            seconds = statistics.median(used) if used else "not measured"
            kept = [100 * run["kept"]["t2i_r10"] for run in some if "kept" in run]
            kept = statistics.mean(kept) if kept else "not measured"
            rows.append([recipe, *map(statistics.mean, recalls), spread, kept, seconds])
    head = [
        "recipe",
        "R@1, %",
        "R@5, %",
        "R@10, %",
        "R@10 by seed or fold",
        "R@10 on emoji",
        "seconds",
    ]
    print_table(head, rows)
    return {
        f"points of R@10 over {other}": (means[TUNE] - means[other], 15.0)
        for other in (SCRATCH, BUNDLED)
        if TUNE in means and other in means
    }


def measure(options: argparse.Namespace, tiny: dict) -> list[dict]:
    """Make the runs that are asked for and not there -> all there are on these pictures.

    Each is written down when it is done. Those on other pictures of the same kind are left out: a
    recall among other candidates is another figure.
    """
    places = []
    for seed in range(options.folds) if options.folds else options.seeds:
        if options.folds:
            rows = fold_of(options.data, seed, options.folds)
        else:
            rows = choose(options.data, options.pictures, options.held_out, options.choosing)
        about = {"kind": options.kind, "pictures": len(rows["train"])}
        about |= {"held_out": len(rows["test"])}
        about |= {"captions": sum(map(len, rows["test"]["captions"]))}
        about |= {"choosing": True} if options.choosing else {}
        about |= {"fold": seed, "folds": options.folds} if options.folds else {}
        places.append(about)
        for recipe in options.only or (BUNDLED, SCRATCH, TUNE):
            if recipe == BUNDLED and not options.folds and seed != options.seeds[0]:
                continue
            runs = stored(options.out)
            if any(
                (run["recipe"], run["seed"]) == (recipe, seed) and is_of(run, about) for run in runs
            ):
                continue
            print(f"{recipe}, seed {seed}", flush=True)
            run = about | measure_once(rows, recipe, seed, tiny)
            run |= {
                "device": options.device_name,
                "threads": options.threads,
                "torch": torch.__version__,
                "commit": commit(),
                "date": date.today().isoformat(),
                "command": options.shown,
            }
            write_text(options.out, json.dumps({"runs": [*runs, run]}, indent=1) + "\n")
    return [run for run in stored(options.out) if any(is_of(run, about) for about in places)]


def is_of(run: dict, about: dict) -> bool:
    """Whether a run was made on these pictures, by the same way of holding them out."""
    ways = ("choosing", "fold", "folds")
    return about.items() <= run.items() and all(run.get(w) == about.get(w) for w in ways)


def main(given: list[str] | None = None) -> None:
    given = sys.argv[1:] if given is None else given
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("data", help="pictures with captions")
    parser.add_argument("--kind", default="pictures", help="what they are, for the table")
    parser.add_argument("--pictures", type=int, default=700, help="so many are learned from")
    parser.add_argument("--held-out", type=int, default=300, help="so many are searched")
    parser.add_argument("--choosing", action="store_true", help="on some of the pictures learned")
    parser.add_argument("--folds", type=int, default=0, help="so many equal parts, each once")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=[BUNDLED, *RECIPES], help="these recipes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device-name", default="", help="the machine, in words")
    parser.add_argument("--small", action="store_true", help="see whether it runs, soon")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(given)
    if options.folds < 0 or options.folds == 1:
        parser.error("--folds is a number of parts, two or more.")
    if options.folds and options.choosing:
        parser.error("--folds and --choosing hold other pictures out: give one of them.")
    others = [word for word in given if word not in (options.data, "--out", str(options.out))]
    options.shown = shlex.join(["python", "benchmarks/tuning.py", "FOLDER", *others])
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as place:
        options.out = options.out or (Path(place) / "runs.json" if options.small else OUT)
        if options.small:
            options.pictures, options.held_out = min(options.pictures, 32), 16
        runs = measure(options, TINY if options.small else {})
        print_bars(report(runs))


if __name__ == "__main__":
    main()
