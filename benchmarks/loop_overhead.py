"""What the training loop adds to its bare forward and backward, for the small preset `cpu`.

    python benchmarks/loop_overhead.py

Both handle the same number of pairs of `emoji` with the same model in turn. The whole loop is
`train_epoch`: drawing pixels, captions and positives, augmentation, normalisation, forward, loss,
backward, clipping, AdamW, the learning rate, the progress bar. Bare is forward, loss and backward
on one batch that was made before; "with AdamW" adds clipping and the optimiser's step. Data alone
is what the loop does to draw, augment and normalise its batches.

The preset shows pictures at half their width first, and whole ones later. Both are measured; the
figures of a run count each by its share of the epochs.
"""

import argparse
import io
import math
from functools import partial

import torch
from timing import in_turn, print_bars, print_table, rates, run
from torch import Tensor
from tqdm import tqdm

from distilclip import TrainConfig, load_pairs
from distilclip.data import seeded
from distilclip.loss import contrastive_loss
from distilclip.runs.checkpoint import new_sums
from distilclip.training import (
    autocast,
    draw_batch,
    picture_size,
    prepare_data,
    shrink,
    start_run,
    train_epoch,
    views,
)

STEPS = 20  # in one turn
BARE, LOOP = "bare forward and backward", "the whole loop"
SMALL = {"text_model": "minilm", "dim": 24, "depth": 1, "batch_size": 16}


def measure(options: argparse.Namespace) -> dict:
    config = TrainConfig(preset="cpu", **(SMALL if options.small else {}))
    pairs = STEPS * config.batch_size
    training = start_run(config, torch.device("cpu"))
    training.save_at = math.inf
    data = prepare_data(training.model, load_pairs("emoji")["train"].select(range(pairs)), config)
    model, optimizer = training.model, training.optimizer
    inputs, positives = draw_batch(data, torch.arange(config.batch_size), 0, config, model.tokenize)
    learning = [p for p in model.parameters() if p.requires_grad]

    def whole_loop(epoch: int) -> None:
        training.sums, training.step = new_sums(), epoch * STEPS
        with tqdm(total=STEPS, file=io.StringIO()) as bar:
            train_epoch(training, data, epoch, bar, save=lambda: None)

    def bare(pixels: Tensor, with_optimiser: bool) -> None:
        model.train()
        model.text.eval()
        for _ in range(STEPS):
            optimizer.zero_grad()
            with autocast(pixels.device, training.precision):
                image_embeds = model.embed_image(pixels, any_size=True)
                text_embeds = model.embed_text_features(inputs.captions["features"])
            contrastive_loss(image_embeds, text_embeds, model.logit_scale, positives).backward()
            if with_optimiser:
                torch.nn.utils.clip_grad_norm_(learning, config.clip_gradient)
                optimizer.step()

    def data_only(size: int) -> None:
        for step in range(STEPS):
            rows = torch.arange(step * config.batch_size, (step + 1) * config.batch_size)
            drawn, _ = draw_batch(data, rows, step, config, model.tokenize)
            pixels, generator = shrink(drawn.pixels, size), seeded(config.seed, 3, step, 0, 0)
            model.normalise(views(pixels, drawn.flip, config, generator))

    actions, stages = {}, {}
    for stage, epoch in (("small", 0), ("whole", config.epochs - 1)):
        size = picture_size(config, config.model_config().vision, epoch)
        pixels = model.normalise(shrink(inputs.pixels, size))
        stages[stage] = {
            BARE: partial(bare, pixels, with_optimiser=False),
            "with AdamW": partial(bare, pixels, with_optimiser=True),
            LOOP: partial(whole_loop, epoch),
            "data and augmentation alone": partial(data_only, size),
        }
        actions |= {f"{stage}: {name}": action for name, action in stages[stage].items()}
    lines = rates(in_turn(actions, options.rounds), pairs)
    print_table(
        ["preset cpu", "images/s", "slowest", "fastest"],
        [[name, *line.values()] for name, line in lines.items()],
    )
    start = config.full_size_start
    shares = {"small": start, "whole": 1 - start}
    loop = {}
    for name in stages["whole"]:
        seconds = sum(shares[s] / lines[f"{s}: {name}"]["per_second"] for s in stages)
        loop[name] = {"per_second": round(1 / seconds, 1)}
    bare_rate = loop[BARE]["per_second"]
    rows = [
        [name, line["per_second"], line["per_second"] / bare_rate] for name, line in loop.items()
    ]
    print_table(["a whole run", "images/s", "share of bare"], rows)
    return {
        "precision": training.precision,
        "steps_a_turn": STEPS,
        "batch_size": config.batch_size,
        "full_size_start": start,
        "stages": lines,
        "loop": loop,
        "bars": print_bars(
            {
                "the whole loop over bare forward and backward": (
                    loop[LOOP]["per_second"] / bare_rate,
                    0.85,
                )
            }
        ),
    }


if __name__ == "__main__":
    run(measure, __doc__)
