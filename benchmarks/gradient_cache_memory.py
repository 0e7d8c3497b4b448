r"""Peak memory of one training step against the batch size: plain, and with gradient caching.

    python benchmarks/gradient_cache_memory.py \
        --out distilclip/book/results/gradient_cache_memory.json

Every figure comes from a process of its own: its peak resident memory on a CPU (`ru_maxrss`, with
Python and all libraries), PyTorch's peak allocation on a GPU. A step is forward, loss with the
mask of positives, backward, and AdamW, twice, on random pictures that are made a micro-batch at a
time, as a cache on disk would hand them out. `--model cpu` is the model of the preset `cpu`, with
text features computed before; `b16` is ViT-B/16 and a DistilBERT that learns too, in half
precision on a GPU.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import AdamW
from transformers import DistilBertConfig, DistilBertModel

import distilclip
from distilclip.model import DistilCLIP, DistilCLIPConfig
from distilclip.scale import cached_contrastive_backward, chunked_contrastive_loss, gather_positives
from distilclip.text import TextEncoder
from distilclip.vit import ViTConfig

MODELS = {
    "cpu": (
        ViTConfig(48, 8, dim=192, depth=6, num_heads=3, patch_dropout=0.5),
        DistilBertConfig(vocab_size=10, dim=384, hidden_dim=16, n_layers=1),
    ),
    "b16": (ViTConfig(), DistilBertConfig()),
}
# The C library gives freed memory back at once, so that the peak is what was in use.
HAND_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**18), "MALLOC_TRIM_THRESHOLD_": str(2**18)}
TEXT_LENGTH, CAPTIONS_AN_IMAGE, STEPS = 16, 3, 2


class RandomPairs:
    """Micro-batches made on demand, the same ones every time: seed, size, pictures' shape."""

    def __init__(self, batch: int, micro_batch: int, image_size: int, device: torch.device):
        self.sizes = [min(micro_batch, batch - start) for start in range(0, batch, micro_batch)]
        self.image_size, self.device = image_size, device

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        if place >= len(self):
            raise IndexError(place)
        generator, size = torch.Generator().manual_seed(place), self.sizes[place]
        shape = (size, 3, self.image_size, self.image_size)
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        words = torch.randint(10, (size, TEXT_LENGTH), generator=generator)
        return pixels.to(self.device), words.to(self.device)


def build(name: str, device: torch.device) -> DistilCLIP:
    """The model called `name`, with random weights."""
    vision, text = MODELS[name]
    torch.manual_seed(0)
    encoder = TextEncoder(DistilBertModel(text), None, "mean", "random")
    pool = "mean" if name == "cpu" else "first"
    config = DistilCLIPConfig(vision=vision, text_model="random", image_pool=pool)
    return DistilCLIP(config, encoder).to(device)


def measure(name: str, method: str, batch: int, micro_batch: int, device: torch.device) -> dict:
    """Two training steps in this process -> its peak memory in MiB, and the last loss."""
    model = build(name, device).train()
    frozen = name == "cpu"
    model.text.requires_grad_(not frozen)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    on_gpu = device.type == "cuda"
    scaler = torch.amp.GradScaler(device.type, enabled=on_gpu)

    def encode(pairs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        pixels, words = pairs
        with torch.autocast(device.type, dtype=torch.float16, enabled=on_gpu):
            image_embeds = model.embed_image(model.normalise(pixels))
            if frozen:  # stands for features that were computed before
                features = torch.nn.functional.one_hot(words, model.text.dim).sum(dim=1).float()
                return image_embeds, model.embed_text_features(features)
            return image_embeds, model.embed_text(words, torch.ones_like(words))

    pairs = RandomPairs(batch, micro_batch, model.config.vision.image_size, device)
    generator = torch.Generator().manual_seed(0)
    own = torch.randint(10 * batch, (batch, CAPTIONS_AN_IMAGE), generator=generator).to(device)
    positives = gather_positives(own, own[:, 0])
    for _ in range(STEPS):
        optimizer.zero_grad()
        if method == "cached":
            loss = cached_contrastive_backward(encode, pairs, model.logit_scale, positives, scaler)
        else:
            embeds = [torch.cat(side) for side in zip(*map(encode, pairs), strict=True)]
            loss = chunked_contrastive_loss(*embeds, model.logit_scale, positives)
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    if on_gpu:
        peak = torch.cuda.max_memory_allocated(device)
    return {
        "method": method,
        "batch": batch,
        "peak_mib": round(peak / 2**20, 1),
        "loss": round(loss.item(), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--micro-batch", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--plain-batches", type=int, nargs="*", default=[64, 256, 1024])
    parser.add_argument("--out", type=Path, help="where the JSON goes; else it is only printed")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "BATCH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        method, batch = options.one
        device = torch.device(options.device)
        result = measure(options.model, method, int(batch), options.micro_batch, device)
        print(json.dumps(result))
        return

    rows = []
    runs = [("plain", batch) for batch in options.plain_batches]
    runs += [("cached", batch) for batch in options.batches]
    for method, batch in runs:
        arguments = [sys.executable, __file__, "--one", method, str(batch)]
        arguments += ["--model", options.model, "--device", options.device]
        arguments += ["--micro-batch", str(options.micro_batch)]
        output = subprocess.run(
            arguments, env=os.environ | HAND_BACK, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        print(f"{method:6} batch {batch:5}: {rows[-1]['peak_mib']:8.1f} MiB", flush=True)
    cached = {row["batch"]: row["peak_mib"] for row in rows if row["method"] == "cached"}
    largest, smallest = max(cached), min(cached)
    ratio = cached[largest] / cached[smallest]
    print(f"cached, batch {largest} over batch {smallest}: {ratio:.3f}")
    on_gpu = options.device.startswith("cuda")
    result = {
        "command": "python benchmarks/gradient_cache_memory.py " + " ".join(sys.argv[1:]),
        "version": distilclip.__version__,
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {platform.machine()}",
        "measured": "torch.cuda.max_memory_allocated" if on_gpu else "ru_maxrss of the process",
        "model": options.model,
        "micro_batch": options.micro_batch,
        "cached_largest_over_smallest": round(ratio, 4),
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
