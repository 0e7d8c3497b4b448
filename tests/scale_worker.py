"""A small model and a small batch, and what each of several processes does with its share.

torchrun scale_worker.py FOLDER: loss and gradients go to a file there. With more arguments they
are those of the command `distilclip`. Either way, the numbers of the processes go to the folder.
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize
from transformers import DistilBertConfig, DistilBertModel

from distilclip import scale
from distilclip.command.cli import main as command
from distilclip.loss import contrastive_loss
from distilclip.model import DistilCLIP, DistilCLIPConfig
from distilclip.text import TextEncoder
from distilclip.vit import ViTConfig

PAIRS, CAPTIONS = 12, 7
# "parallel" sends gradients while the backward pass runs, the others after it
METHODS = ("plain", "cached", "parallel", "parallel cached", "parallel frozen")


def small_clip(dropout: float = 0.0, patch_dropout: float = 0.0) -> DistilCLIP:
    """A small model in float64 with random weights, the same ones every time, in training mode."""
    torch.manual_seed(0)
    text = DistilBertModel(
        DistilBertConfig(
            vocab_size=50,
            dim=16,
            n_layers=1,
            n_heads=2,
            hidden_dim=32,
            dropout=dropout,
            attention_dropout=dropout,
        )
    )
    vision = ViTConfig(
        image_size=16,
        patch_size=4,
        dim=16,
        depth=2,
        num_heads=2,
        dropout=dropout,
        patch_dropout=patch_dropout,
    )
    config = DistilCLIPConfig(vision=vision, text_model="random", embed_dim=8)
    return DistilCLIP(config, TextEncoder(text, None, "mean", "random")).double().train()


def pairs() -> dict[str, torch.Tensor]:
    """Random pictures and token ids, and caption ids of which some images share one."""
    generator = torch.Generator().manual_seed(1)
    own = torch.randint(CAPTIONS, (PAIRS, 3), generator=generator)
    own[::4, 2] = -1
    return {
        "pixel_values": torch.randn(PAIRS, 3, 16, 16, generator=generator, dtype=torch.float64),
        "input_ids": torch.randint(50, (PAIRS, 6), generator=generator),
        "attention_mask": torch.ones(PAIRS, 6, dtype=torch.int64),
        "own": own,
        "drawn": own[:, 0],
    }


def part(batch: dict, rows: slice) -> dict:
    return {name: tensor[rows] for name, tensor in batch.items()}


def encoder(model: DistilCLIP):
    """`encode` for `cached_contrastive_backward`, in float64 to its end."""

    def encode(batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        image_features = model.vision(batch["pixel_values"])[:, 0]
        text_features = model.text(batch["input_ids"], batch["attention_mask"])
        return (
            normalize(model.image_projection(image_features), dim=-1),
            normalize(model.text_projection(text_features), dim=-1),
        )

    return encode


def gradients(model: DistilCLIP) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def main(folder: Path) -> None:
    with scale.process_group(timeout=60) as (rank, world):
        share = PAIRS // world
        batch = part(pairs(), slice(rank * share, (rank + 1) * share))
        positives = scale.gather_positives(batch["own"], batch["drawn"])
        for method in METHODS:
            model = small_clip()
            if rank == 1:
                torch.nn.init.zeros_(model.image_projection.linear.weight)
            scale.broadcast_weights(model)
            if "frozen" in method:
                model.text.requires_grad_(False)
            encode = encoder(model)
            if "parallel" in method:  # small buckets here and below, so that several are needed
                encode = scale.data_parallel(encode, model.children(), bucket_mib=0.004)
            loss = step(encode, model, batch, positives, "cached" in method)
            given = [model.log_logit_scale] if "parallel" in method else model.parameters()
            scale.average_gradients(given, bucket_size=1000)
            found = gradients(model) | {"loss": loss.detach(), "positives": positives}
            save_file(found, folder / f"{method}_{rank}.safetensors")


def step(encode, model: DistilCLIP, batch: dict, positives: torch.Tensor, cached: bool):
    """The loss of the whole batch and this process's gradients, before they are averaged."""
    if cached:
        micro = [part(batch, slice(start, start + 2)) for start in range(0, len(batch["own"]), 2)]
        return scale.cached_contrastive_backward(encode, micro, model.logit_scale, positives)
    embeds = [scale.gather_embeds(side) for side in encode(batch)]
    loss = contrastive_loss(*embeds, model.logit_scale, positives)
    loss.backward()
    return loss


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path(sys.argv[1], f"process_{os.getpid()}").touch()
    sys.exit(command(sys.argv[2:]) if len(sys.argv) > 2 else main(Path(sys.argv[1])))
