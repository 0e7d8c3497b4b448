"""Whether the fast path learns as float32 does: their loss curves over 200 steps.

    python benchmarks/precision.py
    python benchmarks/precision.py --small

The preset `cpu` on `emoji`, with the text encoder trained as well, so that both encoders are in it.
Fast: bfloat16 under autocast, the fused attention kernel, the fused AdamW. Plain: float32,
attention in its plain form, AdamW weight by weight. Both see the same batches from the same start.
What is compared is the mean loss of each 20 steps; the noise is the difference between two seeds of
the plain path.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import systems
import torch
from systems import save_random_text
from timing import print_bars, print_table, run
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import AdamW

import distilclip.training as training
from distilclip import TrainConfig, train

STEPS, WINDOW = 200, 20
SMALL = {"dim": 32, "depth": 1, "num_heads": 1, "image_size": 16, "patch_size": 8, "batch_size": 8}


def plain_adamw(*arguments, fused: bool | None = None, **named) -> AdamW:
    """AdamW without its fused kernel, whatever was asked for."""
    return AdamW(*arguments, foreach=False, fused=False, **named)


@contextlib.contextmanager
def plain_kernels() -> Iterator[None]:
    """Attention and AdamW in their plain forms."""
    with sdpa_kernel(SDPBackend.MATH), patch.object(training, "AdamW", plain_adamw):
        yield


class StepsDoneError(Exception):
    """Ends a run once its losses are known."""


def curve(settings: dict, seed: int, fast: bool, steps: int) -> list[float]:
    """The loss of each of the first `steps` steps."""
    losses, train_step = [], training.train_step

    def recorded(*arguments) -> float:
        if len(losses) == steps:
            raise StepsDoneError
        losses.append(train_step(*arguments))
        return losses[-1]

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if not fast:
            stack.enter_context(plain_kernels())
        stack.enter_context(patch.object(training, "train_step", recorded))
        stack.enter_context(contextlib.suppress(StepsDoneError))
        precision = "bfloat16" if fast else "float32"
        train(TrainConfig(out=f"{folder}/run", seed=seed, precision=precision, **settings))
    return losses


def windows(losses: list[float]) -> torch.Tensor:
    """The mean of each `WINDOW` losses."""
    return torch.tensor(losses).view(-1, WINDOW).mean(dim=1)


def measure(options: argparse.Namespace) -> dict:
    settings = {"batch_size": 32, "text_lr": 3e-5, "epochs": 3, "evaluations": 0}
    settings |= {"full_size_start": 0.0}  # every patch from the first step on
    with tempfile.TemporaryDirectory() as place:
        if options.small:
            save_random_text(Path(place), systems.SMALL)
            settings |= SMALL | {"text_model": place}
        steps = 2 * WINDOW if options.small else STEPS
        curves = {
            name: curve(settings, seed, fast, steps)
            for name, seed, fast in (
                ("plain", 0, False),
                ("fast", 0, True),
                ("plain, other seed", 1, False),
            )
        }
    means = {name: windows(losses) for name, losses in curves.items()}
    head = ["steps", *means]
    table = zip(*(mean.tolist() for mean in means.values()), strict=True)
    print_table(head, [[f"to {(n + 1) * WINDOW}", *line] for n, line in enumerate(table)])
    change = (means["fast"] - means["plain"]).abs().mean().item()
    noise = (means["plain, other seed"] - means["plain"]).abs().mean().item()
    bars = {"noise between seeds over the difference of the fast path": (noise / change, 1.0)}
    return {
        "settings": {name: v for name, v in settings.items() if name != "text_model"},
        "losses": {name: [round(x, 4) for x in losses] for name, losses in curves.items()},
        "difference": round(change, 5),
        "noise": round(noise, 5),
        "bars": print_bars(bars),
    }


if __name__ == "__main__":
    run(measure, __doc__)
