"""Pictures a second at 224 pixels: from our cache, decoding each time, and as peers load them.

    python benchmarks/pipeline.py
    python benchmarks/pipeline.py --small

The pictures are JPEGs of 500 x 375 pixels, the size of Flickr's: crops of the photograph that
comes with matplotlib, with noise, so that a file is as large as a photograph's. They lie in a
folder that `load_pairs` reads, in the file system's memory like any data set in its second epoch.

What is timed is an epoch in batches of 128 in random order, from the start of the first batch to
the end of the last. Every way but two ends in float32 pixels (128, 3, 224, 224), normalised, ready
for a ViT; nothing is done with captions but to draw one. The cache is filled before, and the
workers of a DataLoader are started before. As in a training run, and for all ways alike, the
process keeps the memory that batches free (`keep_freed_memory`). In turn:

- cache, uint8: `TrainingPairs.draw` from the memory-mapped file, as it goes to a GPU.
- cache: the same, then `normalise_pixels`. What the preset `original` does.
- cache, augmented: the same with the flips and views of the preset `t4-drawings` in between.
- decode each time: the same pixels by the same functions, from the JPEG, in this process.
- decode each time, workers: the same in the workers of a DataLoader, one a core, which hand over
  uint8; it is normalised here.
- datasets + DataLoader: `datasets` with `open_clip`'s own transform for training (torchvision:
  random crop, resize, tensor, normalise) in as many workers. What peers do.
"""

import argparse
import itertools
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from matplotlib import cbook
from peers import allow_peers
from PIL import Image
from timing import in_turn, print_bars, print_table, rates, run
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distilclip import TrainConfig, load_pairs
from distilclip.data import TrainingPairs, decode_pixels, seeded
from distilclip.runs.memory import keep_freed_memory
from distilclip.storage.pictures import normalise_pixels, pixels_of
from distilclip.training import views

HALF = (0.5, 0.5, 0.5)
Way = Callable[[], None]  # an epoch


def make_photographs(folder: Path, count: int, width: int, height: int) -> int:
    """Write captioned JPEGs of like size and contents to a folder -> their mean size in bytes."""
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as photograph:
        photograph = photograph.convert("RGB")
    chance, noise = random.Random(0), np.random.default_rng(0)
    for number in range(count):
        part = chance.uniform(0.5, 1)  # of the photograph's width
        size = (part * photograph.width, part * photograph.width * height / width)
        left, top = (chance.uniform(0, a - b) for a, b in zip(photograph.size, size, strict=True))
        crop = photograph.resize((width, height), box=(left, top, left + size[0], top + size[1]))
        grain = noise.normal(0, 4, (height, width, 3))
        pixels = (np.asarray(crop) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.jpg", quality=90)
        (folder / f"{number:05}.txt").write_text(f"the photograph number {number}\n")
    return sum(file.stat().st_size for file in folder.glob("*.jpg")) // count


class DecodedEachTime(Dataset):
    """The middle square of each picture, decoded whenever it is asked for: uint8 (3, S, S)."""

    def __init__(self, rows: datasets.Dataset, size: int):
        self.rows, self.size = rows, size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Tensor:
        return pixels_of([self.rows[row]["image"]], self.size)[0]


def endlessly(epoch: Callable[[int], Iterator[Tensor]]) -> Way:
    """An epoch each time it is called; every batch must be there before the next one."""
    count = itertools.count()

    def call() -> None:
        for batch in epoch(next(count)):
            del batch

    return call


def our_ways(rows: datasets.Dataset, config: TrainConfig, cache: Path) -> dict[str, Way]:
    """The pictures from the cache, and decoded each time in this process."""
    size, batch = config.image_size, config.batch_size
    pairs = TrainingPairs(decode_pixels(rows, size, cache, progress=False), rows["captions"])

    def drawn(epoch: int) -> Iterator[Tensor]:
        for step, chosen in enumerate(pairs.epoch(batch, 0, epoch)):
            yield pairs.draw(chosen, seeded(epoch, step)).pixels

    def normalised(epoch: int) -> Iterator[Tensor]:
        for pixels in drawn(epoch):
            yield normalise_pixels(pixels, HALF, HALF)

    def augmented(epoch: int) -> Iterator[Tensor]:
        generator = seeded(epoch, -1)
        for pixels in drawn(epoch):
            flip = torch.rand(len(pixels), generator=generator) < 0.5
            yield normalise_pixels(views(pixels, flip, config, generator), HALF, HALF)

    def decoded(epoch: int) -> Iterator[Tensor]:
        for chosen in pairs.epoch(batch, 0, epoch):
            images = [rows[row]["image"] for row in chosen.tolist()]
            yield normalise_pixels(pixels_of(images, size), HALF, HALF)

    return {
        "cache, uint8": endlessly(drawn),
        "cache": endlessly(normalised),
        "cache, augmented": endlessly(augmented),
        "decode each time": endlessly(decoded),
    }


def with_workers(data: Dataset, batch_size: int) -> DataLoader:
    """Shuffled whole batches by as many processes as there are cores; they live on."""
    return DataLoader(
        data,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count(),
        persistent_workers=True,
    )


def transformed(transform: Callable, batch: dict) -> dict[str, list[Tensor]]:
    """The pictures of a batch of `datasets` rows, each as `transform` makes it."""
    return {"pixel_values": [transform(image) for image in batch["image"]]}


def their_ways(rows: datasets.Dataset, config: TrainConfig) -> dict[str, Way]:
    """The pictures through a DataLoader: by our functions, and by `open_clip`'s transform."""
    ours = with_workers(DecodedEachTime(rows, config.image_size), config.batch_size)
    allow_peers()
    import open_clip

    transform = open_clip.image_transform(config.image_size, is_train=True, mean=HALF, std=HALF)
    peers = rows.select_columns(["image"]).with_transform(partial(transformed, transform))
    theirs = with_workers(peers, config.batch_size)
    return {
        "decode each time, workers": endlessly(
            lambda epoch: (normalise_pixels(pixels, HALF, HALF) for pixels in ours)
        ),
        "datasets + DataLoader": endlessly(lambda epoch: (b["pixel_values"] for b in theirs)),
    }


def measure(options: argparse.Namespace) -> dict:
    keep_freed_memory()
    config = TrainConfig(preset="t4-drawings", text_model="minilm")
    count, width, height = 1280, 500, 375
    if options.small:
        config = TrainConfig(preset="t4-drawings", text_model="minilm", image_size=32, batch_size=8)
        count, width, height = 40, 64, 48
    with tempfile.TemporaryDirectory() as place:
        photographs, cache = Path(place) / "train", Path(place) / "cache"
        photographs.mkdir()
        size = make_photographs(photographs, count, width, height)
        rows = load_pairs(photographs)["train"]
        ways = our_ways(rows, config, cache) | their_ways(rows, config)
        pictures = len(rows) // config.batch_size * config.batch_size
        lines = rates(in_turn(ways, options.rounds), pictures)
    speed = {name: line["per_second"] for name, line in lines.items()}
    cached = speed["cache"]
    title = f"{pictures} pictures, {config.image_size} px"
    rows = [[name, *line.values(), cached / line["per_second"]] for name, line in lines.items()]
    print_table([title, "images/s", "slowest", "fastest", "cache over it"], rows)
    bars = {
        "images/s from the cache": (cached, 3000),
        "cache over decoding each time, workers": (cached / speed["decode each time, workers"], 10),
        "cache over datasets + DataLoader": (cached / speed["datasets + DataLoader"], 10),
    }
    return {
        "pictures": pictures,
        "image_size": config.image_size,
        "batch_size": config.batch_size,
        "jpeg": {"width": width, "height": height, "mean_bytes": size},
        "ways": lines,
        "bars": print_bars(bars),
    }


if __name__ == "__main__":
    run(measure, __doc__)
