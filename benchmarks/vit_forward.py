"""The image tower alone: a ViT-B/16 forward in float32, ours beside `timm` and `transformers`.

    python benchmarks/vit_forward.py

16 pictures of 224 pixels, random weights, no gradients, no head: the tokens after the last norm.
All in one process, in turn. That all do the same work is checked by their number of parameters.
"""

import argparse
from functools import partial

import torch
from peers import allow_peers
from systems import SMALL, Sizes, transformers_vit
from timing import in_turn, print_bars, print_table, rates, run
from torch import nn

from distilclip import ViT, ViTConfig


def timm_vit(sizes: Sizes) -> nn.Module:
    """`timm`'s ViT; its `forward_features` ends where ours ends."""
    allow_peers()
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(
        img_size=sizes.image_size,
        patch_size=sizes.patch_size,
        embed_dim=sizes.dim,
        depth=sizes.depth,
        num_heads=sizes.num_heads,
        num_classes=0,
    )
    vit.forward = vit.forward_features
    return vit


def our_vit(sizes: Sizes) -> nn.Module:
    return ViT(
        ViTConfig(sizes.image_size, sizes.patch_size, 3, sizes.dim, sizes.depth, sizes.num_heads)
    )


@torch.inference_mode()
def measure(options: argparse.Namespace) -> dict:
    sizes = SMALL if options.small else Sizes()
    theirs = partial(transformers_vit, pooler=False)
    builders = {"DistilCLIP": our_vit, "timm": timm_vit, "transformers": theirs}
    vits = {name: build(sizes).eval() for name, build in builders.items()}
    counts = {name: sum(p.numel() for p in vit.parameters()) for name, vit in vits.items()}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"These are not the same model: {counts} parameters.")
    pixels = torch.randn(sizes.batch_size, 3, sizes.image_size, sizes.image_size)
    actions = {name: lambda vit=vit: vit(pixels) for name, vit in vits.items()}
    lines = rates(in_turn(actions, 3 * options.rounds), sizes.batch_size)
    ours = lines["DistilCLIP"]["per_second"]
    print_table(
        ["forward, float32", "images/s", "slowest", "fastest", "ours over it"],
        [[name, *line.values(), ours / line["per_second"]] for name, line in lines.items()],
    )
    best = max(lines[name]["per_second"] for name in ("timm", "transformers"))
    bars = print_bars({"ours over the best peer": (ours / best, 1.0)})
    return {"sizes": vars(sizes), "parameters": counts["timm"], "forward": lines, "bars": bars}


if __name__ == "__main__":
    run(measure, __doc__)
