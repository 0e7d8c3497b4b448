"""What the CPU does for a batch while a GPU computes: the pace that it can keep up with.

    python benchmarks/host_work.py --threads 2

A T4 in Colab has two CPU cores beside it. They draw the rows, captions and mirrorings of a batch,
tokenise the captions, copy the pixels (to where the GPU fetches them), draw the random numbers of
the views and give the GPU its orders. Everything per pixel is the GPU's, which
tests/benchmarks/test_host_work.py makes sure of. So the views are timed here with pictures of 16
pixels: as many random numbers and orders as for any size, and nearly no pixels.

Of the batch of 128 at 224 pixels with a text encoder that learns, for the presets of a T4, on
pictures and captions of random contents. Bar: at most 35 ms a batch, that is 3,600 images a second.
"""

import argparse
import random
from functools import partial

import torch
from timing import in_turn, print_bars, print_table, run
from torch import Tensor

from distilclip import TrainConfig
from distilclip.data import TrainingPairs, seeded
from distilclip.model import DistilCLIP
from distilclip.training import StepInputs, TrainingData, draw_batch, views

PRESETS = ("t4", "t4-drawings")
BATCHES = 10  # in one turn
BUDGET = 35.0  # milliseconds
WORDS = "a two dogs girl in red runs jumps over water beside old street with ball man"


def captions(count: int) -> list[list[str]]:
    """Five captions for each picture, of 8 to 16 words, as long as Flickr8k's."""
    chance = random.Random(0)
    return [
        [" ".join(chance.choices(WORDS.split(), k=chance.randint(8, 16))) for _ in range(5)]
        for _ in range(count)
    ]


def make_batch(
    data: TrainingData, config: TrainConfig, model: DistilCLIP, step: int
) -> tuple[StepInputs, Tensor]:
    """A step's rows, captions, mirrorings and pixels, ready to be sent."""
    order = torch.randperm(len(data.pairs), generator=seeded(config.seed, step))
    return draw_batch(data, order[: config.batch_size], step, config, model.tokenize)


def make_views(pixels: Tensor, flip: Tensor, config: TrainConfig, step: int) -> Tensor:
    """The views of a step."""
    return views(pixels, flip, config, seeded(config.seed, 3, step))


def measure(options: argparse.Namespace) -> dict:
    sizes = {"image_size": 32, "patch_size": 16, "batch_size": 16} if options.small else {}
    results, bars = {}, {}
    for preset in PRESETS:
        config = TrainConfig(preset=preset, text_model="minilm", text_start=0.0, **sizes)
        model = DistilCLIP(config.model_config())
        count = 4 * config.batch_size
        shape = (count, 3, config.image_size, config.image_size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded(0))
        pairs = TrainingPairs(pixels, captions(count))
        data = TrainingData(pairs, None, torch.ones(count, dtype=torch.bool))
        inputs, _ = make_batch(data, config, model, 0)
        tiny = inputs.pixels[:, :, :16, :16].clone()
        actions = {
            "drawing and tokenising": partial(make_batch, data, config, model),
            "copying": lambda step, inputs=inputs: inputs.map(torch.clone),
            "random numbers of the views": partial(make_views, tiny, inputs.flip, config),
        }

        def several(action):
            for step in range(BATCHES):
                action(step)

        turns = {name: partial(several, action) for name, action in actions.items()}
        seconds = in_turn(turns, options.rounds)
        parts = {name: 1000 * sorted(s)[len(s) // 2] / BATCHES for name, s in seconds.items()}
        total = sum(parts.values())
        rows = [[name, value] for name, value in parts.items()]
        print_table([f"preset {preset}", "ms a batch"], [*rows, ["together", total]])
        per_second = config.batch_size / total * 1000
        results[preset] = {
            "batch_size": config.batch_size,
            "image_size": config.image_size,
            "milliseconds": {name: round(value, 2) for name, value in parts.items()},
            "together": round(total, 2),
            "images_per_second": round(per_second),
        }
        bars[f"{preset}: budget over what the CPU takes"] = (BUDGET / total, 1.0)
    return results | {"budget_ms": BUDGET, "bars": print_bars(bars)}


if __name__ == "__main__":
    run(measure, __doc__)
