"""What the training loop adds to its bare forward and backward, for the small preset `cpu`.

    python benchmarks/loop_overhead.py

Both handle the same number of pairs of `emoji` with the same model in turn. The whole loop is
`train_epoch`: drawing pixels, captions and positives, augmentation, normalisation, forward, loss,
backward, clipping, AdamW, the learning rate, the progress bar. Bare is forward, loss and backward
on one batch that was made before; "with AdamW" adds clipping and the optimiser's step. Data alone
is what the loop does to draw, augment and normalise its batches.
"""

import argparse
import io
import itertools
import math

import torch
from timing import in_turn, print_bars, print_table, rates, run
from tqdm import tqdm

from distilclip import TrainConfig, load_pairs
from distilclip.checkpoint import new_epoch
from distilclip.data import seeded
from distilclip.loss import contrastive_loss
from distilclip.train import (
    autocast,
    draw_batch,
    prepare_data,
    start_run,
    train_epoch,
    views,
)

STEPS = 20  # in one turn
SMALL = {"text_model": "minilm", "dim": 24, "depth": 1, "batch_size": 16}


def measure(options: argparse.Namespace) -> dict:
    config = TrainConfig(preset="cpu", **(SMALL if options.small else {}))
    pairs = STEPS * config.batch_size
    training = start_run(config, torch.device("cpu"))
    training.save_at = math.inf
    data = prepare_data(training.model, load_pairs("emoji")["train"].select(range(pairs)), config)
    model, optimizer, epochs = training.model, training.optimizer, itertools.count()
    inputs, positives = draw_batch(data, torch.arange(config.batch_size), 0, config, model.tokenize)
    pixels = model.normalise(inputs["pixels"])
    learning = [p for p in model.parameters() if p.requires_grad]

    def whole_loop() -> None:
        training.epoch = new_epoch()
        with tqdm(total=STEPS, file=io.StringIO()) as bar:
            train_epoch(training, data, config, next(epochs), bar, save=lambda: None)

    def bare(with_optimiser: bool) -> None:
        model.train()
        model.text.eval()
        for _ in range(STEPS):
            optimizer.zero_grad()
            with autocast(pixels.device, training.precision):
                image_embeds = model.embed_image(pixels)
                text_embeds = model.embed_text_features(inputs["features"])
            contrastive_loss(image_embeds, text_embeds, model.logit_scale, positives).backward()
            if with_optimiser:
                torch.nn.utils.clip_grad_norm_(learning, config.clip_gradient)
                optimizer.step()

    def data_only() -> None:
        for step in range(STEPS):
            rows = torch.arange(step * config.batch_size, (step + 1) * config.batch_size)
            drawn, _ = draw_batch(data, rows, step, config, model.tokenize)
            seen = views(drawn["pixels"], drawn["flip"], config, seeded(config.seed, 3, step, 0, 0))
            model.normalise(seen)

    actions = {
        "bare forward and backward": lambda: bare(False),
        "with AdamW": lambda: bare(True),
        "the whole loop": whole_loop,
        "data and augmentation alone": data_only,
    }
    lines = rates(in_turn(actions, options.rounds), pairs)
    bare_rate = lines["bare forward and backward"]["per_second"]
    rows = [[name, *line.values(), line["per_second"] / bare_rate] for name, line in lines.items()]
    print_table(["preset cpu", "images/s", "slowest", "fastest", "share of bare"], rows)
    share = lines["the whole loop"]["per_second"] / bare_rate
    return {
        "precision": training.precision,
        "steps_a_turn": STEPS,
        "batch_size": config.batch_size,
        "loop": lines,
        "bars": print_bars({"the whole loop over bare forward and backward": (share, 0.85)}),
    }


if __name__ == "__main__":
    run(measure, __doc__)
