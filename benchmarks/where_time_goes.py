"""Where the time of our training step goes, and how close it comes to the machine.

    python benchmarks/where_time_goes.py

The step of training_step.py, ViT-B/16 and DistilBERT by our defaults, with a stopwatch at both
ends of each part, forward and backward. The rest is norms, embeddings, projections, the loss and
the clipping of gradients. Its floating-point operations are PyTorch's own count of the matrix
products, two for a multiply and an add, those of attention included; the machine's rate is that
of one large product of square matrices.
"""

import argparse
import contextlib
import functools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import systems
import torch
from systems import SMALL, OurSteps, Sizes, save_random_text, shape
from timing import in_turn, print_table, run
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.distilbert.modeling_distilbert import FFN, DistilBertSelfAttention

import distilclip.training as training
from distilclip import TrainConfig
from distilclip.attention import MultiHeadAttention
from distilclip.runs.checkpoint import Run
from distilclip.vit import MLP

PARTS = {
    MultiHeadAttention: "attention, image",
    MLP: "MLP, image",
    DistilBertSelfAttention: "attention, text",
    FFN: "MLP, text",
}


class Stopwatch:
    """Seconds of each part, between its starts and its ends.

    `wait` comes back when what was begun on the device has ended; a CPU needs none.
    """

    def __init__(self, wait: Callable[[], None]):
        self.seconds = defaultdict(float)
        self.started = {}
        self.wait = wait

    def start(self, part: str) -> None:
        self.wait()
        self.started[part] = time.perf_counter()

    def stop(self, part: str) -> None:
        self.wait()
        self.seconds[part] += time.perf_counter() - self.started.pop(part)

    def timed(self, function: Callable, part: str) -> Callable:
        """`function`, whose time counts for `part`."""

        @functools.wraps(function)
        def call(*arguments, **named):
            self.start(part)
            result = function(*arguments, **named)
            self.stop(part)
            return result

        return call


@contextlib.contextmanager
def watched(run: Run, wait: Callable[[], None] = lambda: None) -> Iterator[Stopwatch]:
    """A stopwatch at the parts of `run`, while the block runs.

    On a CPU every operation has ended when the next one starts, so the hooks' times are the
    parts' own; with a GPU, `wait` has to see to it. A backward hook sees the gradient come in and
    the gradient of the input go out.
    """
    watch, hooks = Stopwatch(wait), []

    def call(act: Callable[[str], None], part: str) -> Callable[..., None]:
        return lambda *_: act(part)

    for module in run.model.modules():
        if part := PARTS.get(type(module)):
            start, stop = call(watch.start, part), call(watch.stop, part)
            hooks.append(module.register_forward_pre_hook(start))
            hooks.append(module.register_forward_hook(stop))
            hooks.append(module.register_full_backward_pre_hook(start))
            hooks.append(module.register_full_backward_hook(stop))
    hooks.append(run.optimizer.register_step_pre_hook(call(watch.start, "optimiser")))
    hooks.append(run.optimizer.register_step_post_hook(call(watch.stop, "optimiser")))
    with contextlib.ExitStack() as stack:
        for place, name in (
            (systems, "draw_batch"),  # captions drawn and tokenised, pixels gathered
            (training, "views"),
            (training, "normalise_pixels"),
        ):
            timed = watch.timed(getattr(place, name), "data")
            stack.enter_context(patch.object(place, name, timed))
        yield watch
    for hook in hooks:
        hook.remove()


def shares(
    run: Run, step: Callable[[], float], steps: int, wait: Callable[[], None] = lambda: None
) -> tuple[dict[str, float], float]:
    """The share of each part in the time of `steps` steps, and the seconds of one (median)."""
    step()
    seconds = []
    with watched(run, wait) as watch:
        for _ in range(steps):
            start = time.perf_counter()
            step()
            wait()
            seconds.append(time.perf_counter() - start)
    parts = {part: time / sum(seconds) for part, time in watch.seconds.items()}
    return parts | {"rest": 1 - sum(parts.values())}, statistics.median(seconds)


def count_operations(step: Callable[[], float]) -> int:
    """Floating-point operations of the matrix products in a step, forward and backward.

    Attention is counted in its plain form: PyTorch's counter does not know the CPU's fused one.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return counter.get_total_flops()


def matrix_rates(side: int, rounds: int) -> dict[str, float]:
    """GFLOP/s of a product of matrices of `side` x `side`, by number format: medians."""
    actions = {}
    for name in ("float32", "bfloat16"):
        matrix = torch.randn(side, side).to(getattr(torch, name))
        actions[name] = functools.partial(torch.mm, matrix, matrix)
    seconds = in_turn(actions, rounds)
    return {n: round(2 * side**3 / statistics.median(s) / 1e9, 1) for n, s in seconds.items()}


def measure(options: argparse.Namespace) -> dict:
    sizes = SMALL if options.small else Sizes()
    rates = matrix_rates(256 if options.small else 3072, 3 * options.rounds)
    with tempfile.TemporaryDirectory() as place:
        save_random_text(Path(place), sizes)
        ours = OurSteps(TrainConfig(preset="t4-drawings", **shape(sizes, Path(place))), sizes)
    step = ours.make()
    parts, seconds = shares(ours.run, step, options.rounds)
    operations = count_operations(step)
    print_table(["part of the step", "time"], [[n, f"{share:.1%}"] for n, share in parts.items()])
    reached = operations / seconds / 1e9
    result = {
        "precision": ours.run.precision,
        "matrix_gflop_per_second": rates,
        "step_gflop_per_second": round(reached, 1),
        "gflop_an_image": round(operations / sizes.batch_size / 1e9, 2),
        "share_of_matrix_rate": round(reached / rates[ours.run.precision], 4),
    }
    print_table(
        ["close to the machine", ""],
        [[name.replace("_", " "), str(value)] for name, value in result.items()],
    )
    return {"sizes": vars(sizes), "parts": {n: round(s, 4) for n, s in parts.items()}} | result


if __name__ == "__main__":
    run(measure, __doc__)
