"""GPU memory of a training step on a T4, counted without a GPU.

    python benchmarks/t4_memory.py --out distilclip/book/results/t4_memory.json

A step of ViT-B/16 and DistilBERT in float16, forward, loss, backward and AdamW, on "fake" tensors
that have a shape and a number format but no contents: PyTorch's own `MemTracker` adds up what
would be alive at the worst moment. So this is a count, not a measurement. It leaves out what a
real card needs besides: CUDA's own context (some hundred MiB), the workspaces of its libraries,
and what the allocator loses between blocks. Attention is counted twice, by a kernel that does not
keep its table of weights (a T4 has one, though not FlashAttention) and in plain matrix products.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from unittest.mock import patch

import torch
from timing import print_table, version
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DistilBertConfig, DistilBertModel

from distilclip import DistilCLIP, DistilCLIPConfig, TextEncoder, ViTConfig
from distilclip.loss import contrastive_loss
from distilclip.storage.files import write_text
from distilclip.storage.pictures import normalise_pixels

GIB = 2**30
# Of the CPU, which stands in: the first that can be had of each list.
KERNELS = {"fused": [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], "plain": [SDPBackend.MATH]}
STEPS = 2  # the optimiser's moments exist from the first step on


@contextmanager
def without_values() -> Iterator[None]:
    """Fake tensors, and no starting values, for which some functions would have to be read."""
    with FakeTensorMode(), patch("distilclip.vit.initialise"), patch("torch.nn.init.trunc_normal_"):
        yield


def count(batch: int, length: int, vision: ViTConfig, text: DistilBertConfig) -> dict[str, float]:
    """GiB at the worst moment of a training step, by kind, and in all."""
    with without_values():
        encoder = TextEncoder(DistilBertModel(text), tokenizer=None)
        model = DistilCLIP(DistilCLIPConfig(vision=vision), encoder).train()
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        with tracker:
            for _ in range(STEPS):
                step(model, optimizer, batch, length)
                tracker.reset_mod_stats()  # it follows modules through one step at a time
        (peak,) = tracker.get_tracker_snapshot("peak").values()
    names = {str(kind).rsplit(".")[-1].lower(): size / GIB for kind, size in peak.items()}
    return {name: round(size, 3) for name, size in names.items() if size}


def step(model: DistilCLIP, optimizer: torch.optim.Optimizer, batch: int, length: int) -> None:
    """One step as `distilclip.train` takes it, without the scaler, which needs next to nothing."""
    vision = model.config.vision
    pixels = torch.empty(
        batch, vision.in_channels, vision.image_size, vision.image_size, dtype=torch.uint8
    )
    tokens = torch.zeros(batch, length, dtype=torch.long)
    pixels = normalise_pixels(pixels, model.config.image_mean, model.config.image_std)
    with torch.autocast("cpu", torch.float16):
        image_embeds = model.embed_image(pixels)
        text_embeds = model.embed_text(tokens, torch.ones_like(tokens))
    loss = contrastive_loss(image_embeds, text_embeds, model.logit_scale)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--length", type=int, default=32, help="tokens a caption is padded to")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, help="where the JSON goes; else it is only printed")
    options = parser.parse_args()
    vision, text = ViTConfig(), DistilBertConfig()
    if options.small:
        vision = ViTConfig(32, 16, dim=64, depth=2, num_heads=2)
        text = DistilBertConfig(vocab_size=100, dim=64, hidden_dim=256, n_layers=1, n_heads=2)
    points = []
    for attention, kernel in KERNELS.items():
        for batch in options.batches:
            with sdpa_kernel(kernel):
                kinds = count(batch, options.length, vision, text)
            points.append({"batch_size": batch, "attention": attention, "gib": kinds})
    rows = [[p["attention"], p["batch_size"], p["gib"]["total"]] for p in points]
    print_table(["attention", "batch", "GiB, counted"], rows)
    if options.out:
        about = {
            "command": "python benchmarks/t4_memory.py",
            "date": date.today().isoformat(),
            "device": "none: counted on fake tensors",
            "torch": version("torch"),
            "precision": "float16",
            "tokens_a_caption": options.length,
        }
        write_text(options.out, json.dumps(about | {"points": points}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
