"""How cost grows: time and memory against six sizes, and the exponent of each.

    python benchmarks/growth.py
    python benchmarks/growth.py --small

Each size doubles from point to point while the rest stays as it is; `CURVES` says what. A cost that
grows as a power of a size is a straight line in logarithms, whose slope is the exponent: it is
fitted by least squares to all points, and to the last half of them, because a small size pays for
what does not grow, and because the shape of the work itself may change.

Training steps are those of the preset `cpu` in float32, so that every processor does the same
work, without augmentation and with every patch. Every point has a process of its own, which first
does a tiny piece of the same work and throws it away: what the libraries load once is in memory
then. From there on the peak of resident memory is counted; Linux tells it in /proc.
"""

import argparse
import functools
import gc
import itertools
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
import torch.nn.functional as F
from systems import CPU, RATE, SMALL, Sizes, save_random_text
from timing import print_table, run

from distilclip import DistilCLIP, DistilCLIPConfig, ImageIndex, TrainConfig, ViTConfig, load_pairs
from distilclip.data import seeded
from distilclip.training import StepInputs, prepare_data, start_run, train_step

Action = Callable[[], object]  # what is timed, after everything before it is ready
TINY = {"dim": 24, "depth": 1}  # a ViT with hardly any work
MINILM_SHAPE = Sizes(text_dim=384, text_depth=6, text_heads=12)
ENOUGH, PATIENCE = 0.5, 8.0  # seconds that a point's rounds take together, at least and at most
PAGE = 2**12  # bytes: less memory than that cannot be seen
# A fork of a process that has loaded everything and done nothing: it starts at once, and clean.
PROCESSES = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Curve:
    """A size that doubles: what it is of, its values, tiny ones, and what makes the work ready.

    `ready(size, place, small)` builds what the work needs; `place` holds the text encoders.
    """

    of: str
    unit: str
    sizes: tuple[int, ...]
    small: tuple[int, ...]
    fixed: str
    ready: Callable[[int, Path, bool], Action]


def doubling(first: int, count: int) -> tuple[int, ...]:
    return tuple(first * 2**number for number in range(count))


def training(text: Path, batch_size: int, tokens: int = 0, **shape: int) -> Action:
    """A step of training on random pairs; with `tokens`, the text encoder learns too."""
    config = TrainConfig(
        preset="cpu",
        precision="float32",
        augmentation=0.0,
        patch_dropout=0.0,
        text_model=str(text),
        batch_size=batch_size,
        lr=RATE,
        text_lr=RATE if tokens else 0.0,
        **shape,
    )
    training_run, generator = start_run(config, CPU), seeded(0)
    pictures = (batch_size, 3, config.image_size, config.image_size)
    pixels = torch.randint(256, pictures, dtype=torch.uint8, generator=generator)
    flip = torch.zeros(batch_size, dtype=torch.bool)
    encoder = training_run.model.text
    if tokens:
        words = encoder.model.config.vocab_size
        input_ids = torch.randint(words, (batch_size, tokens), generator=generator)
        captions = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    else:
        captions = {"features": torch.randn(batch_size, encoder.dim, generator=generator)}
    inputs = StepInputs(pixels, flip, captions, "tokens" if tokens else "features")
    positives = torch.eye(batch_size, dtype=torch.bool)
    return lambda: train_step(training_run, inputs, positives)


def batch_step(size: int, place: Path, small: bool) -> Action:
    return training(place / "tiny", size, **(TINY if small else {}))


def image_step(size: int, place: Path, small: bool) -> Action:
    return training(place / "tiny", 8, image_size=size, patch_size=8, **(TINY if small else {}))


def patch_step(size: int, place: Path, small: bool) -> Action:
    image_size = 32 if small else 192
    shape = {"image_size": image_size, "patch_size": size} | (TINY if small else {})
    return training(place / "tiny", 8, **shape)


def caption_step(size: int, place: Path, small: bool) -> Action:
    text = place / ("tiny" if small else "text")
    return training(text, 16, tokens=size, image_size=16, patch_size=16, **TINY)


@functools.cache
def emoji_and_encoder() -> tuple[datasets.Dataset, DistilCLIP, TrainConfig]:
    """Real pictures with captions, and MiniLM to read them: there before any of it is timed."""
    config = TrainConfig(preset="cpu", image_size=224, patch_size=16, **TINY)
    return load_pairs("emoji")["train"], DistilCLIP(config.model_config()), config


def data_preparation(size: int, place: Path, small: bool) -> Action:
    rows, model, config = emoji_and_encoder()
    rows = rows.select(range(size))
    return lambda: prepare_data(model, rows, config)


def index_query(size: int, place: Path, small: bool) -> Action:
    """A query after the other; the vectors are made in place, to take no more memory."""
    vision = ViTConfig(16, 16, num_heads=2, **TINY)
    model = DistilCLIP(DistilCLIPConfig(vision, text_model=str(place / "tiny")))
    generator, width = seeded(0), model.config.embed_dim
    embeds = torch.empty(size, width).normal_(generator=generator)
    embeds /= embeds.norm(dim=-1, keepdim=True)
    index = ImageIndex(model, list(map(str, range(size))), embeds)
    queries = itertools.cycle(F.normalize(torch.randn(8, 1, width, generator=generator), dim=-1))
    return lambda: index.nearest(next(queries), 10)


CURVES = {
    "batch_size": Curve(
        "a training step",
        "pairs in a batch",
        doubling(16, 6),
        doubling(2, 3),
        "48 px in patches of 8, text features computed before",
        batch_step,
    ),
    "image_size": Curve(
        "a training step",
        "pixels a side of the picture",
        doubling(24, 5),
        doubling(8, 3),
        "patches of 8, 8 pairs, text features computed before",
        image_step,
    ),
    "patch_size": Curve(
        "a training step",
        "pixels a side of the patch",
        doubling(4, 5),
        doubling(8, 3),
        "192 px, 8 pairs, text features computed before",
        patch_step,
    ),
    "caption_length": Curve(
        "a training step",
        "tokens in a caption",
        doubling(16, 6),
        doubling(4, 3),
        "16 pairs, a text encoder of MiniLM's shape that learns, next to no image side",
        caption_step,
    ),
    "data_set_size": Curve(
        "preparing a data set",
        "pictures with their captions",
        doubling(64, 5),
        doubling(8, 3),
        "emoji at 224 px as uint8, captions encoded by MiniLM",
        data_preparation,
    ),
    "index_size": Curve(
        "a query",
        "vectors in the index",
        doubling(2**15, 6),
        doubling(2**8, 3),
        "exact search, 256 numbers a vector, one query at a time",
        index_query,
    ),
}


def memory(line: str) -> int:
    """Bytes on a line of /proc/self/status: VmRSS is what is resident now, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(text.split()[1] for text in lines if text.startswith(line)))


def forget_peak() -> None:
    """Have the kernel count the peak of this process's memory from now on; see proc(5)."""
    Path("/proc/self/clear_refs").write_text("5")


def seconds_of(action: Action, rounds: int, enough: float = ENOUGH) -> list[float]:
    """Seconds of each round after one that does not count.

    More rounds than asked for until they took `enough`, and no further one after `PATIENCE`.
    """
    action()
    seconds = []
    while len(seconds) < rounds or sum(seconds) < enough:
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > PATIENCE:
            break
    return seconds


def measure_point(
    name: str, size: int, place: Path, small: bool, rounds: int, threads: int
) -> dict[str, float]:
    """Seconds and peak memory of one point: to be called once in a process."""
    torch.set_num_threads(threads)
    curve = CURVES[name]
    curve.ready(curve.small[0], place, True)()
    gc.collect()
    forget_peak()
    before = memory("VmRSS")
    action = curve.ready(size, place, small)
    seconds = seconds_of(action, rounds, 0 if small else ENOUGH)
    return {
        "size": size,
        "seconds": round(statistics.median(seconds), 6),
        "slowest": round(max(seconds), 6),
        "fastest": round(min(seconds), 6),
        "rounds": len(seconds),
        "peak_mib": round(max(PAGE, memory("VmHWM") - before) / 2**20, 3),
    }


def power_law(sizes: Sequence[float], costs: Sequence[float]) -> dict[str, float]:
    """The law cost = factor * size ** exponent that lies nearest to the points in logarithms."""
    line = statistics.linear_regression(list(map(math.log, sizes)), list(map(math.log, costs)))
    return {"factor": math.exp(line.intercept), "exponent": round(line.slope, 3)}


def fits(points: list[dict[str, float]], cost: str) -> dict[str, dict[str, float]]:
    """The law of all points, and of the last half: that of the largest costs."""
    points = sorted(points, key=lambda point: point[cost])
    halves = {"all": points, "last_half": points[len(points) // 2 :]}
    return {
        name: power_law([p["size"] for p in part], [p[cost] for p in part])
        for name, part in halves.items()
    }


def measure(options: argparse.Namespace) -> dict:
    curves = {}
    with tempfile.TemporaryDirectory() as place:
        save_random_text(Path(place) / "tiny", SMALL)
        if not options.small:
            save_random_text(Path(place) / "text", MINILM_SHAPE)
        common = (Path(place), options.small, options.rounds, options.threads)
        for name, curve in CURVES.items():
            points = []
            for size in curve.small if options.small else curve.sizes:
                with ProcessPoolExecutor(1, mp_context=PROCESSES) as process:
                    points.append(process.submit(measure_point, name, size, *common).result())
            print_table(
                [f"{curve.of}, {curve.unit}", "seconds", "slowest", "fastest", "peak MiB"],
                [[f"{p['size']:,}", *point_cells(p)] for p in points],
            )
            curves[name] = {
                "of": curve.of,
                "unit": curve.unit,
                "fixed": curve.fixed,
                "points": points,
                "fits": {cost: fits(points, cost) for cost in ("seconds", "peak_mib")},
            }
    head = ["cost grows as the power", "time", "last half", "memory", "last half"]
    print_table(
        head,
        [
            [name.replace("_", " "), *(law["exponent"] for fit in laws for law in fit.values())]
            for name, laws in ((name, curve["fits"].values()) for name, curve in curves.items())
        ],
    )
    return {"precision": "float32", "curves": curves}


def point_cells(point: dict[str, float]) -> list[str]:
    """A point's costs with the digits that a table has room for."""
    seconds = [f"{point[key]:.4f}" for key in ("seconds", "slowest", "fastest")]
    return [*seconds, f"{point['peak_mib']:,.1f}"]


if __name__ == "__main__":
    run(measure, __doc__)
