"""A training run in a process of its own, to which something happens on the way.

These are started through multiprocessing's forkserver, so that PyTorch is imported once and each
run costs half a second. A fault is a name and a number: where, and at which call.
"""

import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from functools import cache
from multiprocessing import forkserver
from pathlib import Path

import pytest
import safetensors.torch
import torch

import distilclip.runs.checkpoint as checkpoint
import distilclip.runs.watch as watch
import distilclip.scale as scale
import distilclip.training as training
from distilclip import TrainConfig, train

SETTINGS = {
    "image_size": 16,
    "patch_size": 8,
    "dim": 16,
    "depth": 1,
    "num_heads": 2,
    "embed_dim": 16,
    "dropout": 0.1,
    "patch_dropout": 0.25,
    "epochs": 3,
    "batch_size": 8,
    "lr": 2e-3,
    "text_lr": 1e-3,
    "full_size_start": 0.5,
    "ema": 0.9,
    "augmentation": 1.0,
    "precision": "float32",
    "evaluations": 3,
}
STEPS = 9  # three epochs of three batches

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["warm"])


@cache
def serve() -> None:
    """Start the server from which workers fork, with what a run needs imported."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()


def configure(data: Path, text: Path, out: Path, **changes) -> TrainConfig:
    """The run that all the tests of faults train: small, with everything random switched on."""
    settings = SETTINGS | {"text_model": str(text)} | changes
    return TrainConfig(data=str(data), out=str(out), **settings)


def work(
    sender, config: TrainConfig, fault: str = "", at: int = 0, group: dict[str, str] | None = None
) -> None:
    """Train, with `fault` at its call number `at`; send how it ended, if it ends: see `run`.

    A fault that counts sends its count in the place of the metrics.

    `group` holds what torchrun tells a process of several that train together.
    """
    torch.set_num_threads(1)
    os.environ.update(group or {})
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores Ctrl-C
    os.fsync = lambda _: None  # a killed process leaves the system's buffers whole
    checkpoint.SAVE_SECONDS, checkpoint.SAVE_SHARE = 0, 1e9  # save after every step
    calls = FAULTS[fault](at) if fault else None
    try:
        result = train(config, progress=False)
    except (Exception, KeyboardInterrupt) as error:
        sender.send((type(error).__name__, str(error)))
    else:
        sender.send(("done", calls() if calls else result.metrics))


def start(*arguments):
    """A worker in a process of its own, and the end at which its message arrives."""
    serve()
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=work, args=(sender, *arguments))
    process.start()
    sender.close()
    return process, receiver


def run(*arguments) -> tuple[str, object]:
    """How a worker ended: ("killed", signal), ("done", metrics), or an error's name and text."""
    return end_of(*start(*arguments))


def end_of(process, receiver) -> tuple[str, object]:
    """Wait for what `start` started, and say how it ended."""
    try:
        message = receiver.recv()
    except EOFError:
        message = None
    process.join()
    return message or ("killed", -process.exitcode)


def together(config, fault="", at=0, world=2):
    """How processes that train together end; what happens, happens to all but the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    workers = [
        start(config, fault if rank else "", at if rank else 0, group | {"RANK": str(rank)})
        for rank in range(world)
    ]
    return [end_of(*worker) for worker in workers]


def kill() -> None:
    """End this process as a power cut would: nothing is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    """What Ctrl-C sends."""
    os.kill(os.getpid(), signal.SIGINT)


def around(owner, name: str, at: int, before=None, after=None) -> None:
    """Have call number `at` (from 1) of `owner.name` run `before` and `after`."""
    original, calls = getattr(owner, name), []

    def replacement(*arguments, **options):
        calls.append(1)
        if len(calls) == at and before:
            before()
        result = original(*arguments, **options)
        if len(calls) == at and after:
            after()
        return result

    setattr(owner, name, replacement)


def count_calls(at: int, action=kill):
    """Kill at the function call number `at` of the whole run, in Python or below; 0: count."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += 1
        if calls == at:
            action()

    sys.setprofile(count)
    return lambda: calls


def interrupt_twice(at: int) -> None:
    """Ctrl-C after step `at`, and again while the state that this asks for is being saved."""

    def impatient() -> None:
        interrupt()
        around(os, "replace", 1, before=interrupt)

    around(torch.optim.AdamW, "step", at, after=impatient)


def half_a_file(at: int) -> None:
    """Kill with a half-written file."""
    original, calls = safetensors.torch.save_file, []

    def save_file(tensors, file, metadata):
        original(tensors, file, metadata)
        calls.append(1)
        if len(calls) == at:
            os.truncate(file, os.path.getsize(file) // 2)
            kill()

    safetensors.torch.save_file = save_file


def small_disk(at: int) -> None:
    """From step `at` on, no file can be longer than 1,000 bytes."""
    limit = (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    around(
        torch.optim.AdamW,
        "step",
        at,
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )


def nobody(at: int) -> None:
    """Lose root's rights, which no folder's permissions stop."""
    if os.geteuid() == 0:
        os.setuid(65534)


def clock_backwards(at: int) -> None:
    """The wall clock loses an hour with every look at it."""
    now = [time.time()]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    time.time = backwards


def broken_gradient(at: int) -> None:
    """At step `at`, the loss is a number, but its gradient is none."""
    original, calls = training.contrastive_loss, []

    def loss(images, texts, scale, positives):
        calls.append(1)
        value = original(images, texts, scale, positives)
        # The square root of zero is fine; its gradient is infinite.
        return value + ((images * 0).sum() ** 0.5 if len(calls) == at else 0)

    training.contrastive_loss = loss


def hang(at: int) -> None:
    """Stop dead in step `at`, and say so."""
    around(torch.optim.AdamW, "step", at, before=lambda: time.sleep(600))


ADAM = torch.optim.AdamW
FAULTS = {
    "any call": count_calls,
    "Ctrl-C at any call": lambda at: count_calls(at, interrupt),
    "Ctrl-C twice": interrupt_twice,
    "before a rename": lambda at: around(os, "replace", at, before=kill),
    "after a rename": lambda at: around(os, "replace", at, after=kill),
    "half a file": half_a_file,
    "before AdamW": lambda at: around(ADAM, "step", at, before=kill),
    "after AdamW": lambda at: around(ADAM, "step", at, after=kill),
    "samples": lambda at: around(watch, "draw_samples", at, before=kill),
    "evaluation": lambda at: around(watch, "retrieval_metrics", at, after=kill),
    "Ctrl-C before AdamW": lambda at: around(ADAM, "step", at, before=interrupt),
    "Ctrl-C after AdamW": lambda at: around(ADAM, "step", at, after=interrupt),
    "Ctrl-C in a save": lambda at: around(os, "replace", at, before=interrupt),
    "Ctrl-C in an evaluation": lambda at: around(watch, "draw_samples", at, before=interrupt),
    "small disk": small_disk,
    "nobody": nobody,
    "clock": clock_backwards,
    "broken gradient": broken_gradient,
    # Embeddings' gradients have been exchanged, twice a step, and no others yet
    "in the backward pass": lambda at: around(
        scale.GatherWithGradient, "backward", 2 * at, after=kill
    ),
    "hang": hang,
}
