"""The systems that are trained side by side: ours, `transformers`, `open_clip`, and the original.

Each function of `SYSTEMS` builds one model with random weights and gives its training steps by
name. All steps have the same drawings and captions (`scenes`) in the same order, already decoded
to uint8, and each does the same: draw a batch, tokenise its captions, normalise its pixels,
forward, contrastive loss, backward, AdamW. A step returns the share of its text tokens that is
padding. What differs is each project's own choice:

- DistilCLIP: the preset `t4-drawings` with a ViT-B/16, as `distilclip train` runs it in the second
  half of a run: half of the patches left out, both encoders trained, with augmentation, the mask of
  positives, the clipping of gradients and captions of like length. "text locked" is the step of
  the first half. "every patch" does the whole work, as the peers do.
- original: our preset `original` in float32: captions padded to 64, [CLS] missing, and so on.
- transformers: `VisionTextDualEncoderModel` of `ViTModel` and `DistilBertModel`, with the steps of
  its `Trainer` (gradients clipped, fused AdamW); captions padded to the longest, which is kinder
  than the 128 tokens of its example script. It cannot hold a DistilBERT; `PooledDistilBert` is
  the patch.
- open_clip: its own ViT-B-16, whose text tower (12 layers of 512) has about DistilBERT's size,
  with `ClipLoss` and AdamW as its training script has them; captions padded to 77, the only
  length that it knows.

"same autocast" runs a peer under bfloat16 autocast, with the fused AdamW: our work at our speed.

On a GPU (`device`), batches are drawn on the CPU and sent there.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import torch
from peers import allow_peers
from torch import Tensor, nn
from torch.optim import AdamW
from transformers import (
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging as transformers_logging

from distilclip.data import TrainingPairs, decode_pixels, seeded
from distilclip.runs.settings import TrainConfig
from distilclip.sources.scenes import draw_scenes
from distilclip.storage.pictures import normalise_pixels
from distilclip.storage.weights import find_text_weights
from distilclip.training import draw_batch, prepare_data, start_run, train_step

transformers_logging.disable_progress_bar()
CPU = torch.device("cpu")
HALF = (0.5, 0.5, 0.5)
RATE = 1e-6  # random weights learn nothing worth having here; a small rate keeps losses finite
Steps = dict[str, Callable[[], float]]


@dataclass(frozen=True)
class Sizes:
    """A ViT-B/16 at 224 pixels beside a DistilBERT; `pairs` is how many there are to draw from."""

    image_size: int = 224
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    text_dim: int = 768
    text_depth: int = 6
    text_heads: int = 12
    batch_size: int = 16
    pairs: int = 64


SMALL = Sizes(32, 16, 64, 2, 2, text_dim=64, text_depth=1, text_heads=2, batch_size=4, pairs=16)


def save_random_text(folder: Path, sizes: Sizes) -> None:
    """A DistilBERT with random weights and the tokenizer of MiniLM, which is DistilBERT's own."""
    torch.manual_seed(0)
    config = DistilBertConfig(
        dim=sizes.text_dim,
        hidden_dim=4 * sizes.text_dim,
        n_layers=sizes.text_depth,
        n_heads=sizes.text_heads,
    )
    DistilBertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_text_weights("minilm")[0]).save_pretrained(folder)


def scenes(sizes: Sizes) -> datasets.Dataset:
    """Drawings made by code, each with five captions of some ten words."""
    drawn = draw_scenes(sizes.pairs, "benchmarks", image_size=sizes.image_size)
    return datasets.Dataset.from_list(drawn)


def endless_rows(pairs: TrainingPairs, batch_size: int) -> Iterator[Tensor]:
    """The rows of one batch after the other, epoch after epoch."""
    for epoch in itertools.count():
        yield from pairs.epoch(batch_size, 0, epoch)


class OurSteps:
    """A run of `distilclip train`, ready to take steps."""

    def __init__(self, config: TrainConfig, sizes: Sizes, device: torch.device = CPU):
        self.config = config
        self.run = start_run(config, device)
        for group in self.run.optimizer.param_groups:
            group["lr"] = RATE
        self.data = prepare_data(self.run.model, scenes(sizes), config)

    def make(
        self, precision: str = "", every_patch: bool = False, text_locked: bool = False
    ) -> Callable[[], float]:
        """A step of the preset once its captions learn, or with what is asked for changed."""
        run, precision = self.run, precision or self.run.precision
        data = self.data if text_locked else replace(self.data, features=None)
        patch_dropout = 0.0 if every_patch else self.config.patch_dropout
        rows, count = endless_rows(data.pairs, self.config.batch_size), itertools.count()

        def step() -> float:
            run.precision, run.step = precision, next(count)
            run.model.vision.config.patch_dropout = patch_dropout
            run.model.text.requires_grad_(not text_locked)
            inputs, positives = draw_batch(
                data, next(rows), run.step, self.config, run.model.tokenize
            )
            train_step(run, inputs, positives)
            mask = inputs.captions.get("attention_mask", torch.ones(1))
            return 1 - mask.float().mean().item()

        return step


def shape(sizes: Sizes, text_folder: Path) -> dict:
    """`sizes` in the words of `TrainConfig`."""
    names = ("image_size", "patch_size", "dim", "depth", "num_heads", "batch_size")
    return {name: getattr(sizes, name) for name in names} | {"text_model": str(text_folder)}


def build_distilclip(sizes: Sizes, text_folder: Path, device: torch.device = CPU) -> Steps:
    ours = OurSteps(TrainConfig(preset="t4-drawings", **shape(sizes, text_folder)), sizes, device)
    return {
        "DistilCLIP": ours.make(),
        "DistilCLIP, text locked": ours.make(text_locked=True),
        "DistilCLIP, every patch": ours.make(every_patch=True),
        "DistilCLIP, every patch, float32": ours.make("float32", every_patch=True),
    }


def build_original(sizes: Sizes, text_folder: Path, device: torch.device = CPU) -> Steps:
    config = TrainConfig(preset="original", precision="float32", **shape(sizes, text_folder))
    return {"original": OurSteps(config, sizes, device).make()}


class PooledDistilBert(DistilBertModel):
    """DistilBERT with the pooled output that `VisionTextDualEncoderModel` asks of a text model.

    It reads a second output, BERT's pooler's, which DistilBERT does not have, and passes token
    types and positions, which it does not want. The [CLS] token stands for the pooler's output.
    """

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **unwanted):
        hidden = super().forward(input_ids, attention_mask).last_hidden_state
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=hidden[:, 0])


def transformers_vit(sizes: Sizes, pooler: bool = True) -> ViTModel:
    """`transformers`' own ViT."""
    config = ViTConfig(
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        hidden_size=sizes.dim,
        intermediate_size=4 * sizes.dim,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.num_heads,
    )
    return ViTModel(config, add_pooling_layer=pooler)


def dual_encoder(sizes: Sizes, text_folder: Path) -> VisionTextDualEncoderModel:
    """`transformers`' own pairing of a ViT and a DistilBERT."""
    vision = transformers_vit(sizes)
    text = PooledDistilBert.from_pretrained(text_folder)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision.config, text.config, projection_dim=256
    )
    return VisionTextDualEncoderModel(config, vision, text)


def peer_steps(
    name: str,
    model: nn.Module,
    sizes: Sizes,
    tokenize: Callable[[list[str]], tuple[dict, float]],
    loss_of: Callable[[Tensor, dict], Tensor],
    optimizers: dict[str, torch.optim.Optimizer],
    max_norm: float,
    device: torch.device,
) -> Steps:
    """Steps of a peer in float32 and under autocast, on the same data in the same order as ours.

    `tokenize` gives the text's inputs and the share of padding, `loss_of` the loss of pixels and
    text; `max_norm` is where gradients are clipped, infinite for not at all.
    """
    rows_of_scenes = scenes(sizes)
    pixels = decode_pixels(rows_of_scenes, sizes.image_size, progress=False)
    pairs = TrainingPairs(pixels, rows_of_scenes["captions"])
    model.train()

    def make(optimizer: torch.optim.Optimizer, autocast: bool) -> Callable[[], float]:
        rows, count = endless_rows(pairs, sizes.batch_size), itertools.count()

        def step() -> float:
            drawn = pairs.draw(next(rows), seeded(0, 1, next(count)))
            text, padding = tokenize([pairs.captions[i] for i in drawn.caption_ids.tolist()])
            text = {name: tensor.to(device) for name, tensor in text.items()}
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                loss = loss_of(normalise_pixels(drawn.pixels.to(device), HALF, HALF), text)
            loss.backward()
            if math.isfinite(max_norm):
                nn.utils.clip_grad_norm_(model.parameters(), max_norm)
            optimizer.step()
            loss.item()
            return padding

        return step

    return {
        name: make(optimizers["own"], autocast=False),
        f"{name}, same autocast": make(optimizers["fused"], autocast=True),
    }


def build_transformers(sizes: Sizes, text_folder: Path, device: torch.device = CPU) -> Steps:
    model = dual_encoder(sizes, text_folder).to(device)
    tokenizer = AutoTokenizer.from_pretrained(text_folder)

    def tokenize(captions: list[str]) -> tuple[dict, float]:
        tokens = tokenizer(captions, padding=True, return_tensors="pt", return_token_type_ids=False)
        return dict(tokens), 1 - tokens["attention_mask"].float().mean().item()

    def loss_of(pixels: Tensor, text: dict) -> Tensor:
        return model(pixel_values=pixels, return_loss=True, **text).loss

    fused = AdamW(model.parameters(), lr=RATE, fused=True)  # the Trainer's own choice, too
    both = {"own": fused, "fused": fused}
    return peer_steps("transformers", model, sizes, tokenize, loss_of, both, 1.0, device)


def build_open_clip(sizes: Sizes, text_folder: Path, device: torch.device = CPU) -> Steps:
    allow_peers()
    import open_clip

    config = open_clip.get_model_config("ViT-B-16")
    config["vision_cfg"] |= {
        "image_size": sizes.image_size,
        "patch_size": sizes.patch_size,
        "width": sizes.dim,
        "layers": sizes.depth,
        "head_width": sizes.dim // sizes.num_heads,
    }
    if sizes.text_depth < Sizes.text_depth:  # only to see that it runs
        config["text_cfg"] |= {"width": sizes.text_dim, "heads": 2, "layers": sizes.text_depth}
    model = open_clip.CLIP(**config).to(device)
    tokenizer, clip_loss = open_clip.get_tokenizer("ViT-B-16"), open_clip.ClipLoss()

    def tokenize(captions: list[str]) -> tuple[dict, float]:
        tokens = tokenizer(captions)
        return {"text": tokens}, (tokens == 0).float().mean().item()

    def loss_of(pixels: Tensor, text: dict) -> Tensor:
        return clip_loss(*model(pixels, **text))

    optimizers = {
        "own": AdamW(model.parameters(), lr=RATE),
        "fused": AdamW(model.parameters(), lr=RATE, fused=True),
    }
    return peer_steps("open_clip", model, sizes, tokenize, loss_of, optimizers, math.inf, device)


SYSTEMS = {
    "distilclip": build_distilclip,
    "original": build_original,
    "transformers": build_transformers,
    "open_clip": build_open_clip,
}
